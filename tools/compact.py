"""`coild-compact`: write a snapshot of the state, and archive the segments that it covers."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import logging
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from coild.audit.times import parse_span
from coild.process.address_file import read_address
from coild.process.open_files import shortage
from coild.rules.events import SCHEMA, Event
from coild.rules.projection import Projection
from coild.rules.units import parse_size
from coild.upkeep.ages import age_now
from coild.upkeep.compaction_plan import CompactionPlan, plan_compaction
from coild.upkeep.compactor import Compaction, Compactor
from coild.upkeep.prune_orders import give_order, order_path
from coild.vocabulary import VOCABULARY
from journal import (
    JournalLockedError,
    OsFileSystem,
    Policy,
    Prepared,
    Reader,
    index_sealed,
    prepare,
)
from journal.read.tail import read_head
from tools.arguments import add_value, build_parser, journal_directory
from tools.offline_writer import writing
from tools.output import ToolError, UsageError, emit, is_json, progress, put
from tools.run import run

PROG = "coild-compact"
_ANSWER_BYTES_MAX = 1 << 20

_EPILOG = """\
If the daemon runs, this asks it to compact (POST /compact); otherwise it compacts by itself.
Only --keep-archive, --keep-size and --delete lose history; what they remove is recorded in the
journal first, and printed.

Ages are measured from the system's time or the newest event, whichever is earlier. If events are
more than a day ahead of the system's clock, or it was set forward by more than that while the
daemon ran (which --dry-run cannot see), --keep-archive is refused unless --trust-clock is given.

examples:
  coild-compact                        write a snapshot, archive the segments that it covers
  coild-compact --dry-run              print what it would do, and the bytes it would free
  coild-compact --keep-archive 90d     also remove archived segments older than 90 days
  coild-compact --keep-size 2GiB       also remove the oldest until the archive has 2 GiB
  coild-compact --delete               also remove the whole archive then

exit status: 0 done; 1 it failed, nothing is lost, and the next run finishes; 2 wrong usage.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `coild-compact`; the exit status."""
    parser = build_parser(
        PROG, "Snapshot the state of a journal, and archive the events that it covers.", _EPILOG
    )
    parser.add_argument("--dry-run", action="store_true", help="print what it would do, do nothing")
    keep = parser.add_argument_group("losing history")
    add_value(keep, "--keep-archive", "DURATION", parse_span, "keep the newest, up to this age")
    add_value(keep, "--keep-size", "SIZE", parse_size, "keep the newest, up to this size")
    keep.add_argument("--delete", action="store_true", help="keep nothing of the archive")
    keep.add_argument(
        "--trust-clock", action="store_true", help="measure ages even if the clocks differ"
    )
    return run(parser, _compact, argv)


def _compact(arguments: argparse.Namespace) -> int:
    # The compactor's messages, wherever it runs.
    logging.basicConfig(format=f"{PROG}: %(message)s")
    policy = _policy(arguments)
    directory = journal_directory(arguments)
    if arguments.dry_run:
        return _show(_dry_run(directory, policy))
    if reason := shortage():
        raise ToolError(reason)
    try:
        done = asyncio.run(_compact_here(directory, policy))
    except JournalLockedError as error:
        done = _ask_daemon(directory, policy, error)
    return _show(done)


def _policy(arguments: argparse.Namespace) -> Policy | None:
    """The archive to keep; None: all of it."""
    if arguments.delete and (arguments.keep_archive, arguments.keep_size) != (None, None):
        raise UsageError(
            "--delete keeps nothing of the archive: give it, or --keep-archive and --keep-size"
        )
    policy = Policy(
        keep_age=arguments.keep_archive,
        keep_bytes=arguments.keep_size,
        delete=arguments.delete,
        trust_clock=arguments.trust_clock,
    )
    return policy if policy.prunes else None


def _show(done: Compaction | CompactionPlan) -> int:
    record = msgspec.to_builtins(done)
    put(record, *_lines(record))
    return 0


def _lines(done: dict[str, Any]) -> Iterator[str]:
    """Lines that say what was done or would be."""
    would = "would be " if "dry-run" in done else ""
    if not would and not done["sequence"]:
        yield "nothing to compact: the journal has no events"
        return
    if done["nothing-new"]:
        yield (
            "nothing new since the last compaction: no snapshot "
            f"{would or 'was '}taken, nothing {would or 'was '}archived"
        )
    if not would:
        yield (
            f"snapshot of the state after event {done['sequence']}, "
            f"{_size(done['snapshot-bytes'])}, digest {done['digest']}"
        )
    yield (
        f"{done['segments']} segments {would}archived: {_size(done['segment-bytes'])} as "
        f"{'about ' if would else ''}{_size(done['archive-bytes'])}"
    )
    if done.get("pruned-segments"):
        yield (
            f"{done['pruned-segments']} archived segments {would}removed by order, the events up "
            f"to {done['pruned-through']}: {_size(done['pruned-bytes'])}"
        )
    elif "order" in done:
        yield f"nothing of the archive {would}removed by {done['order']}"


def _size(size: int) -> str:
    """A size with its unit."""
    for unit, bytes_of_unit in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= bytes_of_unit:
            return f"{size / bytes_of_unit:.1f} {unit}"
    return f"{size} B"


class _Here:
    """A `compactor.Worker` that does the heavy work in this process."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._fs = OsFileSystem()

    async def index(self) -> dict[int, bytes]:
        """`journal.index_sealed`."""
        return await asyncio.to_thread(index_sealed, self._fs, self._directory, VOCABULARY)

    async def prepare(self, through: int) -> Prepared:
        """`journal.prepare`, with its progress on the terminal or as JSON lines."""
        with progress("compacting") as bar:

            def tell(step: str, done: int, total: int) -> None:
                bar(done, total)
                if is_json():
                    emit({"step": step, "done": done, "total": total})

            given = self._fs, self._directory, through, VOCABULARY, Projection()
            return await asyncio.to_thread(prepare, *given, now=time.time_ns(), progress=tell)

    def kill(self) -> None:
        """Nothing to do: the work ends with this process."""


