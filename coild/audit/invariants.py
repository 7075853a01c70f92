"""Checks what must be true of every history, by a second set of books beside the projection.

The checker shares no code with what it checks: it parses blocks itself, and finds an address's
holder by address. Each event costs the same, however much is held; only a block is looked up among
all others.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from enum import StrEnum
from typing import Any, NamedTuple

from coild.rules.events import (
    AddressAllocated,
    AddressReleased,
    AttachmentAllocated,
    BlockAcquired,
    BlockReleased,
    HistoryPruned,
    JournalCompacted,
    NodeBooted,
    PoolsChanged,
    ReservingPoolsChanged,
    SegmentsIndexed,
    SnapshotTaken,
)
from coild.rules.holding import Holding
from coild.rules.projection import Projection

#: Width of an address in bits, by the length of its block's key.
_BITS_OF_KEY = {5: 32, 17: 128}
#: Past every address.
_END = 1 << 129
#: As large as a block may be, as an exponent.
_BLOCK_SIZE_MAX = 20


class Invariant(StrEnum):
    """The rules that every history keeps."""

    TIME = "time never runs backwards"
    SUBNET = "pools and blocks are made of valid subnets"
    POOL = "a block is acquired from a pool in force"
    SIZE = "a block has the size of its pool's blocks"
    PLACE = "a block lies in a subnet of its pool"
    OVERLAP = "blocks never overlap"
    HELD_BLOCK = "an address is of a block that the node holds"
    OFFSET = "an address is inside its block"
    APART = "an address that is set apart is not handed out"
    ONE_HOLDER = "an address has one holder"
    ONE_ADDRESS = "a container holds one address"
    BLOCK_POOL = "an event names the pool that its block is of"
    RELEASE = "a release matches its allocation"
    EMPTY = "a block that is released is empty"
    PAST = "a record about the journal speaks of events before it"
    SNAPSHOT = "a snapshot has the digest of the state"
    PROJECTION = "the projection agrees with the books"


class BrokenInvariantError(Exception):
    """The event `sequence` breaks `invariant`; `detail` says how. None: found after the last."""

    def __init__(self, sequence: int, event: Any, invariant: Invariant, detail: str) -> None:
        self.sequence = sequence
        self.event = event
        self.invariant = invariant
        self.detail = detail
        super().__init__(f"event {sequence} breaks an invariant: {invariant}: {detail}")


class _Broken(Exception):  # noqa: N818 - it becomes a BrokenInvariantError, which knows the event
    def __init__(self, invariant: Invariant, detail: str) -> None:
        self.invariant = invariant
        self.detail = detail


class _Range(NamedTuple):
    """The addresses from `base` up to `end`, which is one past the last."""

    bits: int
    base: int
    end: int


class _Block:
    """A block that the node holds, and how many of its addresses are held."""

    __slots__ = ("held", "pool", "range")

    def __init__(self, pool: str, where: _Range) -> None:
        self.pool = pool
        self.range = where
        self.held = 0


class _Entry(NamedTuple):
    """The address that a container was given, and its pod."""

    block: bytes
    offset: int
    pod_namespace: str
    pod_name: str
    #: Empty if it was given for none.
    network: str = ""


class Checker:
    """Takes all events in order, full ones, and raises BrokenInvariantError for the first bad one.

    `digests` has those of the state by sequence, as far as the caller knows them; a snapshot's
    record is compared with them.
    """

    def __init__(self) -> None:
        self.sequence = 0
        self.time = 0
        self.digests: dict[int, bytes] = {}
        self._pools: dict[str, tuple[list[_Range], int]] = {}
        # What is set apart, by pool: disjoint, in ascending order.
        self._apart: dict[str, list[_Range]] = {}
        self._blocks: dict[bytes, _Block] = {}
        # The same blocks by address; no two overlap, so neighbours are all that need be looked at.
        self._ordered: list[_Range] = []
        self._holders: dict[tuple[int, int], str] = {}
        self._containers: dict[str, _Entry] = {}
        self._boot: tuple[str, int | None] = ("", None)

    def begin(self, state: Projection) -> None:
        """Take over the books of a snapshot, before the first event.

        Raises BrokenInvariantError if there is something that no history leads to.
        """
        self.sequence, self.time = state.sequence, state.time
        self._boot = (state.boot_id, state.init_start)
        try:
            for name, pool in state.pools.items():
                ranges = [_range(subnet.key) for subnet in pool.subnets]
                self._pools[name] = (ranges, pool.block_size)
                named = (*pool.reserved, *pool.gateways, *pool.unusable)
                self._apart[name] = _apart(
                    ranges, [span.key for span in named], edges=pool.reserve_edges
                )
            for key, block in state.blocks.items():
                self._insert(key, _Block(block.pool, _range(key)))
            for container_id, held in state.holdings.items():
                self._hold(container_id, _entry(held))
        except _Broken as broken:
            raise BrokenInvariantError(
                self.sequence, None, broken.invariant, broken.detail
            ) from None

    def check(self, event: Any) -> None:
        """Enter the next event into the books. Raises BrokenInvariantError; then it is over."""
        self.sequence += 1
        try:
            if event.time < self.time:
                raise _Broken(
                    Invariant.TIME,
                    f"its time is {self.time - event.time} ns before its predecessor's",
                )
            self.time = event.time
            self._enter(event)
        except _Broken as broken:
            raise BrokenInvariantError(
                self.sequence, event, broken.invariant, broken.detail
            ) from None

    def compare(self, state: Projection) -> None:
        """Compare the books with a projection of the same events. Raises BrokenInvariantError."""
        containers = {container_id: _entry(held) for container_id, held in state.holdings.items()}
        blocks = {key: (block.pool, block.held) for key, block in state.blocks.items()}
        ours = {key: (block.pool, block.held) for key, block in self._blocks.items()}
        for what, theirs, mine in (
            ("the addresses held", containers, self._containers),
            ("the blocks", blocks, ours),
            ("the boots", (state.boot_id, state.init_start), self._boot),
            ("the sequence", state.sequence, self.sequence),
            ("the time", state.time, self.time),
        ):
            if theirs != mine:
                raise BrokenInvariantError(
                    self.sequence, None, Invariant.PROJECTION, f"{what} differ after it"
                )

    def _enter(self, event: Any) -> None:
        match event:
            case AddressAllocated():
                self._allocate(event)
            case AddressReleased():
                self._release(event)
            case BlockAcquired():
                self._acquire(event)
            case BlockReleased():
                self._give_back(event)
            case PoolsChanged():
                self._change_pools(event)
            case NodeBooted():
                self._boot = (event.boot_id, event.init_start)
            case SnapshotTaken():
                self._compare_snapshot(event)
            case JournalCompacted() | HistoryPruned():
                self._past(event.through)
            case SegmentsIndexed():
                # A segment that is sealed ends before what tells of it.
                self._past(max(event.indexes, default=0))
            case _:
                pass  # of the daemon and its files: nothing in the books

    def _change_pools(self, event: PoolsChanged) -> None:
        self._pools, self._apart = {}, {}
        for name, spec in event.pools.items():
            if not 0 <= spec.block_size <= _BLOCK_SIZE_MAX:
                raise _Broken(
                    Invariant.SUBNET, f"pool {name!r} has blocks of 2^{spec.block_size} addresses"
                )
            ranges = list(map(_range, spec.subnets))
            self._pools[name] = (ranges, spec.block_size)
            if isinstance(event, ReservingPoolsChanged) and name in event.apart:
                apart = event.apart[name]
                named = [*apart.reserved, *apart.gateways, *apart.unusable]
                self._apart[name] = _apart(ranges, named, edges=apart.reserve_edges)

    def _compare_snapshot(self, event: SnapshotTaken) -> None:
        self._past(event.sequence)
        known = self.digests.get(event.sequence)
        if known is not None and known != event.digest:
            raise _Broken(
                Invariant.SNAPSHOT,
                f"it says {event.digest.hex()} of the state after event {event.sequence}, "
                f"which has {known.hex()}",
            )

    def _allocate(self, event: AddressAllocated) -> None:
        block = self._block_of(event)
        apart = self._apart.get(block.pool, [])
        bits, address = block.range.bits, block.range.base + event.offset
        place = bisect_right(apart, (bits, address, _END)) - 1
        if place >= 0 and apart[place].bits == bits and address < apart[place].end:
            raise _Broken(
                Invariant.APART, f"offset {event.offset} is set apart in pool {block.pool!r}"
            )
        network = event.network if isinstance(event, AttachmentAllocated) else ""
        self._hold(
            event.container_id,
            _Entry(event.block, event.offset, event.pod_namespace, event.pod_name, network),
        )

    def _release(self, event: AddressReleased) -> None:
        entry = self._containers.get(event.container_id)
        if entry is None:
            raise _Broken(Invariant.RELEASE, f"container {event.container_id!r} holds no address")
        # A release names no network: it is of the one address that the container has.
        said = _Entry(event.block, event.offset, event.pod_namespace, event.pod_name, entry.network)
        for name, mine, theirs in zip(_Entry._fields, entry, said, strict=True):
            if mine != theirs:
                raise _Broken(
                    Invariant.RELEASE,
                    f"its {name.replace('_', ' ')} is {_text(theirs)}, "
                    f"the allocation's was {_text(mine)}",
                )
        block = self._block_of(event)
        del self._containers[event.container_id]
        del self._holders[block.range.bits, block.range.base + event.offset]
        block.held -= 1

    def _acquire(self, event: BlockAcquired) -> None:
        where = _range(event.block)
        if event.pool not in self._pools:
            raise _Broken(Invariant.POOL, f"there is no pool {event.pool!r}")
        subnets, block_size = self._pools[event.pool]
        if where.end - where.base != 1 << block_size:
            raise _Broken(
                Invariant.SIZE,
                f"it has {where.end - where.base} addresses, "
                f"those of pool {event.pool!r} have {1 << block_size}",
            )
        if not any(
            subnet.bits == where.bits and subnet.base <= where.base and where.end <= subnet.end
            for subnet in subnets
        ):
            raise _Broken(Invariant.PLACE, f"no subnet of pool {event.pool!r} has it")
        self._insert(event.block, _Block(event.pool, where))

    def _give_back(self, event: BlockReleased) -> None:
        block = self._block_of(event)
        if block.held:
            raise _Broken(Invariant.EMPTY, f"{block.held} of its addresses are held")
        del self._blocks[event.block]
        del self._ordered[bisect_left(self._ordered, block.range)]

    def _block_of(self, event: AddressAllocated | AddressReleased | BlockReleased) -> _Block:
        """The block that an event is about, if the event says the right pool."""
        block = self._blocks.get(event.block)
        if block is None:
            _range(event.block)
            raise _Broken(Invariant.HELD_BLOCK, "the node does not hold that block")
        if block.pool != event.pool:
            raise _Broken(
                Invariant.BLOCK_POOL, f"it says pool {event.pool!r}, the block is of {block.pool!r}"
            )
        return block

    def _insert(self, key: bytes, block: _Block) -> None:
        where = block.range
        place = bisect_left(self._ordered, where)
        for other in self._ordered[max(0, place - 1) : place + 1]:
            if other.bits == where.bits and other.base < where.end and where.base < other.end:
                raise _Broken(Invariant.OVERLAP, "it shares addresses with a block that is held")
        self._ordered.insert(place, where)
        self._blocks[key] = block

    def _hold(self, container_id: str, entry: _Entry) -> None:
        block = self._blocks[entry.block]
        where = block.range
        if not 0 <= entry.offset < where.end - where.base:
            raise _Broken(Invariant.OFFSET, f"offset {entry.offset} is outside of the block")
        if container_id in self._containers:
            raise _Broken(
                Invariant.ONE_ADDRESS, f"container {container_id!r} holds an address already"
            )
        holder = self._holders.setdefault((where.bits, where.base + entry.offset), container_id)
        if holder != container_id:
            raise _Broken(Invariant.ONE_HOLDER, f"container {holder!r} holds the address")
        self._containers[container_id] = entry
        block.held += 1

    def _past(self, sequence: int) -> None:
        if not 0 <= sequence < self.sequence:
            raise _Broken(Invariant.PAST, f"it speaks of event {sequence}")


def _entry(held: Holding) -> _Entry:
    return _Entry(held.block.key, held.offset, held.pod_namespace, held.pod_name, held.network)


def _range(key: bytes) -> _Range:
    """The addresses of a subnet's key."""
    bits = _BITS_OF_KEY.get(len(key))
    if bits is None or key[-1] > bits:
        raise _Broken(Invariant.SUBNET, f"the bytes {key.hex()} are no subnet")
    base = int.from_bytes(key[:-1], "big")
    size = 1 << (bits - key[-1])
    if base % size:
        raise _Broken(Invariant.SUBNET, f"the subnet {key.hex()} has host bits set")
    return _Range(bits, base, base + size)


def _apart(subnets: list[_Range], named: list[bytes], *, edges: bool) -> list[_Range]:
    """The addresses that a pool sets apart: the keys of spans, and the edges of its subnets."""
    found = []
    for key in named:
        half = len(key) // 2
        if len(key) not in {8, 32} or key[:half] > key[half:]:
            raise _Broken(Invariant.SUBNET, f"the bytes {key.hex()} are no range of addresses")
        first, last = (int.from_bytes(part, "big") for part in (key[:half], key[half:]))
        found.append(_Range(8 * half, first, last + 1))
    for bits, base, end in subnets:
        if edges and end - base > 2:
            # An IPv4 network has a broadcast address, too.
            ends = (base, end - 1) if bits == 32 else (base,)
            found += [_Range(bits, each, each + 1) for each in ends]
    disjoint: list[_Range] = []
    for each in sorted(found):
        if disjoint and disjoint[-1].bits == each.bits and each.base <= disjoint[-1].end:
            disjoint[-1] = disjoint[-1]._replace(end=max(each.end, disjoint[-1].end))
        else:
            disjoint.append(each)
    return disjoint


def _text(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else repr(value)
