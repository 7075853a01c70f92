"""Who held what: read from a journal, with its indexes where that is quicker; and shown."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from coild.audit.ledger import Holder, Ledger, Question
from coild.audit.times import format_local, format_utc
from coild.rules.events import AddressAllocated
from coild.rules.printable import printable
from coild.vocabulary import KEYS, State, address_key, container_key, pod_key
from journal import JournalCorruptError, Reader, find
from tools import common
from tools.remaining import Remaining

_HEADER = ("ADDRESS", "POD", "CONTAINER", "POOL", "BLOCK", "ALLOCATED", "RELEASED")


class Asked(NamedTuple):
    """A question, the window of time that it is about, and whether only of those who still hold."""

    question: Question
    since: int | None = None
    until: int | None = None
    held: bool = False

    def ledger(self) -> Ledger:
        """One that keeps what is asked for, and knows of nothing yet."""
        return Ledger(self.question, self.since, self.until, held=self.held)


class _Read(NamedTuple):
    """A ledger, whether all of the history went into it, and whether who held before is known."""

    ledger: Ledger
    whole: bool
    informed: bool


def read_ledger(
    history: Remaining, asked: Asked, *, count: int | None = None, before: int | None = None
) -> Ledger:
    """What the events before the sequence `before` say; at least the `count` newest rows.

    Says what is missing on stderr. Raises JournalCorruptError, JournalUnsupportedError, OSError.
    """
    read = history.read(lambda first: _read(history.reader, asked, first, count, before))
    history.say_pruned()
    if read.whole:
        history.say_missing()
    if not read.informed:
        common.notice(
            history.prog, "without a snapshot, who has held since before that is not known"
        )
    return read.ledger


def _read(reader: Reader, asked: Asked, first: int, count: int | None, before: int | None) -> _Read:
    keys = _keys(reader, asked.question)
    files = reader.files()
    # The newest rows need the newest segments only; how many, shows when enough are read.
    tail = 1 if keys is None and count is not None else len(files)
    while True:
        ledger = asked.ledger()
        whole = tail >= len(files) or files[-tail].first_sequence <= first
        informed = True
        if whole:
            informed = first == 1 or _expect(reader, ledger)
            found = _scan(reader, first) if keys is None else _find(reader, keys, first)
        else:
            found = _scan(reader, files[-tail].first_sequence)
        for sequence, event in found:
            if before is not None and sequence >= before:
                break
            ledger.feed(sequence, event)
        if whole or (count is not None and ledger.known >= count):
            return _Read(ledger, whole, informed)
        tail *= 2


def _keys(reader: Reader, question: Question) -> list[bytes] | None:
    """What to look up in the indexes; None if reading everything is quicker, or the only way."""
    if question.container_id is not None:
        return [container_key(question.container_id)]
    if question.address is not None:
        return [address_key(question.address.version, question.address.base)]
    if question.pod is not None:
        return [pod_key(*question.pod)]
    block = question.block
    # For each address, chunks of segments are read.
    if block is not None and 2 * block.size <= len(reader.files()):
        return [address_key(block.version, address) for address in range(block.base, block.end)]
    return None


def _find(reader: Reader, keys: list[bytes], start: int) -> Iterable[tuple[int, Any]]:
    with common.progress("searching") as progress:
        yield from find(reader, KEYS, keys, start=start, progress=progress)


def _scan(reader: Reader, start: int) -> Iterator[tuple[int, Any]]:
    with common.progress("reading") as progress:
        for batch in reader.batches(start, progress=progress):
            yield from enumerate(batch.events, start=batch.first_sequence)


def _expect(reader: Reader, ledger: Ledger) -> bool:
    """Learn from a snapshot who has held since before the history begins; False without one."""
    state = State()
    try:
        sequence, _ = reader.restore(state.restore)
    except JournalCorruptError:
        return False
    if sequence:
        ledger.expect(state)
    return bool(sequence)


def complete(history: Remaining, row: Holder) -> None:
    """Look up the allocation of a holder that was allocated before what was read."""
    released = row.released_seq
    if row.allocated_seq is not None or released is None:
        return
    key = container_key(row.container_id)

    def look(first: int) -> tuple[int | None, int | None]:
        allocated_at = allocated_seq = None
        for sequence, event in find(history.reader, KEYS, key, start=first):
            if sequence > released:
                break
            if isinstance(event, AddressAllocated):
                allocated_at, allocated_seq = event.time, sequence
        return allocated_at, allocated_seq

    row.allocated_at, row.allocated_seq = history.read(look)
    history.say_pruned()


class Output:
    """Rows on stdout, as JSON lines or as a table that can go on."""

    def __init__(self, *, json: bool) -> None:
        self._json = json
        self._widths: list[int] | None = None

    def show(self, rows: Sequence[Holder]) -> None:
        """Write rows; before the first ones of a table its header."""
        if self._json:
            for row in rows:
                common.emit(_record(row))
            return
        lines = [*([] if self._widths else [_HEADER]), *map(_cells, rows)]
        widths = self._widths or [0] * len(_HEADER)
        self._widths = [
            max(width, *(len(line[column]) for line in lines)) if lines else width
            for column, width in enumerate(widths)
        ]
        for line in lines:
            cells = (cell.ljust(width) for cell, width in zip(line, self._widths, strict=True))
            sys.stdout.write("  ".join(cells).rstrip() + "\n")


def _cells(holder: Holder) -> Sequence[str]:
    released = "held" if holder.released_at is None else format_local(holder.released_at)
    allocated = "unknown" if holder.allocated_at is None else format_local(holder.allocated_at)
    return (
        holder.address,
        printable(holder.pod),
        printable(holder.container_id),
        printable(holder.pool),
        str(holder.subnet),
        allocated,
        released,
    )


def _record(holder: Holder) -> dict[str, Any]:
    allocated, released = holder.allocated_at, holder.released_at
    return {
        "address": holder.address,
        "pool": holder.pool,
        "block": str(holder.subnet),
        "pod-namespace": holder.pod_namespace,
        "pod-name": holder.pod_name,
        "container-id": holder.container_id,
        "allocated-at": None if allocated is None else format_utc(allocated),
        "released-at": None if released is None else format_utc(released),
        "allocated-seq": holder.allocated_seq,
        "released-seq": holder.released_seq,
        "reason": holder.reason,
    }
