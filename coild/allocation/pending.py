"""Changes that may not be durable yet, and what was there before: reads wait for no disk.

State is changed as soon as an event is queued. What a crash could still undo is kept here with
what it replaced, so a reader sees the durable state while a flush takes its time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

_Key = TypeVar("_Key", str, bytes)
_Value = TypeVar("_Value")


class Pending(Generic[_Key, _Value]):
    """The changes to one mapping by events after the last durable one. Belongs to one loop."""

    def __init__(self, durable_sequence: Callable[[], int]) -> None:
        """`durable_sequence` tells the last event that is durable; it only grows."""
        self._durable_sequence = durable_sequence
        # Sequence, key, what was there before; by sequence, and the same for each key.
        self._changes: deque[tuple[int, _Key, _Value | None]] = deque()
        self._by_key: dict[_Key, deque[tuple[int, _Value | None]]] = {}

    def note(self, sequence: int, key: _Key, before: _Value | None) -> None:
        """The event `sequence`, which is the latest, replaced what was there; None: nothing was."""
        self._changes.append((sequence, key, before))
        self._by_key.setdefault(key, deque()).append((sequence, before))
        self._forget(self._durable_sequence())

    def last(self, key: _Key) -> int:
        """The sequence of the key's last event, or 0 if it is durable."""
        self._forget(self._durable_sequence())
        changes = self._by_key.get(key)
        return changes[-1][0] if changes else 0

    def durable(self, key: _Key, now: _Value | None) -> _Value | None:
        """The durable value, where `now` is the one by all events."""
        if not self._changes:
            return now
        self._forget(self._durable_sequence())
        changes = self._by_key.get(key)
        return changes[0][1] if changes else now

    def durable_items(self, now: Mapping[_Key, _Value], durable: int) -> list[tuple[_Key, _Value]]:
        """All that is there by the events up to `durable`, which is the last durable one.

        `now` is what is there by all events.
        """
        self._forget(durable)
        if not self._changes:
            return list(now.items())
        undone: dict[_Key, _Value | None] = {}
        for _, key, before in self._changes:
            undone.setdefault(key, before)
        shown = [item for item in now.items() if item[0] not in undone]
        shown += [(key, before) for key, before in undone.items() if before is not None]
        return shown

    def _forget(self, durable: int) -> None:
        """Drop what became durable."""
        changes = self._changes
        while changes and changes[0][0] <= durable:
            _, key, _ = changes.popleft()
            of_key = self._by_key[key]
            of_key.popleft()
            if not of_key:
                del self._by_key[key]
