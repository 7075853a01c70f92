"""Keeps a table of the kernel equal to the blocks that the node holds, beside the requests.

Netlink is asked in a thread of its own, so that no answer waits for it. A change that fails is
tried again, at growing intervals; once in a while the whole table is looked at, for others may
change it, too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from coild.addresses import Subnet
from coild.announcer import RouteError, RouteHealth

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

#: How often the table is compared as a whole while all is well.
COMPARE_SECONDS = 60.0
#: How long after a failure it is tried again, at first and at most.
RETRY_SECONDS_MIN, RETRY_SECONDS_MAX = 0.5, 30.0


class RouteTable(Protocol):
    """What is needed of `kernel.KernelRoutes`; methods may block, and raise RouteError."""

    def blocks(self) -> set[Subnet]:
        """The blocks that have a route of ours."""
        ...

    def add(self, block: Subnet) -> None:
        """On return, there is a route to the block."""
        ...

    def remove(self, block: Subnet) -> None:
        """On return, there is none."""
        ...

    def close(self) -> None:
        """The routes stay."""
        ...


class Exporter:
    """An Announcer by routes, from `open` on; until then nothing is announced.

    Belongs to one event loop.
    """

    def __init__(
        self,
        make: Callable[[], RouteTable],
        *,
        compare_seconds: float = COMPARE_SECONDS,
        retry_seconds: float = RETRY_SECONDS_MIN,
    ) -> None:
        """`make` opens the table, in the thread that it belongs to from then on."""
        self._make = make
        self._table: RouteTable | None = None
        self._thread = ThreadPoolExecutor(1, "routes")
        self._compare_seconds = compare_seconds
        self._retry_seconds = self._first_retry_seconds = retry_seconds
        self._wanted: set[Subnet] = set()
        #: What is to be looked at next, and why what failed did.
        self._changed: set[Subnet] = set()
        self._failed: dict[Subnet, str] = {}
        #: Why the table as a whole could not be compared.
        self._trouble = ""
        self._told = ""
        self._wake = asyncio.Event()
        self._turn = asyncio.Lock()

    async def open(self, blocks: Iterable[Subnet]) -> None:
        """Make the table equal to `blocks`, as far as that goes. Raises RouteError of `make`."""
        self._table = await self._in_thread(self._make)
        self._wanted.update(blocks)
        await self._compare(self._table)

    @property
    def health(self) -> RouteHealth:
        """Whether the table is as it should be, as far as is known."""
        if self._table is None:
            return "off"
        return "failing" if self._failed or self._trouble else "exported"

    def announce(self, block: Subnet) -> None:
        """As Announcer.announce."""
        self._wanted.add(block)
        self._changed.add(block)
        self._wake.set()

    async def withdraw(self, block: Subnet) -> bool:
        """As Announcer.withdraw."""
        self._wanted.discard(block)
        self._changed.add(block)
        if self._table is not None:
            await self._apply(self._table)
        return block not in self._failed

    async def run(self) -> None:
        """Make changes as they come and put right what failed, until cancelled."""
        while self._table is not None:
            failing = self.health == "failing"
            pause = self._retry_seconds if failing else self._compare_seconds
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                self._retry_seconds = min(2 * self._retry_seconds, RETRY_SECONDS_MAX)
                await self._compare(self._table)
            else:
                self._wake.clear()
                await self._apply(self._table)
            if self.health == "exported":
                self._retry_seconds = self._first_retry_seconds

    async def close(self) -> None:
        """Let go of the table; the routes stay, for the pods do."""
        async with self._turn:
            if self._table is not None:
                await self._in_thread(self._table.close)
                self._table = None
            self._thread.shutdown(wait=False)

    async def _apply(self, table: RouteTable) -> None:
        """Make what changed so."""
        async with self._turn:
            changed, self._changed = self._changed, set()
            if changed:
                self._note(changed, await self._in_thread(lambda: self._change(table, changed)))

    async def _compare(self, table: RouteTable) -> None:
        """Make the whole table as it should be."""
        async with self._turn:
            try:
                present = await self._in_thread(table.blocks)
            except RouteError as error:
                self._trouble = str(error)
                self._note(set(), {})
                return
            self._trouble = ""
            # What is announced from here on is in `_changed` again.
            wrong = (present ^ self._wanted) | self._changed | self._failed.keys()
            self._changed = set()
            self._note(wrong, await self._in_thread(lambda: self._change(table, wrong)))

    def _change(self, table: RouteTable, blocks: set[Subnet]) -> dict[Subnet, str]:
        """In the thread: what failed, and why."""
        failed = {}
        for block in sorted(blocks):
            # Looked up now: whoever announces or withdraws it later, asks again.
            act = table.add if block in self._wanted else table.remove
            try:
                act(block)
            except RouteError as error:
                failed[block] = str(error)
        return failed

    def _note(self, tried: set[Subnet], failed: dict[Subnet, str]) -> None:
        """Take note of what was tried; say what is new about it."""
        for block in tried:
            self._failed.pop(block, None)
        self._failed |= failed
        trouble = self._trouble or next(iter(self._failed.values()), "")
        if trouble and trouble != self._told:
            logger.warning(
                "%s; addresses are handed out all the same, but routers may not know of %d blocks; "
                "it is tried again",
                trouble,
                len(self._failed) or len(self._wanted),
            )
        elif self._told and not trouble:
            logger.info("the routes of all %d blocks are exported again", len(self._wanted))
        self._told = trouble

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
