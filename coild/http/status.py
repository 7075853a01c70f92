"""The body of GET /status: encoded once for requests that come together, one at a time."""

from __future__ import annotations

import asyncio
import weakref

import msgspec

from coild.allocation.durable import DurableState
from coild.http.budget import Budget, Shared
from coild.http.slices import encode_inside

#: What an address takes at least: two quoted strings.
_BYTES_MIN = 16


class StatusBodies:
    """Makes the bodies. Belongs to one event loop."""

    def __init__(self, state: DurableState, budget: Budget, turn: asyncio.Lock) -> None:
        """`turn` is held while a body is made: what else needs much memory for a moment waits."""
        self._state = state
        self._budget = budget
        self._turn = turn
        # The next body: requests that come before it is begun wait for it.
        self._next: asyncio.Task[Shared] | None = None
        self._sequence = -1
        self._latest: weakref.ref[Shared] | None = None

    async def get(self) -> Shared:
        """A body that shows the durable state at some moment of this call. Raises BusyError."""
        if self._next is None:
            self._next = asyncio.create_task(self._make())
            # All requests that wait may be cancelled before its error comes.
            self._next.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(self._next)

    async def _make(self) -> Shared:
        async with self._turn:
            # From here on others wait for the next: this one does not show what comes now.
            self._next = None
            latest = None if self._latest is None else self._latest()
            sequence = self._state.sequence
            if latest is not None and sequence == self._sequence:
                return latest
            body = await self._encode()
            self._budget.check(len(body))
            made = Shared(body, self._budget)
            self._latest, self._sequence = weakref.ref(made), sequence
            return made

    async def _encode(self) -> bytes:
        status = self._state.status()
        self._budget.check(_BYTES_MIN * len(status.pods))
        blocks = msgspec.json.encode(status.address_blocks)
        pods = await encode_inside(
            status.pods, lambda part: {container: held.address for container, held in part}
        )
        return b'{"address-blocks":%b,"pods":{%b},"status":200}' % (blocks, pods)
