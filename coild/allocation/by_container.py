"""What is asked of containers by their IDs, and what is only looked up, which waits for no disk."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import partial
from itertools import islice

from coild.allocation.committer import Committer
from coild.allocation.deadline import Deadline
from coild.allocation.pending import Pending
from coild.allocation.recent_allocations import is_second
from coild.rules.holding import Holding
from coild.rules.projection import Projection
from journal import Journal


class UnknownContainerError(Exception):
    """The container has no address."""


class AnotherJournalError(Exception):
    """The release is for the daemon of another journal."""


class ByContainer(ABC):
    """The part of the service that the CNI plugin needs: to CNI, names of pods are for people."""

    _state: Projection
    _journal: Journal
    _committer: Committer
    _pending: Pending[str, Holding]

    @abstractmethod
    def _release_of(
        self, container_id: str, pod: tuple[str, str] | None, until: Deadline | None
    ) -> Holding | None:
        """Release what the container holds, if that is for this pod or `pod` is None; what it was.

        Raises DeadlineError and the journal's errors.
        """

    @abstractmethod
    async def _settled(self, container_id: str) -> None:
        """Wait for the container's last event: what is said of it next must not be undone."""

    @property
    def journal_id(self) -> str:
        """The ID of the journal, which names this daemon's history."""
        return self._journal.id

    async def release_containers(
        self, container_ids: Iterable[str], until: Deadline | None = None
    ) -> list[tuple[str, Holding]]:
        """Release what these containers hold, whichever pods they are of; durable on return.

        Raises DeadlineError if that would come after `until`, and the journal's errors.
        """
        released: list[tuple[str, Holding]] = []
        for container_id in container_ids:
            held = await self._committer.when_room(
                partial(self._release_of, container_id, None, until)
            )
            if held is not None:
                released.append((container_id, held))
            else:
                # It may have been released by an event that a crash could still undo.
                await self._settled(container_id)
        for container_id, _ in released:
            await self._settled(container_id)
        return released

    def unknown(self, valid: Iterable[str], count_max: int) -> list[str]:
        """Those of these containers that hold nothing; no more than `count_max` of them.

        The second ID of an attachment is not told of: see `collection.is_second`.
        """
        missing = (
            each for each in valid if not is_second(each) and self._durable_holding(each) is None
        )
        return list(islice(missing, count_max))

    async def holding(self, container_id: str) -> Holding | None:
        """What the container holds durably, whichever pod it is of."""
        return self._durable_holding(container_id)

    async def address(self, namespace: str, pod_name: str, container_id: str) -> str | None:
        """The container's address, or None if that pod durably has none under this container ID."""
        held = self._durable_holding(container_id)
        if held is None or held.pod_name != pod_name or held.pod_namespace != namespace:
            return None
        return held.address

    async def sequence(self) -> int:
        """The sequence of the last durable event."""
        return self._journal.durable_sequence

    def _durable_holding(self, container_id: str) -> Holding | None:
        return self._pending.durable(container_id, self._state.holdings.get(container_id))
