"""One command's way: decide, append, apply, wait until it is durable, answer.

The first three are one synchronous step of the event loop: nothing can come between, and a client
that hangs up while the disk is busy leaves a whole change or none. Only the answer waits.

No answer shows an event that a crash could still undo. A command waits for the last event of its
own container, not for all that is queued. What only reads waits for no disk: it is shown the state
as of the last durable event. What comes after that was answered to nobody: it may not be shown yet.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Callable, Iterable, Sequence

import msgspec

from coild.acquisition import BLOCK_WAIT_SECONDS, Acquisition, BlockWait
from coild.addresses import Subnet
from coild.allocator import Allocator, Place, TooManyApartError
from coild.announcer import Announcer, Nobody
from coild.blocks import BlockSource
from coild.by_container import ByContainer
from coild.collection import Allocations, StaleListError
from coild.deadline import Deadline
from coild.events import (
    COLLECTED,
    REQUESTED,
    AddressAllocated,
    AddressReleased,
    AttachmentAllocated,
    BlockAcquired,
    BlockReleased,
    Event,
)
from coild.gateway_use import GatewayUse
from coild.holding import Block, Holding, Status
from coild.pending import Pending
from coild.projection import Projection, pools_changed
from journal import Journal, JournalBusyError, JournalError

logger = logging.getLogger(__name__)

#: How long it waits for a spare block while it could have an address that was released lately: what
#: a slow cluster does must not keep it from that.
SPARE_WAIT_SECONDS = 0.05
#: After so many releases in a row, requests go first.
_RELEASE_SLICE = 100


class ConflictError(Exception):
    """The container holds an address already."""


class NoAddressError(Exception):
    """No address of the family is to be had now."""


class Statistics(msgspec.Struct, frozen=True):
    """What the service counted since it started."""

    allocated: int
    released: int
    #: Addresses that were handed out again before `reuse-after` was over.
    reused_early: int
    #: Requests refused: a conflict, or no address.
    refused: int


class Service(ByContainer):
    """The commands and queries of one daemon. Belongs to one event loop. Durations are in ns."""

    def __init__(
        self,
        state: Projection,
        journal: Journal,
        source: BlockSource,
        *,
        reuse_after: int,
        clock: Callable[[], int],
        ago: Callable[[int], int] | None = None,
        announcer: Announcer | None = None,
    ) -> None:
        """`announcer` is told of each block that becomes the node's, and before it is no more.

        `clock` gives the times of events; `ago` the time of an event so long ago, as Clock.ago,
        by which addresses rest and blocks are idle. By default the clock is one that nobody sets.
        """
        self._state = state
        self._journal = journal
        self._source = source
        self._clock = clock
        self._ago = ago or (lambda duration: clock() - duration)
        self._reuse_after = reuse_after
        self._announcer = announcer or Nobody()
        self._allocator = Allocator(state, reuse_after)
        self._acquisition = Acquisition(source, self._took_block)
        self._pending = Pending(lambda: journal.durable_sequence)
        self._pending_blocks: Pending[bytes, Block] = Pending(lambda: journal.durable_sequence)
        self._allocations = Allocations(journal.last_sequence)
        #: Who needs the node's own address as gateway.
        self.gateway_use = GatewayUse(state.holdings)
        self._allocated = self._released = self._reused_early = self._refused = 0

    @property
    def statistics(self) -> Statistics:
        """What was counted so far."""
        return Statistics(self._allocated, self._released, self._reused_early, self._refused)

    def pool_for(self, namespace: str) -> str:
        """The pool that pods of a namespace have addresses of. Raises NoPoolError."""
        return self._allocator.pool_for(namespace)

    def free(self, pool: str, version: int) -> int:
        """How many addresses of a pool's blocks are free, rested or not."""
        return self._allocator.free(pool, version)

    async def allocate(
        self,
        namespace: str,
        pod_name: str,
        container_id: str,
        version: int,
        network: str = "",
        *,
        unusable: Sequence[int] = (),
        in_subnet: bool = False,
        until: Deadline | None = None,
    ) -> str:
        """Hand an address of IP version 4 or 6 to the container; durable on return.

        `network` is the CNI network that it is for, if any. The `unusable` addresses are none that
        it could have there; if it is told of the pool's subnet (`in_subnet`), the edges of that are
        none either. All these are set apart. After `until`, nothing is decided.

        Raises ConflictError, NoAddressError, NoPoolError, DeadlineError, and the journal's errors.
        """
        wait = BlockWait(self._acquisition, BLOCK_WAIT_SECONDS, SPARE_WAIT_SECONDS)
        while True:
            # Each time: whatever is decided below, nothing is waited for before it is.
            if until is not None:
                until.check()
            held = self._state.holdings.get(container_id)
            if held is not None:
                self._refused += 1
                await self._settled(container_id)
                raise ConflictError(
                    f"container {container_id} holds {held.address} already, "
                    f"for pod {held.pod_namespace}/{held.pod_name}"
                )
            pool = self._allocator.pool_for(namespace)
            if (unusable or in_subnet) and not await self._set_apart(
                pool, version, unusable, edges_too=in_subnet
            ):
                continue
            now = self._clock()
            # Not the event's time: what was released before the wall was set has not rested more.
            rested = self._ago(self._reuse_after) + self._reuse_after
            choice = self._allocator.choose(pool, version, rested)
            spare = choice.block is not None
            if choice.wants_block and wait.may_help(spare=spare):
                await wait.another_block(pool, version, spare=spare)
                continue
            if choice.block is None:
                self._refused += 1
                # It may be full because of events that a crash could still undo.
                await self._journal.durable(self._journal.last_sequence)
                raise NoAddressError(wait.refusal)
            block, offset = choice.block, choice.block.next_offset
            fact = (now, block.key, offset, container_id, namespace, pod_name, pool)
            try:
                sequence = self._commit(
                    AttachmentAllocated(*fact, network) if network else AddressAllocated(*fact)
                )
            except JournalBusyError:
                await self._journal.room()
                continue
            self._allocated += 1
            if choice.early:
                self._reused_early += 1
                logger.debug("%s is reused early", block.text(offset))
            self._pending.note(sequence, container_id, None)
            self._allocations.note(sequence, container_id)
            self.gateway_use.note(container_id, placed=in_subnet or bool(unusable))
            await self._journal.durable(sequence)
            return block.text(offset)

    async def release(
        self, namespace: str, pod_name: str, container_id: str, until: Deadline | None = None
    ) -> str:
        """Release the container's address; durable on return. Empty if the pod's has none.

        Raises DeadlineError if that would come after `until`, and the journal's errors.
        """
        while True:
            if until is not None:
                until.check()
            held = self._state.holdings.get(container_id)
            if held is None or held.pod_name != pod_name or held.pod_namespace != namespace:
                await self._settled(container_id)
                return ""
            try:
                sequence = self._release(container_id, held, REQUESTED)
            except JournalBusyError:
                await self._journal.room()
                continue
            await self._journal.durable(sequence)
            return held.address

    async def release_all(
        self, holdings: Iterable[tuple[str, Holding]], reason: str
    ) -> list[tuple[str, Holding]]:
        """Release those of these that are still held; which they are. Durable on return.

        Requests are answered meanwhile. Raises the journal's errors.
        """
        released: list[tuple[str, Holding]] = []
        for container_id, held in holdings:
            # The container may have released it since, and even hold another by now.
            while self._state.holdings.get(container_id) is held:
                try:
                    self._release(container_id, held, reason)
                except JournalBusyError:
                    await self._journal.room()
                else:
                    released.append((container_id, held))
                    if not len(released) % _RELEASE_SLICE:
                        await asyncio.sleep(0)
        await self._journal.durable(self._journal.last_sequence)
        return released

    async def collect(
        self,
        network: str,
        valid: frozenset[str],
        sequence: int,
        until: Deadline | None = None,
        *,
        dry_run: bool = False,
    ) -> list[tuple[str, Holding]]:
        """Release what the network's runtime does not know of any more; what that was.

        That is every address of exactly this network, of a container that is not in `valid`, and
        allocated by the event `sequence` or before: what came later was not in the runtime's list
        because the list is older. Durable on return. With `dry_run`, it is what would be released,
        and nothing is. Raises StaleListError, the journal's errors.
        """
        if sequence > (last := self._journal.last_sequence):
            raise StaleListError(
                f"this journal ends with the sequence {last}, so {sequence} is not of it: ask for "
                "the sequence again (GET /health)"
            )
        if until is not None:
            until.check()
        later = self._allocations.after(sequence)
        forgotten = [
            (container_id, held)
            for container_id, held in self._state.holdings.items()
            if held.network == network and container_id not in valid and container_id not in later
        ]
        return forgotten if dry_run else await self.release_all(forgotten, COLLECTED)

    async def status(self) -> Status:
        """All blocks and addresses as of the last durable event."""
        durable = self._journal.durable_sequence
        blocks: dict[str, list[str]] = {}
        for _, block in self._pending_blocks.durable_items(self._state.blocks, durable):
            blocks.setdefault(block.pool, []).append(str(block.subnet))
        return Status(blocks, self._pending.durable_items(self._state.holdings, durable))

    async def record(self, event: Event) -> None:
        """Journal a fact that is not about one container; durable on return."""
        while True:
            try:
                sequence = self._commit(event, essential=True)
            except JournalBusyError:
                await self._journal.room()
            else:
                break
        await self._journal.durable(sequence)

    async def release_idle_blocks(self, idle_for: int) -> list[str]:
        """Give back the blocks that have been empty for `idle_for`; says which.

        Raises the journal's errors; what was not given back then is still held.
        """
        released = []
        refusal: JournalError | None = None
        idle = self._allocator.idle_blocks(self._ago, idle_for)
        for block, idle_since in [(block, block.idle_since) for block in idle]:
            if block.held or block.idle_since != idle_since:
                # It was used while the routes of those before it were withdrawn.
                continue
            # Routers must not send here what may be another node's.
            withdrawn = await self._announcer.withdraw(block.subnet)
            if not withdrawn or block.held or block.idle_since != idle_since:
                # It may be announced still, or was used meanwhile.
                self._announcer.announce(block.subnet)
                continue
            event = BlockReleased(self._clock(), block.key, block.pool)
            try:
                sequence = self._journal.append(event, essential=True)
            except JournalError as error:
                # The source must still be told of those before.
                refusal = error
                self._announcer.announce(block.subnet)
                break
            self._allocator.forget(block)
            self._state.apply(event)
            self._pending_blocks.note(sequence, block.key, block)
            released.append(block)
        # Only a block that is surely not ours any more may become another's.
        await self._journal.durable(self._journal.last_sequence)
        for block in released:
            await self._source.release(block.pool, block.subnet)
        if refusal is not None:
            raise refusal
        return [str(block.subnet) for block in released]

    def place(self, address: str) -> Place:
        """Where an address lies, by the pools in force."""
        parsed = ipaddress.ip_address(address)
        return self._allocator.place(parsed.version, int(parsed))

    async def _set_apart(
        self, pool: str, version: int, unusable: Sequence[int], *, edges_too: bool
    ) -> bool:
        """Set addresses apart that no pod can use; whether nothing happened in the meantime."""
        try:
            pools = self._allocator.with_apart(pool, version, unusable, edges_too=edges_too)
        except TooManyApartError as error:
            raise NoAddressError(str(error)) from None
        if pools is None:
            return True
        try:
            self._commit(pools_changed(self._clock(), pools))
        except JournalBusyError:
            await self._journal.room()
            return False
        new = ", ".join(map(str, pools[pool].unusable))
        logger.info("set apart in pool %s, as no pod can use them: %s", pool, new)
        return True

    async def close(self) -> None:
        """Stop waiting for blocks. What has been committed stays."""
        await self._acquisition.close()

    def _release(self, container_id: str, held: Holding, reason: str) -> int:
        """Commit the release of an address that is held. The event's sequence."""
        block = held.block
        sequence = self._commit(
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
        return sequence

    def _commit(self, event: Event, *, essential: bool = False) -> int:
        """Append an event that was just decided, and apply it. The event's sequence.

        Appending comes first: it may refuse, and then nothing has happened.
        """
        sequence = self._journal.append(event, essential=essential)
        self._state.apply(event)
        self._allocator.observe(event)
        return sequence

    async def _settled(self, container_id: str) -> None:
        """Wait for the container's last event: what is said of it next must not be undone."""
        await self._journal.durable(self._pending.last(container_id))

    async def _took_block(self, pool: str, subnet: Subnet) -> None:
        """Make a block of the source the node's."""
        while True:
            try:
                sequence = self._commit(BlockAcquired(self._clock(), subnet.key, pool))
            except JournalBusyError:
                await self._journal.room()
            else:
                break
        self._pending_blocks.note(sequence, subnet.key, None)
        logger.info("took block %s from pool %s", subnet, pool)
        self._announcer.announce(subnet)
