"""Keeps a table of the kernel equal to the blocks that the node holds, beside the requests.

Netlink is asked in a thread of its own, so that no answer waits for it. A change that fails is
tried again, at growing intervals. Others may change the table, too: when the kernel tells of it,
and once in a while in any case, the whole table is compared. While another coild keeps the table,
nothing in it is changed.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import math
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from coild.process.threads import WorkerThread
from coild.routing.announcer import RouteError, RouteHealth
from coild.routing.others import Others
from coild.routing.route_watch import RouteWatch
from coild.routing.table_lock import TableLock
from coild.rules.addresses import Subnet

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

#: How often the table is compared as a whole while all is well, and nothing is told of it.
COMPARE_SECONDS = 60.0
#: How often the table is claimed again while another coild keeps it.
TAKEN_SECONDS = 1.0
#: How long after a failure it is tried again, at first and at most.
RETRY_SECONDS_MIN, RETRY_SECONDS_MAX = 0.5, 30.0
#: Longer than the kernel takes for thousands of routes: the kernel then counts as failing.
TIMEOUT_SECONDS = 10.0
#: How long a stop waits for a table that is busy. The routes stay in any case.
_CLOSE_SECONDS = 1.0
_SILENT = RouteError("the kernel does not answer")


class RouteTable(Protocol):
    """The interface of `netlink.KernelRoutes`; methods may block, and raise RouteError.

    The error says what is wrong, not with which block: what is wrong with many is told once.
    """

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


class _State(enum.Enum):
    """The state of an Exporter."""

    #: Nothing was opened: no block is announced.
    OFF = "off"
    #: The table is kept equal to the blocks.
    OPEN = "open"
    #: The routes stay as they are, and nothing is certain of those that were being changed.
    CLOSED = "closed"


class Exporter:
    """An Announcer by routes, from `open` on; until then nothing is announced.

    Belongs to one event loop.
    """

    def __init__(
        self,
        make: Callable[[], RouteTable],
        *,
        lock: TableLock | None = None,
        watch: Callable[[], RouteWatch] | None = None,
        compare_seconds: float = COMPARE_SECONDS,
        retry_seconds: float = RETRY_SECONDS_MIN,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        """`make` opens the table, in the thread that it belongs to from then on.

        `lock` is held while the table is changed; `watch` opens what tells of others' changes.
        """
        self._make = make
        self._state = _State.OFF
        # There from `open` on.
        self._table: RouteTable
        self._thread = WorkerThread("routes")
        self._compare_seconds = compare_seconds
        self._retry_seconds = retry_seconds
        self._timeout_seconds = timeout_seconds
        self._wanted: set[Subnet] = set()
        #: What is to be looked at next, and why what failed did.
        self._changed: set[Subnet] = set()
        self._failed: dict[Subnet, Exception] = {}
        #: Why the table as a whole could not be compared.
        self._failure: Exception | None = None
        #: The reasons that were told since all was well.
        self._told: set[str] = set()
        self._wake = asyncio.Event()
        self._others = Others(self._wanted, self._wake.set, lock, watch)
        self._turn = asyncio.Lock()

    async def open(self, blocks: Iterable[Subnet]) -> None:
        """Make the table equal to `blocks`, as far as that goes. Raises RouteError of `make`."""
        self._table = await self._thread.submit(self._make)
        self._state = _State.OPEN
        self._wanted.update(blocks)
        self._others.listen()
        await self._reconcile(whole=True)

    @property
    def health(self) -> RouteHealth:
        """Whether the table is as it should be, as far as is known."""
        if self._state is not _State.OPEN:
            return "off"
        fails = self._failed or self._failure or self._others.missing
        return "failing" if fails else "exported"

    @property
    def reason(self) -> str:
        """Why the kernel has not all routes, in words; empty if it has, as far as is known."""
        reasons = [_reason(error) for error in (self._failure, *self._failed.values()) if error]
        if not reasons and (missing := self._others.missing):
            return f"others removed the routes to {len(missing)} blocks"
        return "; ".join(dict.fromkeys(reasons))

    def announce(self, block: Subnet) -> None:
        """As Announcer.announce."""
        self._wanted.add(block)
        self._changed.add(block)
        self._wake.set()

    async def withdraw(self, block: Subnet) -> bool:
        """As Announcer.withdraw. Waits for the kernel for a bounded time."""
        self._wanted.discard(block)
        self._changed.add(block)
        if self._state is _State.OFF:
            return True
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._reconcile(whole=False)
        except TimeoutError:
            self._failure = _SILENT
            self._log_changes()
            return False
        # Somebody may have announced it meanwhile.
        return not any(block in blocks for blocks in (self._wanted, self._changed, self._failed))

    async def run(self) -> None:
        """Make changes as they come and put right what failed, until cancelled.

        Raises what is a bug of its own, and fails visibly from then on.
        """
        try:
            await self._follow()
        except Exception as error:
            self._failure = error
            raise

    async def close(self) -> None:
        """Close the table, in bounded time; the routes stay, as the pods do."""
        was, self._state = self._state, _State.CLOSED
        self._others.close()
        if was is _State.OPEN:
            closing = self._thread.submit(self._table.close)
            done, _ = await asyncio.wait([closing], timeout=_CLOSE_SECONDS)
            if not done:
                closing.cancel()
                logger.warning("the kernel is still busy with the routes, it is left alone")
            elif (error := closing.exception()) is not None:
                logger.warning("the table of routes could not be closed: %s", error)
        self._thread.end()

    async def _follow(self) -> None:
        now = asyncio.get_running_loop().time
        pause = self._retry_seconds
        compare_at, retry_at = now() + self._compare_seconds, math.inf
        while self._state is _State.OPEN:
            if self.health != "failing":
                pause, retry_at = self._retry_seconds, math.inf
            elif retry_at == math.inf:
                retry_at = now() + (TAKEN_SECONDS if self._others.taken else pause)
            compare_at = min(compare_at, self._others.next_look())
            try:
                # A moment, not a duration: changes that come all the time must not put it off.
                async with asyncio.timeout_at(min(compare_at, retry_at)):
                    await self._wake.wait()
            except TimeoutError:
                retries = retry_at <= now()
                await self._reconcile(whole=True)
                compare_at = now() + self._compare_seconds
                if retries:
                    pause, retry_at = min(2 * pause, RETRY_SECONDS_MAX), math.inf
            else:
                self._wake.clear()
                await self._reconcile(whole=False)

    async def _reconcile(self, *, whole: bool) -> None:
        """Make the table as it should be: the whole of it, or the blocks that changed."""
        async with self._turn:
            if whole:
                await self._compare()
            elif self._changed and not self._others.taken:
                await self._change(set())
                self._log_changes()

    async def _compare(self) -> None:
        """Read the table and change what is not as it should be, if the table is ours to change."""
        if self._state is not _State.OPEN or not await self._claim():
            return
        missing = self._others.looks()
        found = await self._with_timeout(self._present)
        if isinstance(found, Exception):
            self._failure = found
        else:
            wrong = found ^ self._wanted
            strange = wrong - self._failed.keys() - self._changed
            if not await self._change(wrong | self._failed.keys()):
                return
            self._failure = None
            self._others.looked(missing, strange)
        self._log_changes()

    async def _claim(self) -> bool:
        """Whether the table is ours to change."""
        taken = await self._with_timeout(self._others.claim)
        if self._state is not _State.OPEN:
            # It was closed meanwhile, without what was claimed just then.
            self._others.close()
            return False
        self._others.claimed(taken)
        if taken is not None:
            self._failure = taken
            self._log_changes()
        return taken is None

    async def _change(self, blocks: set[Subnet]) -> bool:
        """Make the routes of these blocks and of changed ones as wanted; whether it was tried."""
        if self._state is not _State.OPEN:
            return False
        # What is announced from here on is in `_changed` again.
        tried, self._changed = blocks | self._changed, set()
        try:
            failed = await self._with_timeout(lambda: self._apply(tried))
        except BaseException:
            # This call does not wait for the thread any more, which may be doing it, or not.
            self._changed |= tried
            self._wake.set()
            raise
        for block in tried:
            self._failed.pop(block, None)
        self._failed |= failed
        return True

    def _present(self) -> set[Subnet] | Exception:
        """In the thread: the blocks in the table, or why it cannot be read."""
        try:
            return self._table.blocks()
        except Exception as error:  # noqa: BLE001
            return error

    def _apply(self, blocks: set[Subnet]) -> dict[Subnet, Exception]:
        """In the thread: make these routes as wanted; the blocks that failed, and why."""
        failed: dict[Subnet, Exception] = {}
        for block in sorted(blocks):
            if self._state is not _State.OPEN:
                break
            # Looked up now: an `announce` or `withdraw` that comes later asks again.
            act = self._table.add if block in self._wanted else self._table.remove
            try:
                act(block)
            except Exception as error:  # noqa: BLE001
                failed[block] = error
        return failed

    async def _with_timeout(self, work: Callable[[], _T]) -> _T:
        """The result of a call in the thread; if it takes too long, the routes count as failing."""
        future = self._thread.submit(work)
        try:
            done, _ = await asyncio.wait([future], timeout=self._timeout_seconds)
            if not done:
                self._failure = _SILENT
                self._log_changes()
            return await future
        finally:
            future.cancel()

    def _log_changes(self) -> None:
        """Log each new reason of a failure once, and that all is well again."""
        if self._state is not _State.OPEN:
            return
        reasons: dict[str, list[Subnet]] = {}
        errors: dict[str, Exception] = {}
        for block, error in sorted(self._failed.items(), key=lambda item: item[0]):
            errors.setdefault(_reason(error), error)
            reasons.setdefault(_reason(error), []).append(block)
        if self._failure is not None:
            errors.setdefault(_reason(self._failure), self._failure)
        for reason, error in errors.items():
            if reason not in self._told:
                blocks = reasons.get(reason, [])
                more = f" and {len(blocks) - 1} more" if len(blocks) > 1 else ""
                logger.warning(
                    "%s: %s; addresses are handed out all the same, but routers may not know all "
                    "blocks of this node; it is tried again",
                    f"the route to {blocks[0]}{more}" if blocks else "the routes of blocks",
                    reason,
                    # A bug is told in full.
                    exc_info=None if isinstance(error, RouteError) else error,
                )
        if errors:
            self._told |= errors.keys()
            # It may have been noticed outside of `run`, which is to try again soon.
            self._wake.set()
        elif self._told:
            logger.info("the routes of all %d blocks are exported again", len(self._wanted))
            self._told.clear()


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, RouteError) else repr(error)
