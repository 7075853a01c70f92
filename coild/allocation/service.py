"""The way of a command: decide, append, apply, wait until it is durable, answer.

The first three are one synchronous step of the event loop: nothing can come between, and a client
that hangs up while the disk is busy leaves a whole change or none. Only the answer waits.

No answer shows an event that a crash could still undo. A command waits for the last event of its
own container, not for all that is queued. What only reads waits for no disk: it is shown the state
as of the last durable event. What comes after that was not answered yet, so it may not be shown.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from functools import partial

import msgspec

from coild.allocation.committer import Committer
from coild.allocation.deadline import Deadline
from coild.allocation.durable import DurableState
from coild.allocation.keeper import BlockKeeper, BlockWait
from coild.allocation.pending import Pending
from coild.allocation.recent_allocations import RecentAllocations, StaleListError
from coild.blocks import BlockSource
from coild.routing.announcer import Announcer
from coild.rules.allocator import Allocator, TooManyApartError
from coild.rules.events import (
    REQUESTED,
    AddressAllocated,
    AddressReleased,
    AttachmentAllocated,
    Event,
)
from coild.rules.gateway_use import GatewayUse
from coild.rules.holding import Holding
from coild.rules.pool_events import pools_changed
from coild.rules.projection import Projection
from journal import Journal

logger = logging.getLogger(__name__)

#: After so many releases in a row, requests go first.
_RELEASE_SLICE = 100


class ConflictError(Exception):
    """The container holds an address already."""


class NoAddressError(Exception):
    """No address of the family is to be had now."""


class Wanted(msgspec.Struct, frozen=True):
    """An address that a container of a pod asks for.

    `network` is the CNI network that it is for, if any. It cannot use the `unusable` addresses
    there and, if it is told of the pool's subnet (`in_subnet`), the edges of that. All these are
    set apart.
    """

    namespace: str
    pod_name: str
    container_id: str
    version: int
    network: str = ""
    unusable: Sequence[int] = ()
    in_subnet: bool = False


class _Allocated(msgspec.Struct, frozen=True):
    """An address is the container's, by the event `sequence`."""

    sequence: int
    address: str


class _Conflict(msgspec.Struct, frozen=True):
    """The container holds an address already."""

    held: Holding


class _NeedsBlock(msgspec.Struct, frozen=True):
    """The pool should have another block first; a `spare` one may also be done without."""

    pool: str
    spare: bool


class _Exhausted(msgspec.Struct, frozen=True):
    """No address is to be had, and no block will come."""

    reason: str


class Statistics(msgspec.Struct, frozen=True):
    """The counts since the service was made."""

    allocated: int
    released: int
    #: Addresses that were handed out again before `reuse-after` was over.
    reused_early: int
    #: Requests refused: a conflict, or no address.
    refused: int


