"""`coild-repair` cuts off a journal where its damage begins."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from coild.config.parser import EXIT_FAILURE
from coild.rules.events import Event, HistoryPruned, SnapshotTaken
from coild.rules.holding import InconsistentEventError
from coild.rules.projection import Projection
from coild.vocabulary import VOCABULARY
from journal import Custody, JournalCorruptError, JournalUnsupportedError, OsFileSystem
from journal.repair import (
    StraySegmentError,
    Truncation,
    acquire_lock,
    lost_events,
    plan_truncation,
    truncate,
    unrecorded,
)
from tools.arguments import build_parser, journal_directory
from tools.offline_writer import writing
from tools.output import ToolError, UsageError, fail, journal_option
from tools.run import run

EXIT_GOOD = 0

_DANGER = "what they allocated could be given to someone else"

_EPILOG = """\
examples:
  coild-repair --truncate-tail                  show what would be removed, and ask
  coild-repair --truncate-tail --yes            the same without asking
  coild-repair --truncate-tail --journal DIR    a copy: try it there first

The daemon must be stopped. Removed bytes are kept beside the journal's files, and the journal
records the removal. Damage in the archive, or in segments that a snapshot covers, is not repaired:
restore the file from a backup.

exit status: 0 repaired, or nothing to repair; 1 refused, declined or failed (after a failure, run
it again to go on); 2 a wrong option.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `coild-repair`; the exit status."""
    parser = build_parser(
        "coild-repair",
        "Repair a journal that coild refuses to start with, or whose tail is torn.",
        _EPILOG,
        output=False,
    )
    parser.add_argument(
        "--truncate-tail",
        action="store_true",
        help="cut off the journal where the damage begins; it loses all events behind that",
    )
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask for confirmation")
    return run(parser, _run, argv)


def _run(arguments: argparse.Namespace) -> int:
    if not arguments.truncate_tail:
        raise UsageError("say what to repair: there is only --truncate-tail")
    directory = journal_directory(arguments)
    fs = OsFileSystem()
    custody = acquire_lock(fs, directory)
    given_away = False
    try:
        now = time.time_ns()
        truncation = _plan(directory, now)
        if truncation is not None:
            _show(truncation, now)
            if not arguments.yes and not _confirmed():
                return fail(EXIT_FAILURE, "nothing was changed")
            truncate(fs, directory, truncation, now, _still_true(fs, truncation, now))
        elif any(unrecorded(fs, directory)):
            sys.stdout.write("an earlier repair was cut short: what is left of it is its record\n")
        else:
            sys.stdout.write(f"there is nothing to repair in {directory}\n")
            return EXIT_GOOD
        # No other writer comes in between: the journal that is opened now takes over the lock.
        given_away = True
        head = asyncio.run(_record(directory, custody))
    finally:
        if not given_away:
            custody.close()
    sys.stdout.write(f"repaired, head {head}\n")
    return EXIT_GOOD


def _plan(directory: Path, now: int) -> Truncation | None:
    """The plan of the repair. Raises ToolError for damage that cannot be repaired so."""
    try:
        return plan_truncation(OsFileSystem(), directory, VOCABULARY, Projection(), now)
    except StraySegmentError as error:
        raise ToolError(
            f"nothing is to be cut off: {error.file}: {error.reason}; move it to another "
            f"directory, then run: coild-verify {journal_option(directory)}; nothing was "
            "changed"
        ) from None
    except JournalCorruptError as error:
        raise ToolError(
            f"this cannot be repaired by cutting off the tail: {error.file} at offset "
            f"{error.offset}: {error.reason}; restore {error.file} from a backup, then run: "
            f"coild-verify {journal_option(directory)}; nothing was changed"
        ) from None
    except JournalUnsupportedError as error:
        raise ToolError(
            f"{error}; it is not damaged: use the version of coild that wrote it"
        ) from None
    except (InconsistentEventError, ValueError) as error:
        raise ToolError(
            f"the journal in {directory} is whole, but contradicts itself: {error}; nothing was "
            f"changed; run: coild-replay --check {journal_option(directory)}"
        ) from None


def _still_true(fs: OsFileSystem, truncation: Truncation, now: int) -> list[bytes]:
    """Removed events that still hold: the record of the first snapshot, the order to prune.

    Without the record, the snapshot would not be used; without the order, history would seem lost.
    """
    orders = [
        event
        for event in lost_events(fs, truncation.lost, VOCABULARY.schema, Event)
        if isinstance(event, HistoryPruned)
    ]
    newest = max(orders, key=lambda order: order.through, default=None)
    still: list[Event] = [] if newest is None else [newest]
    if truncation.unvouched is not None:
        kept = truncation.unvouched
        digest = bytes.fromhex(kept.digest)
        still.insert(0, SnapshotTaken(now, kept.sequence, digest, kept.file_bytes))
    return [msgspec.msgpack.encode(event) for event in still]


def _show(truncation: Truncation, now: int) -> None:
    write = sys.stdout.write
    write(f"damage: {truncation.reason}\n")
    write(f"the journal would end with event {truncation.last_sequence}. What would go:\n")
    for lost in truncation.lost:
        intact = (
            f"with {lost.frames} intact frames of {lost.events} events"
            if lost.frames
            else "without an intact frame"
        )
        write(f"  {lost.path} from offset {lost.offset}: {lost.size} bytes, {intact}\n")
        write(f"    kept in {lost.path.name}.torn-{now}\n")
    for path in truncation.snapshots:
        write(f"  {path}: a snapshot of events that would go, kept in {path.name}.torn-{now}\n")
    events = sum(lost.events for lost in truncation.lost)
    if events:
        write(f"{events} events that were durable would be lost; {_DANGER}.\n")
    names = " and ".join(
        lost.path.name for lost in truncation.lost if lost.size and not lost.readable
    )
    if names:
        write(
            f"The header of {names} is damaged, so its events cannot be counted: all of them would "
            f"be lost; {_DANGER}. A copy of the file from a backup would save them.\n"
        )
    elif not events:
        write("No event that can be read would be lost.\n")
    sys.stdout.flush()


def _confirmed() -> bool:
    """Ask for confirmation. Raises UsageError if stdin is not a terminal."""
    if not sys.stdin.isatty():
        raise UsageError("there is no terminal to ask at: give --yes; nothing was changed")
    sys.stderr.write("Cut the journal off there? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


async def _record(directory: Path, custody: Custody) -> str:
    """Open the repaired journal, which records the repair; its head."""
    async with writing(directory, custody) as writer:
        pass
    return writer.journal.head


if __name__ == "__main__":
    sys.exit(main())
