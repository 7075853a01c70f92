"""State as a fold over the events: `apply` is the only code that changes it.

The same code runs in the daemon, in a replay and in every tool. It accepts any consistent history,
not only one that today's allocator would make: which address comes next is a rule, and rules may
change; that an address has one holder may not.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

from coild.rules.addresses import BITS, Pool
from coild.rules.events import (
    AddressAllocated,
    AddressReleased,
    ApartSpec,
    AttachmentAllocated,
    BlockAcquired,
    BlockReleased,
    DaemonStarted,
    DaemonStopped,
    NodeBooted,
    OfJournal,
    PoolsChanged,
    PoolSpec,
    ReservingPoolsChanged,
)
from coild.rules.holding import Attachment, Block, Holding, InconsistentEventError
from coild.rules.pool_events import apart_of, pools_of, specs_of
from coild.rules.ranges import Ranges


class _Dump(msgspec.Struct, array_like=True):
    """A state as a snapshot has it: blocks by age, addresses by container ID.

    What older vocabularies had not is written only where there is some, with all before it: so the
    older states keep the digests that are on record.
    """

    pools: dict[str, PoolSpec]
    #: Key, pool, next unused, released, acquired.
    blocks: list[tuple[bytes, str, int, list[tuple[int, int]], int]]
    #: Container ID, the block's place in the list above, offset, pod namespace, pod name.
    holdings: list[tuple[str, int, int, str, str]]
    #: With the networks by container ID, if there is either.
    boot_id: str = ""
    networks: dict[str, str] = {}
    init_start: int | None = None
    apart: dict[str, ApartSpec] = {}


_NONE = Ranges()
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Dump).decode


class Projection:
    """The state: the sum of the events so far."""

    def __init__(self) -> None:
        #: The same dictionary for ever.
        self.pools: dict[str, Pool] = {}
        # What is set apart, by pool and family.
        self._apart: dict[tuple[str, int], Ranges] = {}
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
        #: The node's name at the last start or stop of a daemon; empty if no event told since the
        #: snapshot. It is no part of the state either.
        self.node_name = ""

    def apply(self, event: Any) -> None:
        """Apply the next event. Raises InconsistentEventError; the state is of no use then."""
        self.apply_all((event,))

    def apply_all(self, events: Sequence[Any]) -> None:  # noqa: C901, PLR0912
        """Apply the next events, in order; raises as `apply` does.

        The two common ones are spelled out: at millions a second, a call for each is a third of
        the time.
        """
        find = self.blocks.get
        hold, pop = self.holdings.setdefault, self.holdings.pop
        allocated = 0
        for event in events:
            kind = type(event)
            if kind is AddressAllocated or kind is AttachmentAllocated:
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
                elif offset == block.next_unused and offset < block.stop:
                    block.next_unused = offset + 1
                    if block.next_unused == block.stop:
                        block.advance()
                else:
                    block.take(offset)
            elif kind is AddressReleased:
                former = pop(event.container_id, None)
                if former is None:
                    raise self._contradiction(event)
                block, offset = former.block, event.offset
                if former.offset != offset or block.key != event.block:
                    raise self._contradiction(event)
                if block.apart and offset in block.apart:
                    block.aside += 1
                else:
                    block.released.append((offset, event.time))
            else:
                self._apply_rare(event)
        if events:
            self.sequence += len(events)
            self.time = events[-1].time
            self.last_active = max(self.last_active, allocated)

    def apart(self, pool: str, version: int) -> Ranges:
        """The addresses of one family that a pool sets apart."""
        return self._apart.get((pool, version), _NONE)

    def dump(self) -> bytes:
        """The whole state but for `sequence` and `time`: equal states, equal bytes."""
        number = {key: index for index, key in enumerate(self.blocks)}
        blocks = [
            (key, block.pool, block.next_unused, list(block.released), block.acquired)
            for key, block in self.blocks.items()
        ]
        holdings = sorted(
            (
                container_id,
                number[held.block.key],
                held.offset,
                held.pod_namespace,
                held.pod_name,
            )
            for container_id, held in self.holdings.items()
        )
        networks = {
            container_id: held.network
            for container_id, held in sorted(self.holdings.items())
            if isinstance(held, Attachment)
        }
        pools = dict(sorted(self.pools.items()))
        dump: list[Any] = [specs_of(pools), blocks, holdings]
        apart = apart_of(pools)
        if self.boot_id or networks or self.init_start is not None or apart:
            dump += [self.boot_id, networks]
        if self.init_start is not None or apart:
            dump.append(self.init_start)
        if apart:
            dump.append(apart)
        return _encode(dump)

    def restore(self, snapshot: Any | None) -> None:
        """Become the state of a `journal.Snapshot`, or the one before the first event.

        Raises ValueError.
        """
        if snapshot is None:
            self.clear()
        else:
            self.load(snapshot.state, snapshot.sequence, snapshot.time)

    def load(self, state: bytes, sequence: int, time: int) -> None:
        """Become what `dump` gave after the event `sequence`, whose time was `time`.

        Raises ValueError for any other bytes; the state is of no use then.
        """
        dump = _decode(state)
        self.clear()
        self._change_pools(dump.pools, dump.apart)
        blocks = []
        for key, pool, next_unused, released, acquired in dump.blocks:
            block = Block(key, pool, acquired)
            block.next_unused = next_unused
            block.released.extend(released)
            block.configured = self._is_configured(block)
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
        held_of = self._held_by_block() if self._apart else {}
        for block in blocks:
            if apart := self._apart_of(block):
                block.resume(apart, len(held_of.get(block.key, ())))
        self.boot_id, self.init_start = dump.boot_id, dump.init_start
        self.sequence, self.time, self.last_active = sequence, time, time
        self.node_name = ""

    def clear(self) -> None:
        """Become the state before the first event."""
        self._change_pools({}, {})
        self.blocks, self.holdings = {}, {}
        self.boot_id, self.init_start = "", None
        self.sequence = self.time = self.last_active = 0
        self.node_name = ""

    def digest(self) -> str:
        """Names the whole state but for `sequence` and `time`: equal states, equal digests."""
        return hashlib.blake2b(self.dump(), digest_size=16).hexdigest()

    def _apply_rare(self, event: Any) -> None:  # noqa: C901 - one case a kind
        """Apply what happens seldom enough to be written for reading."""
        match event:
            case PoolsChanged():
                apart = event.apart if isinstance(event, ReservingPoolsChanged) else {}
                self._change_pools(event.pools, apart)
                held = functools.cache(self._held_by_block)
                for block in self.blocks.values():
                    block.configured = self._is_configured(block)
                    block.set_apart(
                        self._apart_of(block), lambda key: held().get(key, set()), event.time
                    )
            case BlockAcquired():
                if event.block in self.blocks:
                    raise self._contradiction(event)
                block = Block(event.block, event.pool, event.time)
                block.configured = self._is_configured(block)
                block.begin(self._apart_of(block))
                self.blocks[event.block] = block
            case BlockReleased():
                if event.block not in self.blocks or self.blocks[event.block].held:
                    raise self._contradiction(event)
                del self.blocks[event.block]
            case NodeBooted():
                self.boot_id, self.init_start = event.boot_id, event.init_start
            case DaemonStarted():
                self.last_active, self.node_name = event.time, event.node_name
            case DaemonStopped():
                self.node_name = event.node_name
            case OfJournal():
                pass  # nothing about addresses
            case _:
                raise TypeError(f"{event!r} is not of the vocabulary: it has no case here")

    def _change_pools(self, specs: dict[str, PoolSpec], apart: dict[str, ApartSpec]) -> None:
        pools = pools_of(specs, apart)
        self.pools.clear()
        self.pools.update(pools)
        self._apart = {
            (name, version): ranges
            for name, pool in pools.items()
            for version in BITS
            if (ranges := pool.apart(version))
        }

    def _apart_of(self, block: Block) -> Ranges:
        """The offsets that are set apart in a block; none if no pool has the block any more."""
        apart = self.apart(block.pool, block.version)
        if not apart or not block.configured:
            return _NONE
        return apart.within(block.base, block.base + block.size)

    def _held_by_block(self) -> dict[bytes, set[int]]:
        """The offsets that are held, by block."""
        found: dict[bytes, set[int]] = {}
        for held in self.holdings.values():
            found.setdefault(held.block.key, set()).add(held.offset)
        return found

    def _is_configured(self, block: Block) -> bool:
        pool = self.pools.get(block.pool)
        return pool is not None and any(
            subnet.contains(block.subnet) for subnet in pool.of(block.version)
        )

    def _contradiction(self, event: Any) -> InconsistentEventError:
        return InconsistentEventError(
            f"an event after {self.sequence} contradicts the events before it: {event}"
        )
