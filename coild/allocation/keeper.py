"""The blocks of this node: asked of their source when they are wanted, given back when idle.

There is one request at a time for a pool and family, and all requests that need a block wait for it
together. The source may be a cluster: it may take long and fail. One that is slow for a pool delays
no other pool, and a request that waits for it gets an answer in time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from coild.allocation.committer import Committer
from coild.allocation.pending import Pending
from coild.blocks import BlockSource, NoBlockError
from coild.routing.announcer import Announcer
from coild.rules.allocator import Allocator
from coild.rules.events import BlockAcquired, BlockReleased
from coild.rules.holding import Block
from journal import Journal, JournalBusyError, JournalError

logger = logging.getLogger(__name__)

#: How long a request waits for a block. The container runtime gives up later than this, and an
#: answer is worth more to it than a time-out.
BLOCK_WAIT_SECONDS = 10.0
#: How long it waits for a spare block when it could take an address that was released lately: a
#: slow cluster must not delay that.
SPARE_WAIT_SECONDS = 0.05


class BlockKeeper:
    """Acquires and releases the node's blocks. Belongs to one event loop. Durations are in ns."""

    def __init__(
        self,
        source: BlockSource,
        journal: Journal,
        committer: Committer,
        allocator: Allocator,
        announcer: Announcer,
        *,
        clock: Callable[[], int],
        ago: Callable[[int], int],
    ) -> None:
        """`clock` gives the times of events, `ago` the time of an event so long ago."""
        self._source = source
        self._journal = journal
        self._committer = committer
        self._allocator = allocator
        self._announcer = announcer
        self._clock = clock
        self._ago = ago
        self._releasing = asyncio.Lock()
        self._requests: dict[tuple[str, int], asyncio.Task[None]] = {}
        #: The blocks that came or went by events that may not be durable yet.
        self.pending: Pending[bytes, Block] = Pending(lambda: journal.durable_sequence)

    async def another_block(self, pool: str, version: int) -> None:
        """Wait for one more block. Raises NoBlockError if the source has none.

        All callers wait for the same request to the source, and none of them can cancel it.
        """
        task = self._requests.get((pool, version))
        # One that is done gave its block to others already; to await it would not even give way.
        if task is None or task.done():
            task = asyncio.create_task(self._acquire(pool, version))
            self._requests[pool, version] = task
            task.add_done_callback(lambda done: self._acquired(pool, version, done))
        await asyncio.shield(task)

    async def release_idle(self, idle_for: int | None) -> list[str]:
        """Give back the blocks that have been empty for `idle_for`; returns which.

        With None only those of a former configuration, which hand out nothing any more.
        Raises the journal's errors; what was not given back then is still held.
        """
        # One at a time: each waits for the routes of what it is about to give back.
        async with self._releasing:
            return await self._release_idle(idle_for)

    async def _release_idle(self, idle_for: int | None) -> list[str]:
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
                sequence = self._committer.commit(event, essential=True)
            except JournalError as error:
                # The source must still be told of those before.
                refusal = error
                self._announcer.announce(block.subnet)
                break
            self.pending.note(sequence, block.key, block)
            released.append(block)
            why = "it was empty for a while" if block.configured else "it is in no subnet any more"
            logger.info("gave block %s back to pool %s, %s", block.subnet, block.pool, why)
        # Only a block that is surely not ours any more may become another's.
        await self._journal.durable(self._journal.last_sequence)
        for block in released:
            await self._source.release(block.pool, block.subnet)
        if refusal is not None:
            raise refusal
        return [str(block.subnet) for block in released]

    async def close(self) -> None:
        """Ask no more. What was taken stays."""
        for task in self._requests.values():
            task.cancel()
        await asyncio.gather(*self._requests.values(), return_exceptions=True)

    def _acquired(self, pool: str, version: int, task: asyncio.Task[None]) -> None:
        if self._requests.get((pool, version)) is task:
            del self._requests[pool, version]
        if not task.cancelled():
            # All requests that waited may have been cancelled: then only this looks at the error.
            task.exception()

    async def _acquire(self, pool: str, version: int) -> None:
        try:
            subnet = await self._source.acquire(pool, version)
        except NoBlockError:
            # Blocks of a former configuration may stand in its subnets, and nobody needs them.
            if not await self._release_of_old():
                raise
            subnet = await self._source.acquire(pool, version)
        if not self._allocator.may_acquire(pool, subnet):
            # Once journalled, it could give an address to two pods, or keep the next start from
            # reading the journal.
            logger.error("the source of blocks gave %s, no new block of pool %s", subnet, pool)
            raise NoBlockError(
                f"no block of pool {pool!r} could be had: its source gave {subnet}, "
                "which is no new block of it"
            )
        try:
            sequence = await self._journal.when_room(
                lambda: self._committer.commit(BlockAcquired(self._clock(), subnet.key, pool))
            )
        except BaseException:
            await self._source.release(pool, subnet)
            raise
        self.pending.note(sequence, subnet.key, None)
        logger.info("took block %s from pool %s", subnet, pool)
        self._announcer.announce(subnet)

    async def _release_of_old(self) -> bool:
        """Give empty blocks of a former configuration back; whether there were any."""
        # A pool that is full is asked often, and mostly there are none.
        if not self._allocator.idle_blocks(self._ago, None):
            return False
        try:
            return bool(await self.release_idle(None))
        except JournalBusyError:
            # The one who asks is told that there is no block, and asks again.
            return False


class BlockWait:
    """The waiting of one request for blocks: one bound, however many of them others take.

    A spare block, one that the request could do without, is waited for more shortly and once: then
    the request takes an address that was released lately. When others have taken those, it waits
    for a block to its bound. Durations are in seconds.
    """

    def __init__(self, keeper: BlockKeeper) -> None:
        self._keeper = keeper
        self._deadline = 0.0
        self._without_spare = False
        #: Why no block can be had, once that is so. Then there is no more waiting.
        self.refusal: NoBlockError | None = None

    def may_help(self, *, spare: bool) -> bool:
        """Whether to wait for one more block."""
        return self.refusal is None and not (spare and self._without_spare)

    async def another_block(self, pool: str, version: int, *, spare: bool) -> None:
        """Wait until there is one more block, or until it cannot be waited for any longer."""
        now = asyncio.get_running_loop().time()
        self._deadline = self._deadline or now + BLOCK_WAIT_SECONDS
        left = self._deadline - now
        try:
            async with asyncio.timeout(min(left, SPARE_WAIT_SECONDS) if spare else left):
                await self._keeper.another_block(pool, version)
        except NoBlockError as error:
            self.refusal = error
        except TimeoutError:
            if spare:
                self._without_spare = True
            else:
                self.refusal = NoBlockError(
                    f"no block of pool {pool!r} could be had in {BLOCK_WAIT_SECONDS:g} s, try again"
                )
