"""What every tool shares: where the journal is, how data, notices and errors come out."""

from __future__ import annotations

import argparse
import codecs
import contextlib
import io
import json
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from coild import __version__
from coild.config.config import default_data_dir
from coild.config.layers import ConfigError
from coild.rules.printable import printable, printable_json
from journal import JournalCorruptError, JournalError, JournalUnsupportedError
from journal.format import journal_of

EXIT_FAILURE = 1
EXIT_USAGE = 2
#: What a shell says of a program that SIGINT ended.
EXIT_INTERRUPTED = 130

#: What is read is bounded by its format; what a program may have can be less.
NO_MEMORY = "there is not enough memory for it here: run it where there is more"

#: A value like -2h, which argparse would take for an option.
_DASHED = re.compile(r"-[^-]")
#: What argparse says then of a long option that takes one.
_WITHOUT_VALUE = re.compile(r"argument (?:-\w/)?(--[\w-]+): expected one argument")

#: Shown on long work only.
_PROGRESS_AFTER_SECONDS = 0.5


class UsageError(Exception):
    """What was asked for makes no sense; one line that says what would."""


class ToolError(Exception):
    """The tool cannot do what was asked; one line that says why and what to do."""


class _Parser(argparse.ArgumentParser):
    """Errors are one line."""

    def error(self, message: str) -> NoReturn:
        named = _WITHOUT_VALUE.fullmatch(message)
        if named:
            message += f"; if it begins with a dash, write {named[1]}=VALUE"
        self.exit(EXIT_USAGE, f"{self.prog}: {printable(message)}; see {self.prog} --help\n")


