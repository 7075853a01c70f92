"""One command's way: decide, append, apply, wait until it is durable, answer.

The first three are one synchronous step of the event loop: nothing can come between, and a client
that hangs up while the disk is busy leaves a whole change or none. Only the answer waits.

No answer shows an event that a crash could still undo. Each request waits for the last event of its
own container, not for all that is queued: with a slow disk, a reader of old facts is not slowed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec

from coild.addresses import Subnet
from coild.allocator import Allocator
from coild.blocks import BlockSource, NoBlockError
from coild.events import (
    REQUESTED,
    AddressAllocated,
    AddressReleased,
    BlockAcquired,
    BlockReleased,
    Event,
)
from coild.projection import Holding, Projection
from journal import Journal, JournalBusyError, JournalError

logger = logging.getLogger(__name__)

#: How long a request waits for a block. The container runtime gives up later than this, and an
#: answer is worth more to it than a time-out.
BLOCK_WAIT_SECONDS = 10.0
#: How long it waits for a spare block while it could have an address that was released lately: what
#: a slow cluster does must not keep it from that.
SPARE_WAIT_SECONDS = 0.05
#: So many containers' last events are remembered before those that became durable are dropped.
_RECENT_MIN = 1024


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


class Status(msgspec.Struct, frozen=True):
    """Blocks by pool, and addresses by container ID, at one moment."""

    address_blocks: dict[str, list[str]]
    pods: list[tuple[str, Holding]]


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
    ) -> None:
        self._state = state
        self._journal = journal
        self._source = source
        self._clock = clock
        self._allocator = Allocator(state, reuse_after)
        self._acquiring: dict[tuple[str, int], asyncio.Task[None]] = {}
        # The last event of each container that may not be durable yet, and of some that are.
        self._recent: dict[str, int] = {}
        self._recent_max = _RECENT_MIN
        self._allocated = self._released = self._reused_early = self._refused = 0

    @property
    def statistics(self) -> Statistics:
        """What was counted so far."""
        return Statistics(self._allocated, self._released, self._reused_early, self._refused)

    async def allocate(self, namespace: str, pod_name: str, container_id: str, version: int) -> str:
        """Hand an address of IP version 4 or 6 to the container; durable on return.

        Raises ConflictError, NoAddressError, allocator.NoPoolError, and the journal's errors.
        """
        refusal = ""
        deadline = 0.0
        while True:
            held = self._state.holdings.get(container_id)
            if held is not None:
                self._refused += 1
                await self._settled(container_id)
                raise ConflictError(
                    f"container {container_id} holds {held.address} already, "
                    f"for pod {held.pod_namespace}/{held.pod_name}"
                )
            pool = self._allocator.pool_for(namespace)
            now = self._clock()
            choice = self._allocator.choose(pool, version, now)
            if choice.wants_block and not refusal:
                moment = asyncio.get_running_loop().time()
                # One bound for the request, however many blocks others take before it.
                deadline = deadline or moment + BLOCK_WAIT_SECONDS
                wait = deadline - moment
                if choice.block is not None:
                    wait = min(wait, SPARE_WAIT_SECONDS)
                refusal = await self._another_block(pool, version, wait)
                continue
            if choice.block is None:
                self._refused += 1
                # It may be full because of events that a crash could still undo.
                await self._journal.durable(self._journal.last_sequence)
                raise NoAddressError(refusal)
            block, offset = choice.block, choice.block.next_offset
            try:
                sequence = self._commit(
                    AddressAllocated(
                        now, block.key, offset, container_id, namespace, pod_name, pool
                    )
                )
            except JournalBusyError:
                await self._journal.room()
                continue
            self._allocated += 1
            if choice.early:
                self._reused_early += 1
                logger.debug("%s is reused early", block.text(offset))
            self._remember(container_id, sequence)
            await self._journal.durable(sequence)
            return block.text(offset)

    async def release(self, namespace: str, pod_name: str, container_id: str) -> str:
        """Release the container's address; durable on return. Empty if the pod's has none."""
        while True:
            held = self._state.holdings.get(container_id)
            if held is None or held.pod_name != pod_name or held.pod_namespace != namespace:
                await self._settled(container_id)
                return ""
            block, offset = held.block, held.offset
            try:
                sequence = self._commit(
                    AddressReleased(
                        self._clock(),
                        block.key,
                        offset,
                        container_id,
                        namespace,
                        pod_name,
                        block.pool,
                        REQUESTED,
                    ),
                    essential=True,
                )
            except JournalBusyError:
                await self._journal.room()
                continue
            self._released += 1
            self._remember(container_id, sequence)
            await self._journal.durable(sequence)
            return block.text(offset)

    async def address(self, namespace: str, pod_name: str, container_id: str) -> str | None:
        """The container's address, or None if that pod has none under this container ID."""
        held = self._state.holdings.get(container_id)
        await self._settled(container_id)
        if held is None or held.pod_name != pod_name or held.pod_namespace != namespace:
            return None
        return held.address

    async def status(self) -> Status:
        """All blocks and addresses at this moment, which is durable on return."""
        blocks: dict[str, list[str]] = {}
        for block in self._state.blocks.values():
            blocks.setdefault(block.pool, []).append(str(block.subnet))
        pods = list(self._state.holdings.items())
        await self._journal.durable(self._journal.last_sequence)
        return Status(blocks, pods)

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
        now = self._clock()
        released = []
        refusal: JournalError | None = None
        for block in self._allocator.idle_blocks(now, idle_for):
            event = BlockReleased(now, block.key, block.pool)
            try:
                self._journal.append(event, essential=True)
            except JournalError as error:
                # The source must still be told of those before.
                refusal = error
                break
            self._allocator.forget(block)
            self._state.apply(event)
            released.append(block)
        # Only a block that is surely not ours any more may become another's.
        await self._journal.durable(self._journal.last_sequence)
        for block in released:
            await self._source.release(block.pool, block.subnet)
        if refusal is not None:
            raise refusal
        return [str(block.subnet) for block in released]

    async def close(self) -> None:
        """Stop waiting for blocks. What has been committed stays."""
        for task in self._acquiring.values():
            task.cancel()
        await asyncio.gather(*self._acquiring.values(), return_exceptions=True)

    def _commit(self, event: Event, *, essential: bool = False) -> int:
        """Append an event that was just decided, and apply it. The event's sequence.

        Appending comes first: it may refuse, and then nothing has happened.
        """
        sequence = self._journal.append(event, essential=essential)
        self._state.apply(event)
        self._allocator.observe(event)
        return sequence

    def _remember(self, container_id: str, sequence: int) -> None:
        """Note that the container's last event is this one."""
        recent = self._recent
        recent[container_id] = sequence
        if len(recent) > self._recent_max:
            durable = self._journal.durable_sequence
            self._recent = {key: last for key, last in recent.items() if last > durable}
            self._recent_max = max(_RECENT_MIN, 2 * len(self._recent))

    async def _settled(self, container_id: str) -> None:
        """Wait for the container's last event: what is said of it next must not be undone."""
        sequence = self._recent.get(container_id, 0)
        if sequence > self._journal.durable_sequence:
            await self._journal.durable(sequence)

    async def _another_block(self, pool: str, version: int, wait: float) -> str:
        """Wait so many seconds for one more block; why there is none, or the empty string.

        All who need one wait for the same request, and none of them can cancel it.
        """
        task = self._acquiring.get((pool, version))
        # One that is done gave its block to others already; to await it would not even give way.
        if task is None or task.done():
            task = asyncio.create_task(self._acquire(pool, version))
            self._acquiring[pool, version] = task
            task.add_done_callback(lambda done: self._acquired(pool, version, done))
        try:
            await asyncio.wait_for(asyncio.shield(task), wait)
        except NoBlockError as error:
            return str(error)
        except TimeoutError:
            return (
                f"no block of pool {pool!r} could be had in {BLOCK_WAIT_SECONDS:.0f} s, try again"
            )
        return ""

    def _acquired(self, pool: str, version: int, task: asyncio.Task[None]) -> None:
        if self._acquiring.get((pool, version)) is task:
            del self._acquiring[pool, version]
        if not task.cancelled():
            # Everyone who waited may have hung up; then nobody else looks at the error.
            task.exception()

    async def _acquire(self, pool: str, version: int) -> None:
        subnet: Subnet = await self._source.acquire(pool, version)
        try:
            while True:
                try:
                    self._commit(BlockAcquired(self._clock(), subnet.key, pool))
                except JournalBusyError:
                    await self._journal.room()
                else:
                    break
        except BaseException:
            await self._source.release(pool, subnet)
            raise
        logger.info("took block %s from pool %s", subnet, pool)
