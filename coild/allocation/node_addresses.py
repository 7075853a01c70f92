"""The node's own addresses in its pools: those of its interfaces, and the old gateway of pods.

An address of an interface is never a pod's. Where no gateway was configured, the plugin took one
for the node as a container does; when all pools name theirs and no pod needs that one, it is given
back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from typing import NoReturn

import msgspec

from coild.allocation.service import Service
from coild.process.interfaces import AddressWatch, interface_addresses
from coild.rules.addresses import Pool, Span
from coild.rules.events import UNNEEDED
from coild.rules.holding import Holding
from coild.rules.pool_events import pools_changed
from coild.rules.printable import listed
from coild.rules.projection import Projection
from journal import JournalError

logger = logging.getLogger(__name__)

#: So many addresses that are held and set apart are told by name.
_TOLD_MAX = 5
_SETTLE_SECONDS = 0.5
_Address = tuple[int, int]


class NodeAddresses:
    """Looks after them for one daemon."""

    def __init__(
        self,
        pools: Mapping[str, Pool],
        state: Projection,
        service: Service,
        clock: Callable[[], int],
    ) -> None:
        """`pools` are those of the configuration."""
        self._pools = pools
        self._state = state
        self._service = service
        self._clock = clock
        self._own: AbstractSet[_Address] = frozenset()
        # Those that were told: once is enough.
        self._told: set[Span] = set()

    async def begin(self) -> None:
        """Put the configuration's pools in force, without what the node has of them.

        Raises the journal's errors.
        """
        await self._put_in_force(self._pools)
        self._tell_held()

    @property
    def reason(self) -> str:
        """Which of the node's addresses the pools have, as the check of /readyz tells it."""
        found = [
            f"{span} of pool {name}"
            for name, pool in self._pools.items()
            for span in own_of(pool, self._usable())
        ]
        if not found:
            return ""
        named = listed(found, _TOLD_MAX)
        return f"addresses of this node are in pools, and are not handed out: {named}"

    async def run(self, seconds: float) -> NoReturn:
        """Look again every so many seconds, and soon after the kernel tells of a change."""
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()
        watch: AddressWatch | None = None
        try:
            with contextlib.suppress(OSError):  # then every so many seconds has to do
                watch = AddressWatch()
                loop.add_reader(watch.fileno(), _note, watch, changed)
            while True:
                changed.clear()
                try:
                    await self.renew()
                except JournalError as error:
                    logger.warning("what the node has of its pools was not journalled: %s", error)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), seconds)
                # The start of a container changes several.
                await asyncio.sleep(min(seconds, _SETTLE_SECONDS))
        finally:
            if watch is not None:
                loop.remove_reader(watch.fileno())
                watch.close()

    async def renew(self) -> None:
        """Set apart what the node has by now, and give back what it does not need any more.

        Raises the journal's errors.
        """
        if await self._put_in_force(self._state.pools):
            self._tell_held()
        unneeded = self._service.gateway_use.taken()
        if unneeded and not self._needs(unneeded):
            await self._service.release_all(unneeded, UNNEEDED)
            logger.info(
                "the pools name their gateways, and no container needs %s any more: given back",
                ", ".join(held.address for _, held in unneeded),
            )

    async def _put_in_force(self, pools: Mapping[str, Pool]) -> bool:
        """Journal these pools without what the node has of them; whether that changes anything."""
        await asyncio.to_thread(self._look)
        found = dict(pools)
        for name, pool in pools.items():
            missing = own_of(pool, self._usable())
            for span in missing:
                self._told_of(name, span)
            if missing:
                found[name] = msgspec.structs.replace(pool, unusable=(*pool.unusable, *missing))
        if self._state.pools == found:
            return False
        await self._service.record(pools_changed(self._clock(), found))
        return True

    def _look(self) -> None:
        try:
            self._own = interface_addresses()
        except OSError as error:
            logger.warning(
                "the addresses of this node's interfaces are not known, and if they are in a pool "
                "they may be handed out: %s",
                error.strerror or error,
            )

    def _usable(self) -> set[_Address]:
        """The node's addresses, but for those that it has as the gateway of pods."""
        taken = {_number(held) for _, held in self._service.gateway_use.taken()}
        return {address for address in self._own if address not in taken}

    def _needs(self, gateways: list[tuple[str, Holding]]) -> bool:
        """Whether one of the node's addresses may be the gateway of a pod, or of one to come."""
        return (
            any(_number(held) in self._own for _, held in gateways)
            or any(
                pool.gateway_in(subnet) is None
                for pool in self._state.pools.values()
                for subnet in pool.of(4)
            )
            or self._service.gateway_use.is_needed()
        )

    def _told_of(self, pool: str, span: Span) -> None:
        if span not in self._told:
            self._told.add(span)
            logger.warning(
                "%s is an address of this node, and in pool %s: it is never handed out", span, pool
            )

    def _tell_held(self) -> None:
        """Say which addresses are held that are set apart now."""
        held = [
            f"{held.address} by container {container_id}"
            for container_id, held in self._state.holdings.items()
            if held.block.apart and held.offset in held.block.apart
        ]
        if held:
            logger.warning(
                "addresses that are set apart are held: they are kept until they are released, and "
                "not handed out again: %s",
                listed(held, _TOLD_MAX),
            )


def own_of(pool: Pool, own: AbstractSet[_Address]) -> list[Span]:
    """Those of the node's own addresses that are the pool's, and that it does not set apart."""
    return [
        Span(version, address, address)
        for version, address in sorted(own)
        if pool.subnet_of(version, address) and address not in pool.apart(version)
    ]


def _note(watch: AddressWatch, changed: asyncio.Event) -> None:
    watch.drain()
    changed.set()


def _number(held: Holding) -> _Address:
    return held.block.version, held.block.base + held.offset
