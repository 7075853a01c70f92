"""The body of GET /status: encoded once for all who ask together, one encoding at a time."""

from __future__ import annotations

import asyncio
import weakref

import msgspec

from coild.allocation.service import Service
from coild.http.budget import Budget, Shared

#: So many addresses are encoded at a time, then other requests go first.
_SLICE = 1000
#: What an address takes at least: two quoted strings.
_BYTES_MIN = 16


class StatusBodies:
    """Makes the bodies. Belongs to one event loop."""

    def __init__(self, service: Service, budget: Budget, turn: asyncio.Lock) -> None:
        """`turn` is held while a body is made: what else needs much memory for a moment waits."""
        self._service = service
        self._budget = budget
        self._turn = turn
        # What will be encoded next, and may be waited for by whoever asks before it is begun.
        self._next: asyncio.Task[Shared] | None = None
        self._sequence = -1
        self._latest: weakref.ref[Shared] | None = None

    async def get(self) -> Shared:
        """A body that shows the durable state at some moment of this call. Raises BusyError."""
        if self._next is None:
            self._next = asyncio.create_task(self._make())
            # All who wait may hang up before its error comes.
            self._next.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(self._next)

    async def _make(self) -> Shared:
        async with self._turn:
            # From here on others wait for the next: this one does not show what comes now.
            self._next = None
            latest = None if self._latest is None else self._latest()
            sequence = await self._service.sequence()
            if latest is not None and sequence == self._sequence:
                return latest
            body = await self._encode()
            self._budget.check(len(body))
            made = Shared(body, self._budget)
            self._latest, self._sequence = weakref.ref(made), sequence
            return made

    async def _encode(self) -> bytes:
        """In slices: 200,000 addresses are a tenth of a second's work."""
        status = await self._service.status()
        self._budget.check(_BYTES_MIN * len(status.pods))
        blocks = msgspec.json.encode(status.address_blocks)
        parts = [b'{"address-blocks":%b,"pods":{' % blocks]
        for start in range(0, len(status.pods), _SLICE):
            pods = status.pods[start : start + _SLICE]
            comma = b"," if start else b""
            part = msgspec.json.encode({container: held.address for container, held in pods})
            parts.append(comma + part[1:-1])
            await asyncio.sleep(0)
        parts.append(b'},"status":200}')
        return b"".join(parts)
