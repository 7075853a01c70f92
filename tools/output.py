"""Output of the tools: one record per line on stdout, notices and errors on stderr."""

from __future__ import annotations

import codecs
import contextlib
import io
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from coild.rules.printable import printable, printable_json

#: The progress bar is shown for long work only.
_PROGRESS_AFTER_SECONDS = 0.5


class UsageError(Exception):
    """The command line is wrong; one line that says how to correct it."""


class ToolError(Exception):
    """The tool cannot do its work; one line that says why and what to do."""


#: The process's one command: its name, and whether its output is JSON.
_program = ""
_as_json = False


def begin(program: str) -> None:
    """Prefix messages with this command's name; works even if a standard stream is closed.

    Writing to a closed stream is not an error. Characters that the terminal or the locale cannot
    show, such as those of a file name that is not UTF-8, are escaped.
    """
    global _program  # noqa: PLW0603 - set once
    _program = program
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - for good
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def notice(text: str, *more: str) -> None:
    """Print a line on stderr, and further lines below it."""
    with contextlib.suppress(OSError):
        sys.stderr.writelines(f"{printable(line)}\n" for line in (f"{_program}: {text}", *more))
        sys.stderr.flush()


def fail(status: int, text: str) -> int:
    """Print an error on stderr; the exit status."""
    notice(text)
    return status


def journal_option(directory: Path) -> str:
    """The option that names a journal, quoted for a shell."""
    name = shlex.quote(str(directory))
    return f"--journal={name}" if name.startswith("-") else f"--journal {name}"


def choose(*, as_json: bool) -> None:
    """Choose JSON or text."""
    global _as_json  # noqa: PLW0603 - set once
    _as_json = as_json


def is_json() -> bool:
    """Whether the output is JSON."""
    return _as_json


def put(record: Any, *lines: str) -> None:
    """Write data to stdout: the record as a JSON line, or the lines of text."""
    if _as_json:
        emit(record)
    else:
        sys.stdout.writelines(f"{line}\n" for line in lines)


def emit(record: Any) -> None:
    """One JSON line on stdout, which is UTF-8 unless the locale is not."""
    try:
        line = msgspec.json.encode(record).decode()
    except UnicodeEncodeError:
        # A file name may be any bytes, which JSON cannot represent.
        line = msgspec.json.encode(_escaped(msgspec.to_builtins(record))).decode()
    if not line.isascii() and not _takes_unicode():
        line = json.dumps(json.loads(line))
    sys.stdout.write(printable_json(line) + "\n")


def _takes_unicode() -> bool:
    """Whether stdout can write every character as itself."""
    encoding = getattr(sys.stdout, "encoding", None)
    return encoding is None or codecs.lookup(encoding).name.startswith("utf")


def _escaped(value: Any) -> Any:
    r"""A value in which bytes that are not UTF-8 are written like \xff."""
    match value:
        case str():
            return os.fsencode(value).decode(errors="backslashreplace")
        case dict():
            return {key: _escaped(item) for key, item in value.items()}
        case list() | tuple():
            return [_escaped(item) for item in value]
    return value


class Table:
    """Rows in columns that are as wide as necessary, and keep their width when more rows come."""

    def __init__(self, header: Sequence[str]) -> None:
        self._header: Sequence[str] | None = header
        self._widths = [0] * len(header)

    def lines(self, rows: Iterable[Sequence[str]]) -> Iterator[str]:
        """The lines of these rows; the first call adds the header."""
        cells = [list(map(printable, row)) for row in rows]
        if self._header:
            cells.insert(0, list(self._header))
            self._header = None
        for row in cells:
            self._widths = list(map(max, self._widths, map(len, row)))
        for row in cells:
            yield "  ".join(map(str.ljust, row, self._widths)).rstrip()


@contextlib.contextmanager
def progress(what: str, unit: str = " segments") -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr, if that is a terminal and the work is long.

    Gives a function that takes the part that is done, and the whole.
    """
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from coild.process.bars import tqdm  # noqa: PLC0415 - only for who watches

    with tqdm(desc=what, unit=unit, leave=False, delay=_PROGRESS_AFTER_SECONDS) as bar:

        def update(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield update
