"""Runs a tool: parses its arguments, and turns its errors into lines and exit statuses."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence

from coild.config.parser import EXIT_FAILURE, EXIT_USAGE, Parser
from journal import JournalCorruptError, JournalError, JournalUnsupportedError
from journal.format import journal_of
from tools import output
from tools.output import ToolError, UsageError, fail, journal_option

#: A shell's exit status for a program that SIGINT ended.
EXIT_INTERRUPTED = 130

#: Formats limit how much is read; the memory that a program may have can be less.
NO_MEMORY = "there is not enough memory for it here: run it where there is more"


def run(  # noqa: PLR0911 - one for each way to end
    parser: Parser,
    work: Callable[[argparse.Namespace], int],
    argv: Sequence[str] | None,
    *,
    exit_unreadable: int = EXIT_FAILURE,
) -> int:
    """Call `work` with the arguments; an error is one line and a status, never a traceback.

    `exit_unreadable` is the status for a journal that cannot be read at all.
    """
    output.begin(parser.prog)
    try:
        try:
            arguments = parser.parse_args(argv)
            output.choose(as_json=getattr(arguments, "output", "") == "json")
            status = work(arguments)
        except SystemExit:
            # After --help, --version and --print-completion.
            sys.stdout.flush()
            raise
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of stdout has read enough.
        _give_up_stdout()
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except UsageError as error:
        return fail(EXIT_USAGE, f"{error}; see {parser.prog} --help")
    except (JournalCorruptError, JournalUnsupportedError) as error:
        option = journal_option(journal_of(error.file))
        return fail(exit_unreadable, f"{error}; run: coild-verify {option}")
    except (JournalError, ToolError) as error:
        return fail(exit_unreadable, str(error))
    except MemoryError:
        return fail(exit_unreadable, NO_MEMORY)
    except OSError as error:
        try:
            sys.stdout.flush()
        except OSError:
            _give_up_stdout()
        where = f"{error.filename}: " if error.filename else ""
        return fail(exit_unreadable, f"{where}{error.strerror or error}")
    return status


def _give_up_stdout() -> None:
    """Drop output that cannot be written: Python would report it when it exits."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
