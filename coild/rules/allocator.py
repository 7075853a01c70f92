"""The rules: which pool, which address, when a block is wanted and when one can go.

Pure: no clock, no I/O. The caller applies each event to the projection first and then tells the
allocator, which keeps an index of what is free.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from coild.rules.addresses import Pool, Span, Subnet, address_text, edges
from coild.rules.events import (
    AddressAllocated,
    AddressReleased,
    BlockAcquired,
    BlockReleased,
    PoolsChanged,
)
from coild.rules.free_list import FreeList
from coild.rules.holding import Block
from coild.rules.projection import Projection

#: The pool for namespaces that have none of their own.
DEFAULT_POOL = "default"
#: So many addresses may be found unusable while a daemon runs: three for each network.
UNUSABLE_MAX = 1024


class NoPoolError(Exception):
    """Neither the pod's namespace nor the default has a pool."""


class TooManyApartError(Exception):
    """A pool has no room to set more addresses apart than it does."""


class Place(msgspec.Struct, frozen=True):
    """The pool and the subnet that have an address, and the gateway in that; empty if none is."""

    pool: str
    subnet: str
    gateway: str


class Choice(msgspec.Struct, frozen=True):
    """The address that can be had at once: the next one of `block`, if there is a block.

    `early`: it was released less than `reuse-after` ago, and nothing else is free.
    `wants_block`: the node should ask for another block before it takes this.
    """

    block: Block | None
    early: bool
    wants_block: bool


class Allocator:
    """Decides over one projection. Times and durations are in ns."""

    def __init__(self, state: Projection, reuse_after: int) -> None:
        self._state = state
        self._reuse_after = reuse_after
        self._lists: dict[tuple[str, int], FreeList] = {}
        # Empty blocks out of force: nothing is handed out of them any more.
        self._spent: dict[bytes, Block] = {}
        self._restore()

    def pool_for(self, namespace: str) -> str:
        """The pool named like the namespace, or else the default. Raises NoPoolError."""
        pools = self._state.pools
        if namespace in pools:
            return namespace
        if DEFAULT_POOL in pools:
            return DEFAULT_POOL
        raise NoPoolError(
            f"there is no address pool for namespace {namespace!r}: neither a pool {namespace!r} "
            f"nor a pool {DEFAULT_POOL!r} is configured"
        )

    def with_apart(
        self, name: str, version: int, unusable: Sequence[int], *, edges_too: bool
    ) -> dict[str, Pool] | None:
        """The pools if the pool sets these addresses apart as well, as far as they are its own.

        With `edges_too`, the edges of its subnets as well. None if all of them are already.
        Raises TooManyApartError.
        """
        pool = self._state.pools[name]
        wanted = [Span(version, each, each) for each in unusable if pool.subnet_of(version, each)]
        if edges_too:
            for subnet in pool.of(version):
                wanted += edges(subnet)
        apart = self._state.apart(name, version)
        missing = {span for span in wanted if span.first not in apart}
        if not missing:
            return None
        spans = (*pool.unusable, *sorted(missing))
        if len(spans) > UNUSABLE_MAX:
            raise TooManyApartError(
                f"pool {name!r} has set apart {len(pool.unusable)} addresses for networks already: "
                f"reserve {', '.join(map(str, sorted(missing)))} in its configuration"
            )
        return {**self._state.pools, name: msgspec.structs.replace(pool, unusable=spans)}

    def place(self, text: str) -> Place:
        """Where an address lies, by the pools in force. Raises ValueError if it is not one."""
        parsed = ipaddress.ip_address(text)
        version, address = parsed.version, int(parsed)
        for name, pool in self._state.pools.items():
            subnet = pool.subnet_of(version, address)
            if subnet is not None:
                gateway = pool.gateway_in(subnet)
                named = "" if gateway is None else address_text(version, gateway)
                return Place(name, str(subnet), named)
        return Place("", "", "")

    def choose(self, pool: str, version: int, now: int) -> Choice:
        """The address to hand out now, and whether a block is wanted.

        What was released `reuse-after` before `now`, or earlier, has rested.

        The cool-down may cost one spare block: while every free address is too fresh and there is
        no more than a block's worth of them, another block is wanted. With more, a spare is there
        already, and the oldest address is taken early.
        """
        free = self._list(pool, version)
        block = free.ready(now)
        if block is not None:
            return Choice(block, early=False, wants_block=False)
        spare = free.free <= 1 << self._state.pools[pool].block_size
        return Choice(free.oldest(), early=True, wants_block=spare)

    def may_acquire(self, pool: str, block: Subnet) -> bool:
        """Whether it is one of the pool's blocks in force, and the node does not have it yet."""
        owner = self._state.pools[pool]
        return (
            block.prefix == owner.block_prefix(block.version)
            and block.key not in self._state.blocks
            and any(subnet.contains(block) for subnet in owner.of(block.version))
        )

    def free(self, pool: str, version: int) -> int:
        """How many addresses are free, rested or not, in the blocks that are the node's."""
        return self._list(pool, version).free

    def idle_blocks(self, ago: Callable[[int], int], idle_for: int | None) -> list[Block]:
        """Blocks to give back: empty for `idle_for`, and for as long as the cool-down lasts.

        `ago` gives the time of an event so long ago.

        A block that is out of force and empty has nothing to wait for but the cool-down. With
        None as `idle_for` it is only those.
        """
        rested = ago(self._reuse_after)
        if idle_for is None:
            return [block for block in self._spent.values() if block.idle_since <= rested]
        idle = ago(max(idle_for, self._reuse_after))
        return [
            block
            for block in self._state.blocks.values()
            if not block.held and block.idle_since <= (idle if block.configured else rested)
        ]

    def observe(self, event: Any) -> None:
        """Take note of an event that the projection has just applied."""
        match event:
            case AddressAllocated():
                block = self._state.blocks[event.block]
                self._list(block.pool, block.version).allocated()
            case AddressReleased():
                block = self._state.blocks[event.block]
                if not block.configured and not block.held:
                    self._spent[event.block] = block
                if block.configured and event.offset not in block.apart:
                    self._list(block.pool, block.version).released(block, event.time)
            case BlockAcquired():
                block = self._state.blocks[event.block]
                self._list(block.pool, block.version).add_block(block)
            case BlockReleased():
                self._spent.pop(event.block, None)
                # Of the projection it is gone already.
                version = Subnet.from_key(event.block).version
                self._list(event.pool, version).remove_block(event.block)
            case PoolsChanged():
                # Blocks may have come into force, or gone out of it; addresses were set apart.
                self._restore()

    def _restore(self) -> None:
        self._lists.clear()
        self._spent = {
            key: block
            for key, block in self._state.blocks.items()
            if not block.configured and not block.held
        }
        by_list: dict[tuple[str, int], list[Block]] = {}
        for block in self._state.blocks.values():
            if block.configured:
                by_list.setdefault((block.pool, block.version), []).append(block)
        for (pool, version), blocks in by_list.items():
            self._list(pool, version).restore(blocks)

    def _list(self, pool: str, version: int) -> FreeList:
        found = self._lists.get((pool, version))
        if found is None:
            found = self._lists[pool, version] = FreeList(self._reuse_after)
        return found
