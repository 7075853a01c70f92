"""State as a fold over the events: `apply` is the only code that changes it.

The same code runs in the daemon, in a replay and in every tool. It accepts any consistent history,
not only one that today's allocator would make: which address comes next is a rule, and rules may
change; that an address has one holder may not.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec

from coild.addresses import Pool, Subnet, address_text
from coild.events import (
    AddressAllocated,
    AddressReleased,
    Allocation,
    BlockAcquired,
    BlockReleased,
    DaemonStarted,
    DaemonStopped,
    HistoryPruned,
    JournalCompacted,
    JournalRepaired,
    PoolsChanged,
    PoolSpec,
    Release,
    SnapshotTaken,
)


class InconsistentEventError(Exception):
    """An event contradicts the events before it: the journal was not written by these rules."""


class Block:
    """One block that the node holds, and what is free in it.

    Offsets below `fresh` have been used; of those, `released` has the free ones as pairs of offset
    and time of release, oldest first. All others are held.
    """

    __slots__ = (
        "acquired",
        "base",
        "fresh",
        "in_force",
        "key",
        "pool",
        "released",
        "size",
        "version",
    )

    def __init__(self, key: bytes, pool: str, time: int) -> None:
        subnet = Subnet.from_key(key)
        self.key = key
        self.pool = pool
        self.version = subnet.version
        self.base = subnet.base
        self.size = subnet.size
        self.fresh = 0
        self.released: deque[tuple[int, int]] = deque()
        self.acquired = time
        #: Whether the pools of the configuration still have it.
        self.in_force = True

    @property
    def held(self) -> int:
        """How many of its addresses are held."""
        return self.fresh - len(self.released)

    @property
    def idle_since(self) -> int:
        """Since when no address is held. Means nothing while one is."""
        return self.released[-1][1] if self.released else self.acquired

    @property
    def subnet(self) -> Subnet:
        """The block as a subnet."""
        return Subnet.from_key(self.key)

    @property
    def next_offset(self) -> int:
        """The free offset that is to be used next: a fresh one, or the one released longest ago.

        Raises IndexError if none is free.
        """
        return self.fresh if self.fresh < self.size else self.released[0][0]

    def text(self, offset: int) -> str:
        """The address at `offset`."""
        return address_text(self.version, self.base + offset)

    def take(self, offset: int) -> None:
        """Make a free offset held, whichever it is."""
        if self.fresh <= offset < self.size:
            # Those that were skipped stay as good as fresh: released longest ago.
            skipped = [(skipped, 0) for skipped in range(self.fresh, offset)]
            self.released.extendleft(reversed(skipped))
            self.fresh = offset + 1
            return
        for entry in self.released:
            if entry[0] == offset:
                self.released.remove(entry)
                return
        raise InconsistentEventError(
            f"{self.text(offset)} is held already"
            if 0 <= offset < self.size
            else f"offset {offset} is outside of {self.subnet}"
        )


class Holding(msgspec.Struct, frozen=True, gc=False):
    """A container's address: an offset into a block, and the pod that the container is of."""

    block: Block
    offset: int
    pod_namespace: str
    pod_name: str

    @property
    def address(self) -> str:
        """The address as text."""
        return self.block.text(self.offset)


class _Dump(msgspec.Struct, array_like=True):
    """A state as a snapshot has it: blocks by age, addresses by container ID."""

    pools: dict[str, PoolSpec]
    #: Key, pool, fresh, released, acquired.
    blocks: list[tuple[bytes, str, int, list[tuple[int, int]], int]]
    #: Container ID, the block's place in the list above, offset, pod namespace, pod name.
    holdings: list[tuple[str, int, int, str, str]]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Dump).decode


