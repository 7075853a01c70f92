"""Asking the source for blocks: one request a pool and family at a time, waited for together.

The source may be a cluster: it may take long and fail. One that is slow for a pool holds up nobody
else, and whoever waits for it gets an answer in time.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Awaitable, Callable

from coild.addresses import Subnet
from coild.blocks import BlockSource, NoBlockError

#: How long a request waits for a block. The container runtime gives up later than this, and an
#: answer is worth more to it than a time-out.
BLOCK_WAIT_SECONDS = 10.0


class Outcome(enum.Enum):
    """How a wait for a block ended, where the source did not refuse one."""

    GOT = "got"
    TIMED_OUT = "timed out"


class Acquisition:
    """The requests to one source. Belongs to one event loop."""

    def __init__(self, source: BlockSource, took: Callable[[str, Subnet], Awaitable[None]]) -> None:
        """`took` makes a block the node's; if it raises, the source has the block back."""
        self._source = source
        self._took = took
        self._acquiring: dict[tuple[str, int], asyncio.Task[None]] = {}

    async def another_block(self, pool: str, version: int, wait: float) -> Outcome:
        """Wait so many seconds for one more block. Raises NoBlockError if the source has none.

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
        except TimeoutError:
            return Outcome.TIMED_OUT
        return Outcome.GOT

    async def close(self) -> None:
        """Ask no more. What was taken stays."""
        for task in self._acquiring.values():
            task.cancel()
        await asyncio.gather(*self._acquiring.values(), return_exceptions=True)

    def _acquired(self, pool: str, version: int, task: asyncio.Task[None]) -> None:
        if self._acquiring.get((pool, version)) is task:
            del self._acquiring[pool, version]
        if not task.cancelled():
            # Everyone who waited may have hung up; then nobody else looks at the error.
            task.exception()

    async def _acquire(self, pool: str, version: int) -> None:
        subnet = await self._source.acquire(pool, version)
        try:
            await self._took(pool, subnet)
        except BaseException:
            await self._source.release(pool, subnet)
            raise


class BlockWait:
    """What one request has waited for so far, with one bound however many blocks others take.

    A spare block, one that the request could do without, is waited for more shortly and once: then
    the request takes an address that was released lately. When others have taken those, it waits
    for a block to its bound. Durations are in seconds.
    """

    def __init__(self, acquisition: Acquisition, bound: float, spare_bound: float) -> None:
        self._acquisition = acquisition
        self._bound = bound
        self._spare_bound = spare_bound
        self._deadline = 0.0
        self._without_spare = False
        #: Why no block can be had. Then it is not waited for one any more.
        self.refusal = ""

    def may_help(self, *, spare: bool) -> bool:
        """Whether to wait for one more block."""
        return not self.refusal and not (spare and self._without_spare)

    async def another_block(self, pool: str, version: int, *, spare: bool) -> None:
        """Wait until there is one more block, or until it cannot be waited for any longer."""
        moment = asyncio.get_running_loop().time()
        self._deadline = self._deadline or moment + self._bound
        left = self._deadline - moment
        wait = min(left, self._spare_bound) if spare else left
        try:
            outcome = await self._acquisition.another_block(pool, version, wait)
        except NoBlockError as error:
            self.refusal = str(error)
            return
        if outcome is Outcome.TIMED_OUT and spare:
            self._without_spare = True
        elif outcome is Outcome.TIMED_OUT:
            self.refusal = f"no block of pool {pool!r} could be had in {self._bound:g} s, try again"
