"""Reads holdings from a journal, with its indexes where that is quicker, and shows them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from coild.audit.ledger import Filter, HoldingPeriod, Ledger, Query
from coild.audit.times import format_local, format_utc
from coild.rules.events import AddressAllocated
from coild.rules.projection import Projection
from coild.vocabulary import KEYS, address_key, container_key, pod_key
from journal import JournalCorruptError, Reader, find
from tools.output import Table, emit, is_json, notice, progress

_HEADER = ("ADDRESS", "POD", "CONTAINER", "POOL", "BLOCK", "ALLOCATED", "RELEASED")


def read_ledger(
    reader: Reader,
    query: Query,
    *,
    count: int | None = None,
    before: int | None = None,
    told: bool = False,
) -> Ledger:
    """The ledger of the events before the sequence `before`; at least the `count` newest rows.

    Says on stderr which history is missing, unless `told` already. Raises JournalCorruptError,
    JournalUnsupportedError, OSError.
    """
    ledger, whole, informed = _read(reader, query, reader.first, count, before)
    if whole and reader.first > 1 and not told:
        say_gone(reader, "was pruned, or its files are missing")
    if not informed:
        notice("without a snapshot, who has held since before that is not known")
    return ledger


def say_gone(reader: Reader, what: str) -> None:
    """Say on stderr whether the history before the oldest event was pruned or is missing."""
    notice(f"history before sequence {reader.first} {what}")


def _read(
    reader: Reader, query: Query, first: int, count: int | None, before: int | None
) -> tuple[Ledger, bool, bool]:
    """The ledger, whether it has all of the history, and whether earlier holders are known."""
    keys = _keys(reader, query.filter_)
    files = reader.files()
    # The newest rows need the newest segments only: read until there are enough rows.
    tail = 1 if keys is None and count is not None else len(files)
    while True:
        ledger = Ledger(query)
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
            return ledger, whole, informed
        tail *= 2


def _keys(reader: Reader, filter_: Filter) -> list[bytes] | None:
    """The keys to look up in the indexes; None if reading everything is quicker or necessary."""
    if filter_.container_id is not None:
        return [container_key(filter_.container_id)]
    if filter_.address is not None:
        return [address_key(filter_.address.version, filter_.address.base)]
    if filter_.pod is not None:
        return [pod_key(*filter_.pod)]
    block = filter_.block
    # For each address, chunks of segments are read.
    if block is not None and 2 * block.size <= len(reader.files()):
        return [address_key(block.version, address) for address in range(block.base, block.end)]
    return None


def _find(reader: Reader, keys: list[bytes], start: int) -> Iterable[tuple[int, Any]]:
    with progress("searching") as update:
        yield from find(reader, KEYS, keys, start=start, progress=update)


def _scan(reader: Reader, start: int) -> Iterator[tuple[int, Any]]:
    with progress("reading") as update:
        for batch in reader.batches(start, progress=update):
            yield from enumerate(batch.events, start=batch.first_sequence)


def _expect(reader: Reader, ledger: Ledger) -> bool:
    """Learn the holders at the beginning of the history from a snapshot; False without one."""
    state = Projection()
    try:
        sequence, _ = reader.restore(state.restore)
    except JournalCorruptError:
        return False
    if sequence:
        ledger.expect(state)
    return bool(sequence)


def complete(reader: Reader, row: HoldingPeriod) -> None:
    """Look up the allocation of a holder from before the events that were read."""
    released = row.released_seq
    if row.allocated_seq is not None or released is None:
        return
    with reader.held() as held:
        for sequence, event in find(held, KEYS, container_key(row.container_id), start=held.first):
            if sequence > released:
                break
            if isinstance(event, AddressAllocated):
                row.allocated_at, row.allocated_seq = event.time, sequence


class Output:
    """Rows on stdout, as JSON lines or as a table that can go on."""

    def __init__(self) -> None:
        self._table = Table(_HEADER)

    def show(self, rows: Sequence[HoldingPeriod]) -> None:
        """Write rows; the first call writes the header of a table too."""
        if is_json():
            for row in rows:
                emit(_record(row))
        else:
            sys.stdout.writelines(f"{line}\n" for line in self._table.lines(map(_cells, rows)))


def _cells(period: HoldingPeriod) -> Sequence[str]:
    released = "held" if period.released_at is None else format_local(period.released_at)
    allocated = "unknown" if period.allocated_at is None else format_local(period.allocated_at)
    return (
        period.address,
        period.pod,
        period.container_id,
        period.pool,
        str(period.subnet),
        allocated,
        released,
    )


def _record(period: HoldingPeriod) -> dict[str, Any]:
    allocated, released = period.allocated_at, period.released_at
    return {
        "address": period.address,
        "pool": period.pool,
        "block": str(period.subnet),
        "pod-namespace": period.pod_namespace,
        "pod-name": period.pod_name,
        "container-id": period.container_id,
        "allocated-at": None if allocated is None else format_utc(allocated),
        "released-at": None if released is None else format_utc(released),
        "allocated-seq": period.allocated_seq,
        "released-seq": period.released_seq,
        "reason": period.reason,
    }