class Service:
    """The commands and queries of one daemon. Belongs to one event loop. Durations are in ns."""

    def __init__(
        self,
        state: Projection,
        journal: Journal,
        source: BlockSource,
        *,
        reuse_after: int,
        clock: Callable[[], int],
        ago: Callable[[int], int],
        announcer: Announcer,
    ) -> None:
        """`announcer` is told of each block that becomes the node's, and before it is no more.

        `clock` gives the times of events; `ago` the time of an event so long ago, as Clock.ago,
        by which addresses rest and blocks are idle.
        """
        self._state = state
        self._journal = journal
        self._clock = clock
        self._ago = ago
        self._reuse_after = reuse_after
        #: Answers what is free, and which pool and subnet have an address.
        self.allocator = Allocator(state, reuse_after)
        self._committer = Committer(state, journal, self.allocator)
        self._keeper = BlockKeeper(
            source,
            journal,
            self._committer,
            self.allocator,
            announcer,
            clock=clock,
            ago=self._ago,
        )
        self._pending: Pending[str, Holding] = Pending(lambda: journal.durable_sequence)
        #: What questions are answered by.
        self.durable = DurableState(state, journal, self._pending, self._keeper.pending)
        self._allocations = RecentAllocations(journal.last_sequence)
        #: Which containers need the node's own address as gateway.
        self.gateway_use = GatewayUse(state.holdings)
        self._allocated = self._released = self._reused_early = self._refused = 0

    @property
    def statistics(self) -> Statistics:
        """The counts so far."""
        return Statistics(self._allocated, self._released, self._reused_early, self._refused)

    @property
    def journal_id(self) -> str:
        """The ID of the journal, which names this daemon's history."""
        return self._journal.id

    async def allocate(self, wanted: Wanted, until: Deadline | None = None) -> str:
        """Hand an address of IP version 4 or 6 to the container; durable on return.

        After `until`, nothing is decided. Raises ConflictError, NoAddressError, NoPoolError,
        DeadlineError, and the journal's errors.
        """
        wait = BlockWait(self._keeper)
        decide = partial(self._decide, wanted, wait, until)
        while True:
            match await self._journal.when_room(decide):
                case _Allocated(sequence, address):
                    await self._journal.durable(sequence)
                    return address
                case _NeedsBlock(pool, spare):
                    await wait.another_block(pool, wanted.version, spare=spare)
                case _Conflict(held):
                    self._refused += 1
                    await self._settled(wanted.container_id)
                    raise ConflictError(
                        f"container {wanted.container_id} holds {held.address} already, "
                        f"for pod {held.pod_namespace}/{held.pod_name}"
                    )
                case _Exhausted(reason):
                    self._refused += 1
                    # It may be full because of events that a crash could still undo.
                    await self._journal.durable(self._journal.last_sequence)
                    raise NoAddressError(reason)

    def _decide(
        self, wanted: Wanted, wait: BlockWait, until: Deadline | None
    ) -> _Allocated | _Conflict | _NeedsBlock | _Exhausted:
        """Allocate an address if one can be had now, or say what stands against it.

        Raises DeadlineError, NoPoolError, and the journal's errors.
        """
        if until is not None:
            until.check()
        container_id, version = wanted.container_id, wanted.version
        held = self._state.holdings.get(container_id)
        if held is not None:
            return _Conflict(held)
        pool = self.allocator.pool_for(wanted.namespace)
        placed = wanted.in_subnet or bool(wanted.unusable)
        if placed:
            try:
                self._set_apart(pool, wanted)
            except TooManyApartError as error:
                return _Exhausted(str(error))
        now = self._clock()
        # Not the event's time: what was released before the wall was set has not rested more.
        rested = self._ago(self._reuse_after) + self._reuse_after
        choice = self.allocator.choose(pool, version, rested)
        block = choice.block
        if choice.wants_block and wait.may_help(spare=block is not None):
            return _NeedsBlock(pool, spare=block is not None)
        if block is None:
            return _Exhausted(str(wait.refusal))
        offset = block.next_offset
        fact = (now, block.key, offset, container_id, wanted.namespace, wanted.pod_name, pool)
        network = wanted.network
        sequence = self._committer.commit(
            AttachmentAllocated(*fact, network) if network else AddressAllocated(*fact)
        )
        self._allocated += 1
        if choice.early:
            self._reused_early += 1
            logger.debug("%s is reused early", block.address_at(offset))
        self._pending.note(sequence, container_id, None)
        self._allocations.note(sequence, container_id)
        self.gateway_use.note(container_id, placed=placed)
        return _Allocated(sequence, block.address_at(offset))

    async def release(
        self, namespace: str, pod_name: str, container_id: str, until: Deadline | None = None
    ) -> str:
        """Release the container's address; durable on return. Empty if the pod's has none.

        Raises DeadlineError if that would come after `until`, and the journal's errors.
        """
        release = partial(self._release_of, container_id, (namespace, pod_name), until)
        held = await self._journal.when_room(release)
        await self._settled(container_id)
        return held.address if held is not None else ""

    async def release_containers(
        self, container_ids: Iterable[str], until: Deadline | None = None
    ) -> list[tuple[str, Holding]]:
        """Release what these containers hold, whichever pods they are of; durable on return.

        Raises DeadlineError if that would come after `until`, and the journal's errors.
        """
        released: list[tuple[str, Holding]] = []
        for container_id in container_ids:
            release = partial(self._release_of, container_id, None, until)
            held = await self._journal.when_room(release)
            if held is not None:
                released.append((container_id, held))
            else:
                # It may have been released by an event that a crash could still undo.
                await self._settled(container_id)
        for container_id, _ in released:
            await self._settled(container_id)
        return released

    async def release_all(
        self, holdings: Iterable[tuple[str, Holding]], reason: str
    ) -> list[tuple[str, Holding]]:
        """Release the holdings that still last, and return them. Durable on return.

        Requests are answered meanwhile. Raises the journal's errors.
        """
        released: list[tuple[str, Holding]] = []
        for container_id, held in holdings:
            release = partial(self._release, container_id, held, reason)
            if await self._journal.when_room(release):
                released.append((container_id, held))
                if not len(released) % _RELEASE_SLICE:
                    await asyncio.sleep(0)
        await self._journal.durable(self._journal.last_sequence)
        return released

    def forgotten(
        self, network: str, valid: AbstractSet[str], sequence: int, until: Deadline | None = None
    ) -> list[tuple[str, Holding]]:
        """The addresses of a network that its runtime does not know of any more.

        That is every address of exactly this network, of a container that is not in `valid`, and
        allocated by the event `sequence` or before: what came later was not in the runtime's list
        because the list is older. Raises StaleListError and DeadlineError.
        """
        if sequence > (last := self._journal.last_sequence):
            raise StaleListError(
                f"this journal ends with the sequence {last}, so {sequence} is not of it: ask for "
                "the sequence again (GET /health)"
            )
        if until is not None:
            until.check()
        later = self._allocations.after(sequence)
        return [
            (container_id, held)
            for container_id, held in self._state.holdings.items()
            if held.network == network and container_id not in valid and container_id not in later
        ]

    async def record(self, event: Event) -> None:
        """Journal a fact that is not about one container; durable on return."""
        await self._committer.record(event)

    async def release_idle_blocks(self, idle_for: int | None) -> list[str]:
        """As BlockKeeper.release_idle."""
        return await self._keeper.release_idle(idle_for)

    def _set_apart(self, pool: str, wanted: Wanted) -> None:
        """Set addresses apart that no pod of the network can use. Raises TooManyApartError."""
        pools = self.allocator.with_apart(
            pool, wanted.version, wanted.unusable, edges_too=wanted.in_subnet
        )
        if pools is not None:
            self._committer.commit(pools_changed(self._clock(), pools))
            new = ", ".join(map(str, pools[pool].unusable))
            logger.info("set apart in pool %s, as no pod can use them: %s", pool, new)

    async def close(self) -> None:
        """Stop waiting for blocks. What has been committed stays."""
        await self._keeper.close()

    def _release_of(
        self, container_id: str, pod: tuple[str, str] | None, until: Deadline | None
    ) -> Holding | None:
        """Release what the container holds, if that is for this pod or `pod` is None; what it was.

        Raises DeadlineError and the journal's errors.
        """
        if until is not None:
            until.check()
        held = self._state.holdings.get(container_id)
        if held is None or (pod is not None and pod != (held.pod_namespace, held.pod_name)):
            return None
        self._release(container_id, held, REQUESTED)
        return held

    def _release(self, container_id: str, held: Holding, reason: str) -> bool:
        """Commit the release of an address, unless the container holds it no more; whether so."""
        if self._state.holdings.get(container_id) is not held:
            return False
        block = held.block
        sequence = self._committer.commit(
            AddressReleased(
                self._clock(),
                block.key,
                held.offset,
                container_id,
                held.pod_namespace,
                held.pod_name,
                block.pool,
                reason,
            ),
            essential=True,
        )
        self._released += 1
        self._pending.note(sequence, container_id, held)
        return True

    async def _settled(self, container_id: str) -> None:
        """Wait for the container's last event: what is said of it next must not be undone."""
        await self._journal.durable(self._pending.last(container_id))
