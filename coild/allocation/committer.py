"""How an event comes to be: decided, appended and applied in one step of the event loop.

And whether requests may have one.
"""

from __future__ import annotations

from coild.rules.allocator import Allocator
from coild.rules.events import Event
from coild.rules.projection import Projection
from journal import Journal


class WriteGate:
    """Shut while the daemon must not change anything; questions are answered all the same."""

    #: Why it is shut, in the words of the disk's error; empty while it is open.
    reason = ""


class Committer:
    """Appends to the journal what was decided, and applies it. Belongs to one event loop."""

    def __init__(self, state: Projection, journal: Journal, allocator: Allocator) -> None:
        self._state = state
        self._journal = journal
        self._allocator = allocator

    def commit(self, event: Event, *, essential: bool = False) -> int:
        """Append an event and apply it; the event's sequence. It is durable later.

        An `essential` event may use the room that a full disk leaves for releases. Raises the
        journal's errors: appending comes first, and if it is refused, nothing has happened.
        """
        sequence = self._journal.append(event, essential=essential)
        self._state.apply(event)
        self._allocator.observe(event)
        return sequence

    async def record(self, event: Event) -> int:
        """Commit a fact that is not about one container; its sequence. Durable on return."""
        sequence = await self._journal.when_room(lambda: self.commit(event, essential=True))
        await self._journal.durable(sequence)
        return sequence
