"""Asking the source for blocks: one request a pool and family at a time, waited for together.

The source may be a cluster: it may take long and fail. One that is slow for a pool holds up nobody
else, and whoever waits for it gets an answer in time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from coild.addresses import Subnet
from coild.blocks import BlockSource, NoBlockError

#: How long a request waits for a block. The container runtime gives up later than this, and an
#: answer is worth more to it than a time-out.
BLOCK_WAIT_SECONDS = 10.0


class Acquisition:
    """The requests to one source. Belongs to one event loop."""

    def __init__(self, source: BlockSource, took: Callable[[str, Subnet], Awaitable[None]]) -> None:
        """`took` makes a block the node's; if it raises, the source has the block back."""
        self._source = source
        self._took = took
        self._acquiring: dict[tuple[str, int], asyncio.Task[None]] = {}

    async def another_block(self, pool: str, version: int, wait: float) -> str:
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
