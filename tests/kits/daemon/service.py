"""The real service without a disk: a test can hold, refuse or break its journal in memory.

The journal keeps encoded events, like the real one. So a state that is rebuilt from it has been
through the vocabulary on disk.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar, cast

import msgspec

from coild.allocation.service import Service, Wanted
from coild.blocks import BlockSource
from coild.blocks.static import StaticBlocks
from coild.process.clock import Clock
from coild.routing.announcer import Announcer, RouteHealth
from coild.rules.addresses import Pool, Subnet
from coild.rules.events import AddressAllocated, AddressReleased, Event
from coild.rules.pool_events import pools_changed
from coild.rules.projection import Projection
from journal import Journal, JournalBusyError, JournalError

_T = TypeVar("_T")

_encode = msgspec.msgpack.Encoder().encode
decode_event = msgspec.msgpack.Decoder(Event).decode

#: More rounds of the event loop than any task here needs to come to a halt.
_ROUNDS = 50


def pool(block_size: int, *subnets: str) -> Pool:
    """A pool from text."""
    return Pool(tuple(map(Subnet.parse, subnets)), block_size)


class Unannounced:
    """An Announcer that announces nothing."""

    health: RouteHealth = "off"

    def announce(self, block: Subnet) -> None:
        """As Announcer.announce."""

    async def withdraw(self, block: Subnet) -> bool:
        """As Announcer.withdraw: it never was announced."""
        return True


class MemoryJournal:
    """The methods of a Journal that the service calls.

    Events are durable at once, unless `held`: then `flush` makes them so.
    """

    def __init__(self) -> None:
        self.encoded: list[bytes] = []
        self.essential: list[bool] = []
        self.held = False
        #: Raised by the next appends, one each.
        self.refusals: deque[JournalError] = deque()
        #: Cleared: `room` waits.
        self.roomy = asyncio.Event()
        self.roomy.set()
        #: How often `room` was called.
        self.room_asked = 0
        self.durable_sequence = 0
        self._failure: JournalError | None = None
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []

    @property
    def last_sequence(self) -> int:
        """The sequence of the last event appended."""
        return len(self.encoded)

    @property
    def waited_for(self) -> list[int]:
        """The sequences that calls wait for now."""
        return sorted(sequence for sequence, future in self._waiters if not future.done())

    def events(self, start: int = 0) -> list[Any]:
        """All events from an index on, as history has them."""
        return [decode_event(data) for data in self.encoded[start:]]

    def of_containers(self) -> list[AddressAllocated | AddressReleased]:
        """The events of addresses alone."""
        return [
            event
            for event in self.events()
            if isinstance(event, (AddressAllocated, AddressReleased))
        ]

    def replay(self) -> Projection:
        """The state that a restart would find."""
        state = Projection()
        state.apply_all([decode_event(data) for data in self.encoded])
        return state

    def append(self, event: msgspec.Struct, *, essential: bool = False) -> int:
        """As Journal.append."""
        if self._failure is not None:
            raise self._failure
        if self.refusals:
            raise self.refusals.popleft()
        self.encoded.append(_encode(event))
        self.essential.append(essential)
        if not self.held:
            self.flush()
        return self.last_sequence

    async def durable(self, sequence: int) -> None:
        """As Journal.durable."""
        if sequence <= self.durable_sequence:
            return
        if self._failure is not None:
            raise self._failure
        future = asyncio.get_running_loop().create_future()
        self._waiters.append((sequence, future))
        await future

    async def room(self) -> None:
        """As Journal.room."""
        self.room_asked += 1
        await self.roomy.wait()

    async def when_room(self, decide: Callable[[], _T]) -> _T:
        """As Journal.when_room."""
        while True:
            try:
                return decide()
            except JournalBusyError:
                await self.room()

    def flush(self, sequence: int | None = None) -> None:
        """Make the events up to `sequence` durable; all by default."""
        self.durable_sequence = self.last_sequence if sequence is None else sequence
        for wanted, future in self._waiters:
            if wanted <= self.durable_sequence and not future.done():
                future.set_result(None)

    def fail(self, failure: JournalError) -> None:
        """Break for good."""
        self._failure = failure
        for _, future in self._waiters:
            if not future.done():
                future.set_exception(failure)


class HeldBlocks:
    """A source that answers when `gate` is open, with what the test put into `answers`."""

    def __init__(self, *answers: Subnet | Exception) -> None:
        self.answers = deque(answers)
        self.gate = asyncio.Event()
        self.asked: list[tuple[str, int]] = []
        self.released: list[tuple[str, Subnet]] = []
        #: Requests that were cancelled while they waited.
        self.cancelled = 0

    def give(self, *answers: Subnet | Exception) -> None:
        """Have these for the next who ask, one each."""
        self.answers.extend(answers)

    async def acquire(self, pool: str, version: int) -> Subnet:
        """As BlockSource.acquire."""
        self.asked.append((pool, version))
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        answer = self.answers.popleft()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def has_block(self, pool: str, version: int) -> bool:
        """As BlockSource.has_block."""
        return bool(self.answers) and isinstance(self.answers[0], Subnet)

    async def release(self, pool: str, block: Subnet) -> None:
        """As BlockSource.release."""
        self.released.append((pool, block))


class Bench:
    """A service with its dependencies, after a start like the daemon's."""

    def __init__(
        self,
        pools: Mapping[str, Pool],
        *,
        source: BlockSource | None = None,
        journal: MemoryJournal | None = None,
        announcer: Announcer | None = None,
        reuse_after: int = 30,
        now: int = 1000,
        clock: Clock | None = None,
    ) -> None:
        self.now = now
        self.journal = journal or MemoryJournal()
        self.state = self.journal.replay()
        self.source = source or StaticBlocks(
            pools, [block.subnet for block in self.state.blocks.values()]
        )
        self.service = Service(
            self.state,
            cast(Journal, self.journal),
            self.source,
            reuse_after=reuse_after,
            clock=clock or (lambda: self.now),
            ago=clock.ago if clock else (lambda duration: self.now - duration),
            announcer=announcer or Unannounced(),
        )
        self._pools = dict(pools)

    async def start(self) -> Bench:
        """Put the pools in force, after the service was made: so does the daemon."""
        if self.state.pools != self._pools:
            await self.service.record(pools_changed(self.now, self._pools))
        return self

    async def allocate(
        self, container_id: str, namespace: str = "default", version: int = 4
    ) -> str:
        """Allocate for the pod `web-0`."""
        return await self.service.allocate(Wanted(namespace, "web-0", container_id, version))

    async def release(self, container_id: str, namespace: str = "default") -> str:
        """Release what the pod `web-0` has."""
        return await self.service.release(namespace, "web-0", container_id)

    async def blocks(self) -> dict[str, list[str]]:
        """The blocks that the node holds, by pool."""
        return self.service.durable.status().address_blocks


async def settled(*coroutines: Coroutine[Any, Any, _T]) -> list[asyncio.Task[_T]]:
    """Start them, and let everything run until it waits for what the test holds back."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    for _ in range(_ROUNDS):
        await asyncio.sleep(0)
    return tasks