def build_parser(prog: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """A parser with the options that all tools have."""
    parser = _Parser(
        prog=prog,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    place = parser.add_mutually_exclusive_group()
    place.add_argument(
        "--data-dir",
        metavar="DIR",
        help="the daemon's data directory, also COILD_DATA_DIR (default: as the daemon's)",
    )
    place.add_argument(
        "--journal", metavar="DIR", help="the journal itself, like a bare copy of one"
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument(
        "--print-completion",
        metavar="SHELL",
        choices=("bash", "zsh", "tcsh"),
        help="print the script that completes this command in bash, zsh or tcsh, and exit",
    )
    return parser


def add_output(parser: argparse.ArgumentParser) -> None:
    """The choice between a table for people and JSON lines for scripts."""
    parser.add_argument(
        "-o",
        "--output",
        choices=("table", "json"),
        default="table",
        help="a table for people, or JSON lines with times in UTC (default: table)",
    )


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; prints the completion script and exits if that is asked for."""
    _open_streams()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "--print-completion" in arguments or any(
        argument.startswith("--print-completion=") for argument in arguments
    ):
        # Before the rest is parsed: what else must be given, need not be for this.
        finder = _Parser(prog=parser.prog, add_help=False, allow_abbrev=False)
        finder.add_argument("--print-completion", choices=("bash", "zsh", "tcsh"), required=True)
        shell = finder.parse_known_args(arguments)[0].print_completion
        import shtab  # noqa: PLC0415 - 20 ms that no other call should pay

        sys.stdout.write(shtab.complete(parser, shell=shell))
        sys.stdout.flush()
        sys.exit(0)
    return parser.parse_args(_joined(parser, arguments))


def _joined(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """`--since -2h` as `--since=-2h`, unless there is an option -2 or --since has two values."""
    options = parser._option_string_actions  # noqa: SLF001 - no public name tells what there is
    joined: list[str] = []
    for argument in arguments:
        before = joined[-1] if joined else ""
        takes_one = before.startswith("--") and before in options and options[before].nargs is None
        if takes_one and _DASHED.match(argument) and argument[:2] not in options:
            joined[-1] = f"{before}={argument}"
        else:
            joined.append(argument)
    return joined


def journal_directory(arguments: argparse.Namespace) -> Path:
    """The journal that is meant. Raises ToolError if there is none."""
    if arguments.journal == "" or arguments.data_dir == "":
        raise UsageError("an empty directory name is none")
    if arguments.journal is not None:
        directory = Path(arguments.journal)
    else:
        data_dir = arguments.data_dir or os.environ.get("COILD_DATA_DIR")
        try:
            directory = Path(data_dir or default_data_dir(os.environ)).expanduser() / "journal"
        except (ConfigError, RuntimeError) as error:
            raise UsageError(str(error)) from None
    try:
        names = [entry.name for entry in directory.iterdir()]
    except OSError as error:
        raise ToolError(
            f"cannot read the journal in {directory}: {error.strerror}; name another with "
            "--data-dir DIR or --journal DIR"
        ) from None
    except ValueError as error:
        raise UsageError(f"{str(directory)!r} is no path: {error}") from None
    if not any(name.endswith((".seg", ".snap")) for name in names):
        raise ToolError(
            f"there is no journal in {directory}; name another with --data-dir DIR or --journal DIR"
        )
    return directory


def run(prog: str, main: Callable[[], int], *, exit_unreadable: int = EXIT_FAILURE) -> int:  # noqa: PLR0911 - one for each way to end
    """Call `main`, and make what it raises a line and an exit status; never a traceback.

    `exit_unreadable` is the status for a journal that cannot be read at all.
    """
    try:
        status = _status(main)
    except BrokenPipeError:
        # Whoever read has what they wanted.
        _give_up_stdout()
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except UsageError as error:
        return fail(prog, EXIT_USAGE, f"{error}; see {prog} --help")
    except (JournalCorruptError, JournalUnsupportedError) as error:
        return fail(
            prog,
            exit_unreadable,
            f"{error}; run: coild-verify {journal_option(journal_of(error.file))}",
        )
    except (JournalError, ToolError) as error:
        return fail(prog, exit_unreadable, str(error))
    except MemoryError:
        return fail(prog, exit_unreadable, NO_MEMORY)
    except OSError as error:
        try:
            sys.stdout.flush()
        except OSError:
            _give_up_stdout()
        where = f"{error.filename}: " if error.filename else ""
        return fail(prog, exit_unreadable, f"{where}{error.strerror or error}")
    return status


def _status(main: Callable[[], int]) -> int:
    """What `main` returns, when all that it wrote is out; also if it exits by itself."""
    try:
        status = main()
    except SystemExit:
        # After --help, --version and --print-completion.
        sys.stdout.flush()
        raise
    sys.stdout.flush()
    return status


def _give_up_stdout() -> None:
    """Let what cannot be written go: Python would complain of it when it exits."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _open_streams() -> None:
    """Give whoever closed stdin, stdout or stderr an empty one: writing to it is no error.

    What the terminal or the locale cannot show, like a file's name that is no UTF-8, is escaped.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - for good
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def fail(prog: str, status: int, text: str) -> int:
    """Say on stderr what is wrong; the exit status."""
    notice(prog, text)
    return status


def journal_option(directory: Path) -> str:
    """The option that names a journal, as a shell takes it."""
    name = shlex.quote(str(directory))
    return f"--journal={name}" if name.startswith("-") else f"--journal {name}"


def notice(prog: str, text: str, *more: str) -> None:
    """Say something on stderr, in one line, and in further lines what else there is to say."""
    with contextlib.suppress(OSError):
        sys.stderr.writelines(f"{printable(line)}\n" for line in (f"{prog}: {text}", *more))
        sys.stderr.flush()


def emit(record: Any) -> None:
    """One JSON line on stdout, which is UTF-8 unless the locale is not."""
    try:
        line = msgspec.json.encode(record).decode()
    except UnicodeEncodeError:
        # The name of a file may be any bytes; JSON has none for those.
        line = msgspec.json.encode(_escaped(msgspec.to_builtins(record))).decode()
    if not line.isascii() and not _takes_unicode():
        line = json.dumps(json.loads(line))
    sys.stdout.write(printable_json(line) + "\n")


def _takes_unicode() -> bool:
    """Whether stdout can write every character as itself."""
    encoding = getattr(sys.stdout, "encoding", None)
    return encoding is None or codecs.lookup(encoding).name.startswith("utf")


def _escaped(value: Any) -> Any:
    r"""A value in which bytes that are no UTF-8 stand like \xff."""
    match value:
        case str():
            return os.fsencode(value).decode(errors="backslashreplace")
        case dict():
            return {key: _escaped(item) for key, item in value.items()}
        case list() | tuple():
            return [_escaped(item) for item in value]
    return value


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Lines of columns that are as wide as they must be."""
    everything = [header, *(list(map(printable, row)) for row in rows)]
    widths = [max(len(row[column]) for row in everything) for column in range(len(header))]
    for row in everything:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


@contextlib.contextmanager
def progress(what: str, unit: str = " segments") -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr, if that is a terminal and the work is long.

    Gives a function that takes what is done and what there is.
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
