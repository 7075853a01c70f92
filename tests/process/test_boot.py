"""What a boot is: the kernel's boot ID and the start of PID 1, which have to say the same."""

# expected == actual

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coild.process.boot import Boot, Verdict, compare, read_boot
from tests.kits.system.boot import FakeProc

HOUR = 3600 * 10**9
TICK = 10**7
#: The last allocation or start of the daemon that was, and moments around it.
LAST = 1000 * HOUR
BEFORE, AFTER = LAST - HOUR, LAST + HOUR
SAME, BOOTED = Verdict.SAME, Verdict.BOOTED
ONLY_ID, ONLY_INIT = Verdict.ONLY_ID, Verdict.ONLY_INIT


@pytest.mark.parametrize(
    ("boot_id", "init_start", "began", "known", "expected"),
    [
        # A daemon that starts again.
        ("a", 5, BEFORE, 5, SAME),
        # So it is after a step forward of the wall, which makes PID 1 look younger.
        ("a", 5, AFTER, 5, SAME),
        # The machine was booted; PID 1 starts at the same moment in each boot.
        ("b", 5, AFTER, 5, BOOTED),
        ("b", 6, AFTER, 5, BOOTED),
        # The machine was booted while its clock was wrong: the moment of PID 1 gives it away, or
        # nothing does.
        ("b", 6, BEFORE, 5, BOOTED),
        ("b", 5, BEFORE, 5, ONLY_ID),
        # A node that is a container was restarted; coild is in a container with an init.
        ("a", 9 * HOUR, AFTER, 5, ONLY_INIT),
        ("a", 9 * HOUR, BEFORE, 5, ONLY_INIT),
        # The journal is from before PID 1 was known.
        ("a", 5, BEFORE, None, SAME),
        ("a", 5, AFTER, None, ONLY_INIT),
        ("b", 5, BEFORE, None, ONLY_ID),
        ("b", 5, AFTER, None, BOOTED),
        # PID 1 is coild itself: the start of the kernel counts.
        ("a", None, BEFORE, None, SAME),
        ("a", None, AFTER, None, SAME),
        ("a", None, BEFORE, 5, SAME),
        ("b", None, BEFORE, None, ONLY_ID),
        ("b", None, BEFORE, 5, ONLY_ID),
        ("b", None, AFTER, None, BOOTED),
        ("b", None, AFTER, 5, BOOTED),
    ],
)
def test_every_case(
    boot_id: str, init_start: int | None, began: int, known: int | None, expected: Verdict
) -> None:
    """The table of what is seen and what the journal says, and what follows."""
    assert expected is compare(Boot(boot_id, init_start, began), "a", known, LAST)


@given(
    init_start=st.none() | st.integers(0, 3),
    known=st.none() | st.integers(0, 3),
    began=st.integers(LAST - 3, LAST + 3),
)
def test_the_same_boot_id_is_never_a_boot(
    init_start: int | None, known: int | None, began: int
) -> None:
    """Whatever PID 1 and the clock say, within one boot of the kernel nothing is released."""
    assert BOOTED is not compare(Boot("a", init_start, began), "a", known, LAST)


@given(init_start=st.none() | st.integers(0, 3), began=st.integers(0, LAST))
def test_another_boot_id_alone_is_never_a_boot(init_start: int | None, began: int) -> None:
    """What runs since before the last allocation, and is not known to be another, keeps all."""
    assert ONLY_ID is compare(Boot("b", init_start, began), "a", init_start, LAST)


def test_a_boot_is_read(tmp_path: Path) -> None:
    """PID 1's start is the 22nd field, counted behind a name that may hold anything."""
    proc = FakeProc(tmp_path / "proc", boot_id="an-id", ticks=123)
    boot = read_boot(proc.path, wall=lambda: 100 * HOUR, since_boot=lambda: HOUR)
    start = 123 * 10**9 // os.sysconf("SC_CLK_TCK")

    assert Boot("an-id", start, 99 * HOUR + start) == boot


@pytest.mark.parametrize(
    "damage",
    [
        lambda proc: (proc / "1/stat").unlink(),
        lambda proc: (proc / "1/stat").write_bytes(b""),
        lambda proc: (proc / "1/stat").write_bytes(b"1 (init) S 0 0"),
        lambda proc: (proc / "1/stat").write_bytes(b"1 (init) S" + b" x" * 30),
        lambda proc: (proc / "self").unlink() or (proc / "self").symlink_to("1"),
    ],
    ids=["none", "empty", "short", "words", "itself"],
)
def test_what_is_not_the_runtime_s_pid_1_is_not_known(tmp_path: Path, damage: object) -> None:
    """Without PID 1, or as PID 1, the kernel's own start is what is seen of the boot."""
    proc = FakeProc(tmp_path / "proc", boot_id="an-id", ticks=123)
    damage(proc.path)  # type: ignore[operator]

    assert Boot("an-id", None, 99 * HOUR) == read_boot(
        proc.path, wall=lambda: 100 * HOUR, since_boot=lambda: HOUR
    )


def test_this_machine_s_boot() -> None:
    """On a real system there is an ID, and a start of PID 1 that lies in the past."""
    boot = read_boot(Path("/proc"))

    assert re.fullmatch(r"[0-9a-f-]{36}", boot.boot_id)
    assert boot.began <= time.time_ns() + TICK
    assert SAME is compare(boot, boot.boot_id, boot.init_start, time.time_ns())


def _be_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"\xff\n"),
        lambda path: path.write_text("\u00e4\n"),
        lambda path: os.truncate(path, 60 << 30),
        _be_pipe,
        lambda path: path.unlink() or path.symlink_to("/dev/zero"),
        lambda path: path.unlink() or path.mkdir(),
    ],
    ids=["no UTF-8", "no ASCII", "huge", "pipe", "endless", "directory"],
)
def test_what_is_no_boot_id_is_none(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    """`--proc` may name any directory: what lies there takes neither memory nor time."""
    proc = FakeProc(tmp_path / "proc", boot_id="an-id", ticks=123)
    for path in (proc.path / "sys/kernel/random/boot_id", proc.path / "1/stat"):
        damage(path)

    assert Boot("", None, 99 * HOUR) == read_boot(
        proc.path, wall=lambda: 100 * HOUR, since_boot=lambda: HOUR
    )