class Projection:
    """What the events so far add up to."""

    def __init__(self) -> None:
        self.pools: dict[str, Pool] = {}
        #: In the order in which they were acquired.
        self.blocks: dict[bytes, Block] = {}
        #: By container ID.
        self.holdings: dict[str, Holding] = {}
        #: The sequence and the time of the last event applied.
        self.sequence = 0
        self.time = 0

    def apply(self, event: Any) -> None:
        """Apply the next event. Raises InconsistentEventError; the state is of no use then."""
        self.apply_all((event,))

    def apply_all(self, events: Sequence[Any]) -> None:  # noqa: C901
        """Apply the next events, in order; raises as `apply` does.

        The two common ones are spelled out: at millions a second, a call for each is a third of
        the time.
        """
        find = self.blocks.get
        hold, pop = self.holdings.setdefault, self.holdings.pop
        for event in events:
            kind = type(event)
            if kind is Allocation or kind is AddressAllocated:
                block = find(event.block)
                if block is None:
                    raise self._contradiction(event)
                offset = event.offset
                holding = Holding(block, offset, event.pod_namespace, event.pod_name)
                # Looks and stores with one search.
                if hold(event.container_id, holding) is not holding:
                    raise self._contradiction(event)
                released = block.released
                if released and released[0][0] == offset:
                    released.popleft()
                elif offset == block.fresh and offset < block.size:
                    block.fresh = offset + 1
                else:
                    block.take(offset)
            elif kind is Release or kind is AddressReleased:
                former = pop(event.container_id, None)
                if former is None:
                    raise self._contradiction(event)
                block, offset = former.block, event.offset
                if former.offset != offset or block.key != event.block:
                    raise self._contradiction(event)
                block.released.append((offset, event.time))
            else:
                self._apply_rare(event)
        if events:
            self.sequence += len(events)
            self.time = events[-1].time

    def dump(self) -> bytes:
        """The whole state but for `sequence` and `time`: equal states, equal bytes."""
        number = {key: index for index, key in enumerate(self.blocks)}
        return _encode(
            _Dump(
                pools={
                    name: PoolSpec([subnet.key for subnet in pool.subnets], pool.block_size)
                    for name, pool in sorted(self.pools.items())
                },
                blocks=[
                    (key, block.pool, block.fresh, list(block.released), block.acquired)
                    for key, block in self.blocks.items()
                ],
                holdings=sorted(
                    (
                        container_id,
                        number[held.block.key],
                        held.offset,
                        held.pod_namespace,
                        held.pod_name,
                    )
                    for container_id, held in self.holdings.items()
                ),
            )
        )

    def load(self, state: bytes, sequence: int, time: int) -> None:
        """Become what `dump` gave after the event `sequence`, whose time was `time`.

        Raises ValueError for any other bytes; the state is of no use then.
        """
        dump = _decode(state)
        self.clear()
        self.pools = _pools(dump.pools)
        blocks = []
        for key, pool, fresh, released, acquired in dump.blocks:
            block = Block(key, pool, acquired)
            block.fresh = fresh
            block.released.extend(released)
            block.in_force = self._in_force(block)
            self.blocks[key] = block
            blocks.append(block)
        if dump.holdings and max(held[1] for held in dump.holdings) >= len(blocks):
            raise ValueError("a snapshot's address is in a block that it does not have")
        self.holdings = {
            container_id: Holding(blocks[block], offset, pod_namespace, pod_name)
            for container_id, block, offset, pod_namespace, pod_name in dump.holdings
        }
        self.sequence, self.time = sequence, time

    def clear(self) -> None:
        """Become the state before the first event."""
        self.pools, self.blocks, self.holdings = {}, {}, {}
        self.sequence = self.time = 0

    def digest(self) -> str:
        """Names the whole state but for `sequence` and `time`: equal states, equal digests."""
        return hashlib.blake2b(self.dump(), digest_size=16).hexdigest()

    def _apply_rare(self, event: Any) -> None:
        """Apply what happens seldom enough to be written for reading."""
        match event:
            case PoolsChanged():
                self.pools = _pools(event.pools)
                for block in self.blocks.values():
                    block.in_force = self._in_force(block)
            case BlockAcquired():
                if event.block in self.blocks:
                    raise self._contradiction(event)
                block = Block(event.block, event.pool, event.time)
                block.in_force = self._in_force(block)
                self.blocks[event.block] = block
            case BlockReleased():
                if event.block not in self.blocks or self.blocks[event.block].held:
                    raise self._contradiction(event)
                del self.blocks[event.block]
            case (
                DaemonStarted()
                | DaemonStopped()
                | JournalRepaired()
                | SnapshotTaken()
                | JournalCompacted()
                | HistoryPruned()
            ):
                pass  # facts about the daemon and its journal, not about addresses
            case _:
                raise TypeError(f"{event!r} is not of the vocabulary")

    def _in_force(self, block: Block) -> bool:
        pool = self.pools.get(block.pool)
        return pool is not None and any(
            subnet.contains(block.subnet) for subnet in pool.of(block.version)
        )

    def _contradiction(self, event: Any) -> InconsistentEventError:
        return InconsistentEventError(
            f"an event after {self.sequence} contradicts the events before it: {event}"
        )


def _pools(specs: dict[str, PoolSpec]) -> dict[str, Pool]:
    return {
        name: Pool(tuple(map(Subnet.from_key, spec.subnets)), spec.block_size)
        for name, spec in specs.items()
    }


def pools_changed(time: int, pools: dict[str, Pool]) -> PoolsChanged:
    """The event that puts `pools` in force."""
    return PoolsChanged(
        time=time,
        pools={
            name: PoolSpec([subnet.key for subnet in pool.subnets], pool.block_size)
            for name, pool in pools.items()
        },
    )
