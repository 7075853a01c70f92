"""What the journal needs to know of its caller: the events, and the state that they make."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from journal.format.index import Keys
from journal.format.snapshot import Snapshot
from journal.read.vouching import RecordOf


class State(Protocol):
    """The caller's state, as a snapshot needs it."""

    def restore(self, snapshot: Snapshot | None) -> None:
        """Take over the state of a snapshot, or the empty state. Raises ValueError."""

    def apply_all(self, events: Sequence[Any]) -> None:
        """Apply the next events."""

    def dump(self) -> bytes:
        """The state, such that equal states give equal bytes."""

    @property
    def time(self) -> int:
        """The time of the last event, in ns since the epoch."""


class Vocabulary(msgspec.Struct, frozen=True):
    """The caller's events: their types, and how they are found."""

    schema: int
    event_type: Any
    keys: Keys
    #: Tells the events that record snapshots; None: a snapshot needs no record.
    record_of: RecordOf | None = None
