"""State as a fold over the events: `apply` is the only code that changes it.

The same code runs in the daemon, in a replay and in every tool. It accepts any consistent history,
not only one that today's allocator would make: which address comes next is a rule, and rules may
change; that an address has one holder may not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

from coild.addresses import Pool, Subnet
from coild.events import (
    AddressAllocated,
    AddressReleased,
    Allocation,
    AttachmentAllocated,
    BlockAcquired,
    BlockReleased,
    DaemonStarted,
    DaemonStopped,
    HistoryPruned,
    JournalCompacted,
    JournalRepaired,
    NodeBooted,
    PoolsChanged,
    PoolSpec,
    Release,
    SnapshotTaken,
)
from coild.holding import Attachment, Block, Holding, InconsistentEventError


class _Dump(msgspec.Struct, array_like=True):
    """A state as a snapshot has it: blocks by age, addresses by container ID."""

    pools: dict[str, PoolSpec]
    #: Key, pool, fresh, released, acquired.
    blocks: list[tuple[bytes, str, int, list[tuple[int, int]], int]]
    #: Container ID, the block's place in the list above, offset, pod namespace, pod name.
    holdings: list[tuple[str, int, int, str, str]]


class _LongDump(_Dump, array_like=True):
    """A state with what older vocabularies had not.

    It is written only where there is some: so the older states keep the digests that are on record.
    """

    boot_id: str = ""
    #: By container ID.
    networks: dict[str, str] = {}


class _BootDump(_LongDump, array_like=True):
    """A state that knows of PID 1; written only where there is such a thing, likewise."""

    init_start: int | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_BootDump).decode


class Projection:
    """What the events so far add up to."""

    def __init__(self) -> None:
        self.pools: dict[str, Pool] = {}
        #: In the order in which they were acquired.
        self.blocks: dict[bytes, Block] = {}
        #: By container ID.
        self.holdings: dict[str, Holding] = {}
        #: The boot that the node runs since; empty if the journal does not say.
        self.boot_id = ""
        #: When PID 1 of that boot started, in ns since the kernel did; None if that is not known.
        self.init_start: int | None = None
        #: The sequence and the time of the last event applied.
        self.sequence = 0
        self.time = 0
        #: The time of the last allocation, or of the last start of a daemon; of a snapshot, its
        #: own. It is no part of the state: what was held then is older than any boot after it.
        self.last_active = 0

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
        allocated = 0
        for event in events:
            kind = type(event)
            if kind is Allocation or kind is AddressAllocated or kind is AttachmentAllocated:
                block = find(event.block)
                if block is None:
                    raise self._contradiction(event)
                offset, allocated = event.offset, event.time
                namespace, pod = event.pod_namespace, event.pod_name
                holding = (
                    Attachment(block, offset, namespace, pod, event.network)
                    if kind is AttachmentAllocated
                    else Holding(block, offset, namespace, pod)
                )
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
            self.last_active = max(self.last_active, allocated)

    def dump(self) -> bytes:
        """The whole state but for `sequence` and `time`: equal states, equal bytes."""
        number = {key: index for index, key in enumerate(self.blocks)}
        dump = _Dump(
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
        networks = {
            container_id: held.network
            for container_id, held in sorted(self.holdings.items())
            if isinstance(held, Attachment)
        }
        fields = (dump.pools, dump.blocks, dump.holdings, self.boot_id, networks)
        if self.init_start is not None:
            dump = _BootDump(*fields, self.init_start)
        elif self.boot_id or networks:
            dump = _LongDump(*fields)
        return _encode(dump)

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
        for container_id, network in dump.networks.items():
            held = self.holdings.get(container_id)
            if held is None:
                raise ValueError(f"a snapshot's container {container_id} has a network, no address")
            self.holdings[container_id] = Attachment(
                held.block, held.offset, held.pod_namespace, held.pod_name, network
            )
        self.boot_id, self.init_start = dump.boot_id, dump.init_start
        self.sequence, self.time, self.last_active = sequence, time, time

    def clear(self) -> None:
        """Become the state before the first event."""
        self.pools, self.blocks, self.holdings = {}, {}, {}
        self.boot_id, self.init_start = "", None
        self.sequence = self.time = self.last_active = 0

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
            case NodeBooted():
                self.boot_id, self.init_start = event.boot_id, event.init_start
            case DaemonStarted():
                self.last_active = event.time
            case (
                DaemonStopped()
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
