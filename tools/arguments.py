"""The tools' common arguments, and the journal that they name."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from coild.config.config import default_data_dir
from coild.config.layers import ConfigError
from coild.config.parser import Parser
from coild.rules.printable import printable
from tools.output import ToolError, UsageError

#: The largest sequence.
_NUMBER_MAX = (1 << 64) - 1
#: A value like -2h, which argparse would take for an option.
_DASHED = re.compile(r"-[^-]")
#: What argparse says of a long option without its value.
_WITHOUT_VALUE = re.compile(r"argument (?:-\w/)?(--[\w-]+): expected one argument")


class _Parser(Parser):
    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        return super().parse_args(self._joined(sys.argv[1:] if args is None else args), namespace)

    def _joined(self, arguments: Sequence[str]) -> list[str]:
        """`--since -2h` as `--since=-2h`, unless -2 is an option or --since has two values."""
        options = self._option_string_actions
        joined: list[str] = []
        for argument in arguments:
            before = joined[-1] if joined else ""
            action = options.get(before) if before.startswith("--") else None
            takes_one = action is not None and action.nargs is None
            if takes_one and _DASHED.match(argument) and argument[:2] not in options:
                joined[-1] = f"{before}={argument}"
            else:
                joined.append(argument)
        return joined

    def error(self, message: str) -> NoReturn:
        named = _WITHOUT_VALUE.fullmatch(message)
        if named:
            message += f"; if it begins with a dash, write {named[1]}=VALUE"
        super().error(printable(message))


def build_parser(prog: str, description: str, epilog: str, *, output: bool = True) -> Parser:
    """A parser with the options of all tools; with `output`, also --output for JSON."""
    parser = _Parser(prog, description, epilog)
    place = parser.add_mutually_exclusive_group()
    place.add_argument(
        "--data-dir",
        metavar="DIR",
        help="the daemon's data directory; also COILD_DATA_DIR (default: the daemon's default)",
    )
    place.add_argument(
        "--journal", metavar="DIR", help="the journal's own directory, such as a copy of one"
    )
    if output:
        parser.add_argument(
            "-o",
            "--output",
            choices=("table", "json"),
            default="table",
            help="a readable table, or JSON lines with times in UTC (default: table)",
        )
    return parser


def add_value(
    to: argparse._ActionsContainer,
    names: str,
    metavar: str | tuple[str, ...],
    parse: Callable[[str], Any],
    text: str,
    **more: Any,
) -> None:
    """Add an argument that `parse` reads; the text of its ValueError is shown to the user."""

    def read(argument: str) -> Any:
        try:
            return parse(argument)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    to.add_argument(*names.split(), metavar=metavar, type=read, help=text, **more)


def parse_time(text: str) -> int:
    """A time, absolute or relative to now, in ns since the epoch. Raises ValueError."""
    from coild.audit.times import parse_moment  # noqa: PLC0415 - not every tool has times

    return parse_moment(text, time.time_ns())


def parse_number(text: str) -> int:
    """A sequence or a count. Raises ValueError."""
    if not (text.isascii() and text.isdecimal()) or len(text) > 20 or int(text) > _NUMBER_MAX:
        raise ValueError(f"it takes a number like 1200, not {text!r}")
    return int(text)


def journal_directory(arguments: argparse.Namespace) -> Path:
    """The directory of the journal that the arguments name. Raises ToolError if there is none."""
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
