"""Who held what: read from a journal, with its indexes where that is quicker; and shown."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from coild.events import AddressAllocated
from coild.holders import Holder, Ledger, Question
from coild.moments import format_local, format_utc
from coild.replay import KEYS, State, address_key, container_key, pod_key
from journal import JournalCorruptError, Reader, find
from tools import common

_HEADER = ("ADDRESS", "POD", "CONTAINER", "POOL", "BLOCK", "ALLOCATED", "RELEASED")


class Asked(NamedTuple):
    """A question, the window of time that it is about, and the tool that asks."""

    prog: str
    question: Question
    since: int | None = None
    until: int | None = None


def read_ledger(
    reader: Reader, asked: Asked, *, count: int | None = None, before: int | None = None
) -> Ledger:
    """What the events before the sequence `before` say; at least the `count` newest rows.

    Raises JournalCorruptError, JournalUnsupportedError, OSError.
    """
    keys = _keys(reader, asked.question)
    files = reader.files()
    # The newest rows need the newest segments only; how many, shows when enough are read.
    tail = 1 if keys is None and count is not None else len(files)
    while True:
        ledger = Ledger(asked.question, asked.since, asked.until)
        if tail >= len(files):
            _expect_pruned(reader, ledger, asked.prog)
            found = _scan(reader, None) if keys is None else _find(reader, keys)
        else:
            found = _scan(reader, files[-tail].first_sequence)
        for sequence, event in found:
            if before is not None and sequence >= before:
                break
            ledger.feed(sequence, event)
        if tail >= len(files) or (count is not None and ledger.known >= count):
            return ledger
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
    # Each look-up reads the newest segment, and a chunk of others.
    if block is not None and 2 * block.size <= len(reader.files()):
        return [address_key(block.version, address) for address in range(block.base, block.end)]
    return None


def _find(reader: Reader, keys: list[bytes]) -> Iterable[tuple[int, Any]]:
    with common.progress("searching") as progress:
        if len(keys) == 1:
            yield from find(reader, KEYS, keys[0], progress=progress)
            return
        found = [entry for key in keys for entry in find(reader, KEYS, key)]
    yield from sorted(found, key=lambda entry: entry.sequence)


def _scan(reader: Reader, start: int | None) -> Iterator[tuple[int, Any]]:
    with common.progress("reading") as progress:
        for batch in reader.batches(start, progress=progress):
            yield from enumerate(batch.events, start=batch.first_sequence)


def _expect_pruned(reader: Reader, ledger: Ledger, prog: str) -> None:
    """Say that history does not begin at its beginning, and learn who holds since before."""
    first = first_sequence(reader)
    if first == 1:
        return
    common.notice(prog, f"history before sequence {first} was pruned, or its files are missing")
    state = State()
    try:
        sequence, _ = reader.restore(state.restore)
    except JournalCorruptError:
        sequence = 0
    if sequence:
        ledger.expect(state)
    else:
        common.notice(prog, "without a snapshot, who has held since before that is not known")


def first_sequence(reader: Reader) -> int:
    """That of the oldest event there is: more than 1 if history was pruned."""
    files = reader.files()
    return files[0].first_sequence if files else 1


def complete(reader: Reader, row: Holder) -> None:
    """Look up the allocation of a holder that was allocated before what was read."""
    if row.allocated_seq is not None or row.released_seq is None:
        return
    for sequence, event in find(reader, KEYS, container_key(row.container_id)):
        if sequence > row.released_seq:
            break
        if isinstance(event, AddressAllocated):
            row.allocated_at, row.allocated_seq = event.time, sequence


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
        holder.pod,
        holder.container_id,
        holder.pool,
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
    }
