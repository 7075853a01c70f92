"""The parser of arguments: the daemon's, the tools' and the installed plugin's, for Python 3.9."""

from __future__ import annotations

import argparse
import errno
import sys
from typing import Any, NoReturn

from coild import __version__

EXIT_FAILURE = 1
EXIT_USAGE = 2


class _PrintCompletion(argparse.Action):
    """Prints the script and exits: what else must be given, need not be for this."""

    def __call__(self, parser: argparse.ArgumentParser, *arguments: Any) -> None:
        _, shell, _ = arguments
        try:
            import shtab  # noqa: PLC0415 - 20 ms that no other call should pay
        except ImportError:
            text = "the installed plugin has no completion: use coild's own coild-ipam"
            parser.exit(EXIT_FAILURE, f"{parser.prog}: {text}\n")
        if sys.stdout is None:
            raise OSError(errno.EBADF, "it was closed")
        print(shtab.complete(parser, shell=shell), end="", flush=True)  # noqa: T201 - it is what was asked for
        parser.exit()


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Breaks no line of help within an option's name."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        import textwrap  # noqa: PLC0415 - as argparse does, for only --help needs it

        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


class Parser(argparse.ArgumentParser):
    """Errors are one line; the version and the script for the shell are there."""

    def __init__(self, prog: str, description: str, epilog: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            formatter_class=_Formatter,
            allow_abbrev=False,
        )
        self.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
        self.add_argument(
            "--print-completion",
            action=_PrintCompletion,
            metavar="SHELL",
            choices=("bash", "zsh", "tcsh"),
            help="print the script that completes this command in bash, zsh or tcsh, and exit",
        )

    def error(self, message: str) -> NoReturn:
        """End with one line on stderr."""
        self.exit(EXIT_USAGE, f"{self.prog}: {message}; see {self.prog} --help\n")
