"""Who held which address from when to when: the events of addresses, folded to one row a holding.

A holding begins with its allocation and ends before its release: `[allocated, released)`. Where
history was pruned, the beginning of one may be unknown.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import msgspec

from coild.rules.addresses import BITS, Subnet, address_text
from coild.rules.events import AddressAllocated, AddressReleased, AttachmentAllocated
from coild.rules.projection import Projection

#: Of a subnet's key, by IP version.
_KEY_BYTES = {version: bits // 8 + 1 for version, bits in BITS.items()}


class HoldingPeriod(msgspec.Struct, gc=False):
    """A container that holds or held an address. Times are in ns since the epoch.

    What is None has not happened yet, if it is the release, or is unknown, if it is the allocation.
    """

    block: bytes
    offset: int
    pool: str
    pod_namespace: str
    pod_name: str
    container_id: str
    allocated_at: int | None = None
    allocated_seq: int | None = None
    released_at: int | None = None
    released_seq: int | None = None
    #: Of the release.
    reason: str | None = None

    @property
    def subnet(self) -> Subnet:
        """The block that the address is of."""
        return Subnet.from_key(self.block)

    @property
    def address(self) -> str:
        """The address as text."""
        block = self.subnet
        return address_text(block.version, block.base + self.offset)

    @property
    def pod(self) -> str:
        """The pod as people write it."""
        return f"{self.pod_namespace}/{self.pod_name}"

    def held_at(self, moment: int) -> bool:
        """Whether it held the address then."""
        return (self.allocated_at is None or self.allocated_at <= moment) and (
            self.released_at is None or moment < self.released_at
        )

    def held_within(self, since: int | None, until: int | None) -> bool:
        """Whether it held the address at any time of that window; None is no bound."""
        begins = self.allocated_at
        if until is not None and begins is not None and begins > until:
            return False
        if since is None or self.released_at is None or self.released_at > since:
            return True
        # Allocated and released at one time, and that within the window.
        return begins is not None and begins >= since


#: What a filter takes: an event of an address, or a holding.
_OfAddress = AddressAllocated | AddressReleased | HoldingPeriod


class Filter(msgspec.Struct, frozen=True):
    """Which holders are asked for: all that is not None must match."""

    #: One address is a subnet of its own.
    address: Subnet | None = None
    block: Subnet | None = None
    pool: str | None = None
    #: Namespace and name.
    pod: tuple[str, str] | None = None
    container_id: str | None = None

    def accepts(self, it: _OfAddress) -> bool:
        """Whether an event or a holder is asked for."""
        return (
            (self.container_id is None or self.container_id == it.container_id)
            and (self.pool is None or self.pool == it.pool)
            and (self.pod is None or self.pod == (it.pod_namespace, it.pod_name))
            and (self.address is None or _within(it, self.address))
            and (self.block is None or _within(it, self.block))
        )


def _within(it: _OfAddress, subnet: Subnet) -> bool:
    # Called for every event of a journal: numbers alone, no subnet is made.
    block = it.block
    if len(block) != _KEY_BYTES[subnet.version]:
        return False
    place = int.from_bytes(block[:-1], "big") + it.offset - subnet.base
    return 0 <= place < subnet.size


class Query(NamedTuple):
    """Asks for the holders that a filter accepts, within the window from `since` to `until`.

    `held` asks for those alone that hold after the last event: the memory is theirs, however many
    there were before them.
    """

    filter_: Filter
    since: int | None = None
    until: int | None = None
    held: bool = False


class Ledger:
    """The holders that are asked for, while the events are fed to it in order."""

    def __init__(self, query: Query) -> None:
        self._filter, self._since, self._until, self._held = query
        #: Those that hold, by container ID.
        self._holding: dict[str, HoldingPeriod] = {}
        #: In the window, by the sequence of the allocation; so in order.
        self._rows: dict[int, HoldingPeriod] = {}
        #: In the window, with an allocation that was not seen.
        self._older: list[HoldingPeriod] = []
        #: Held later, and no event of theirs seen yet; by container ID.
        self._expected: dict[str, HoldingPeriod] = {}

    def expect(self, later: Projection) -> None:
        """Take the holdings of a later time, before the first event.

        A container that holds then without any event has held since before the events begin.
        """
        for container_id, held in later.holdings.items():
            block = held.block
            period = HoldingPeriod(
                block.key, held.offset, block.pool, held.pod_namespace, held.pod_name, container_id
            )
            if self._filter.accepts(period):
                self._expected[container_id] = period

    def feed(self, sequence: int, event: Any) -> HoldingPeriod | None:
        """Take the next event; the holder that it begins or ends, if that is asked for."""
        kind = type(event)
        begins = kind is AddressAllocated or kind is AttachmentAllocated
        if not (begins or kind is AddressReleased) or not self._filter.accepts(event):
            return None
        return self._begin(sequence, event) if begins else self._end(sequence, event)

    def rows(self) -> list[HoldingPeriod]:
        """The holders within the window by allocation, the newest last; unknown ones first."""
        return [
            *(it for it in self._expected.values() if it.held_within(self._since, self._until)),
            *self._older,
            *self._rows.values(),
        ]

    @property
    def known(self) -> int:
        """How many holders within the window have an allocation that was seen."""
        return len(self._rows)

    def _begin(self, sequence: int, event: AddressAllocated) -> HoldingPeriod | None:
        self._expected.pop(event.container_id, None)
        period = _holder(event)
        period.allocated_at, period.allocated_seq = event.time, sequence
        self._holding[event.container_id] = period
        if not period.held_within(self._since, self._until):
            return None
        self._rows[sequence] = period
        return period

    def _end(self, sequence: int, event: AddressReleased) -> HoldingPeriod | None:
        self._expected.pop(event.container_id, None)
        seen = self._holding.pop(event.container_id, None)
        period = seen or _holder(event)
        period.released_at, period.released_seq = event.time, sequence
        # There are few: one string for all rows.
        period.reason = sys.intern(event.reason)
        within = not self._held and period.held_within(self._since, self._until)
        if seen is None and within:
            self._older.append(period)
        elif period.allocated_seq is not None and not within:
            self._rows.pop(period.allocated_seq, None)
        return period if within else None


def _holder(event: AddressAllocated | AddressReleased) -> HoldingPeriod:
    return HoldingPeriod(
        event.block,
        event.offset,
        event.pool,
        event.pod_namespace,
        event.pod_name,
        event.container_id,
    )
