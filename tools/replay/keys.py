"""`coild-replay --step` at a terminal: each key is a step, or a leap."""

from __future__ import annotations

import os
import sys
import termios
import tty

from tools.output import ToolError, notice
from tools.replay.step import Step, Timeline, show

HELP = "n, space or enter: next event; p or b: back; g SEQ: go to an event; q: quit"

_ARROWS = {b"[A": "p", b"[D": "p", b"[B": "n", b"[C": "n"}


def interact(timeline: Timeline) -> None:
    """Step by the keys that are typed at the terminal."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        # Keys typed ahead count.
        tty.setcbreak(descriptor, termios.TCSADRAIN)
        notice(HELP)
        while _obey(timeline, _key(descriptor), descriptor):
            sys.stdout.flush()
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _obey(timeline: Timeline, key: str, descriptor: int) -> bool:
    """Carry out a key's command; whether to go on."""
    step: Step | None
    try:
        match key:
            case "" | "q" | "\x04":
                return False
            case "n" | " " | "\n" | "\r":
                step = timeline.forward()
                missing = "" if step else timeline.end()
            case "p" | "b":
                step = timeline.back()
                missing = "this is the beginning of the journal"
            case "g":
                step = timeline.go(_number(descriptor))
                missing = ""
            case _:
                notice(HELP)
                return True
    except ToolError as error:
        notice(str(error))
        return True
    if step is None:
        notice(missing)
    else:
        show(step)
    return True


def _key(descriptor: int) -> str:
    """The next key; the empty string at the end of input."""
    key = os.read(descriptor, 1)
    if key == b"\x1b":
        return _ARROWS.get(os.read(descriptor, 2), "?")
    return key.decode("latin-1")


def _number(descriptor: int) -> int:
    """The sequence that is typed up to Enter. Raises ToolError if it is not a number."""
    typed = ""
    _echo("g")
    while (key := _key(descriptor)) not in {"", "\n", "\r"}:
        if key not in {"\x7f", "\b"}:
            typed += key
            _echo(key if key.isprintable() else "?")
        elif typed:
            typed = typed[:-1]
            _echo("\b \b")
    _echo("\n")
    if not typed.strip().isdecimal() or len(typed) > 20:
        raise ToolError("write g, a sequence and Enter, like g 1200")
    return int(typed)


def _echo(text: str) -> None:
    """Show typed characters, since the terminal does not."""
    sys.stdout.write(text)
    sys.stdout.flush()
