"""Which addresses were allocated after a moment: what a garbage collection must not touch.

A runtime's list of its containers is older than the request that brings it. The sequence of the
journal at the time of the list tells which allocations it cannot know of.
"""

from __future__ import annotations

from collections import deque

#: A list that is older than so many allocations is refused. A node starts a few containers a
#: second; this takes 2 MB at most.
REMEMBERED_MAX = 16_384


#: How the CNI plugin's container ID of the IPv6 address ends where an attachment has two.
_SECOND = "/ipv6"


def is_second(container_id: str) -> bool:
    """Whether it may be the second ID of an attachment, which only has one if it is "dual"."""
    return container_id.endswith(_SECOND) and container_id.count("/") == 2


class StaleListError(Exception):
    """The list is too old: what was allocated after it is not known any more."""


class RecentAllocations:
    """The last allocations, by sequence."""

    def __init__(self, sequence: int, remembered_max: int = REMEMBERED_MAX) -> None:
        """All that is held now was allocated by the event `sequence` or before."""
        self._known_since = sequence
        self._remembered_max = remembered_max
        self._latest: deque[tuple[int, str]] = deque()

    def note(self, sequence: int, container_id: str) -> None:
        """Take note of the next allocation."""
        self._latest.append((sequence, container_id))
        if len(self._latest) > self._remembered_max:
            self._known_since, _ = self._latest.popleft()

    def after(self, sequence: int) -> frozenset[str]:
        """The containers that were given an address after this event. Raises StaleListError."""
        if sequence < self._known_since:
            raise StaleListError(
                f"the list of what is valid was taken at sequence {sequence}, and which addresses "
                f"were allocated after it is known from {self._known_since} on only: ask for the "
                "sequence again (GET /health), then list what is valid, then repeat the request"
            )
        latest = set()
        for allocated, container_id in reversed(self._latest):
            if allocated <= sequence:
                break
            latest.add(container_id)
        return frozenset(latest)