async def _compact_here(directory: Path, policy: Policy | None) -> Compaction:
    """Compact the journal as its writer. Raises JournalLockedError if a daemon runs."""
    async with writing(directory) as writer:
        worker = _Here(directory)
        compactor = Compactor(
            writer.journal,
            writer.record,
            worker,
            directory,
            clock=writer.clock,
            newest=lambda: writer.newest,
            stepped=lambda: 0,
            compact_after=0,
        )
        return await compactor.compact(policy=policy)


def _ask_daemon(directory: Path, policy: Policy | None, locked: JournalLockedError) -> Compaction:
    """Have the daemon compact its journal; returns when it is done."""
    address = _address_in(directory.parent / "http", locked)
    try:
        token = give_order(directory, policy)
    except OSError:
        if policy is not None:
            raise
        # On a full disk, a compaction without an order to prune works over HTTP alone.
        token = ""
    try:
        path = address.removeprefix("unix:")
        host = address if path == address else "localhost"
        with contextlib.closing(http.client.HTTPConnection(host)) as connection:
            if path != address:
                connection.sock = socket.socket(socket.AF_UNIX)
                # An abstract name begins with a NUL, which the file has as @ (unix(7)).
                connection.sock.connect(f"\0{path[1:]}" if path[:1] == "@" else path)
            connection.request("POST", "/compact", msgspec.json.encode({"order": token}))
            answer = connection.getresponse()
            body = answer.read(_ANSWER_BYTES_MAX + 1)
        if len(body) > _ANSWER_BYTES_MAX:
            raise ValueError("its answer is longer than coild's are")
        if answer.status != http.client.OK:
            refusal = msgspec.json.decode(body, type=_Refusal)
            raise ToolError(f"the daemon at {address} refused: {refusal.error}")
        return msgspec.json.decode(body, type=Compaction)
    except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
        raise ToolError(
            f"{locked}, but the daemon at {address} did not answer: {error}; "
            "what it began, the next run finishes"
        ) from None
    finally:
        if token:
            # In any case: an order that was not taken must not wait for a later request.
            order_path(directory, token).unlink(missing_ok=True)


def _address_in(file: Path, locked: JournalLockedError) -> str:
    """The address of the daemon that has the lock, from its file. Raises ToolError."""
    try:
        return read_address(file)
    except OSError as error:
        reason = f"{error.strerror}; is it starting or stopping? try again"
    except ValueError as error:
        reason = f"{error}; coild writes it anew when it is restarted"
    raise ToolError(f"{locked}, and where it listens cannot be read from {file}: {reason}")


class _Refusal(msgspec.Struct):
    error: str


def _dry_run(directory: Path, policy: Policy | None) -> CompactionPlan:
    """The plan of a compaction now, with the daemon or without."""
    fs = OsFileSystem()
    last = newest = 0
    reader = Reader(directory, Event, schema=SCHEMA)
    files = reader.files()
    if files and not files[-1].archived:
        file, found = read_head(fs, directory, SCHEMA)
        last, newest = found.next_sequence - 1, found.time
        if file.first_sequence <= last:
            for batch in reader.batches(last):
                newest = max(newest, batch.events[-1].time)
    now = 0 if policy is None else age_now(policy, time.time_ns(), newest)
    return plan_compaction(fs, directory, last, policy, now)


if __name__ == "__main__":
    sys.exit(main())
