"""The findings of a check of a journal."""

from __future__ import annotations

from enum import Enum, auto
from pathlib import Path
from typing import NamedTuple, Self

import msgspec

from journal.format.chain import GENESIS, Position
from journal.format.snapshot import Snapshot, snapshot_path
from journal.read.indexed import Found


class Kind(Enum):
    """A fault of a journal."""

    #: The remains of an unfinished write at the end.
    TORN = auto()
    #: A segment is damaged.
    SEGMENT = auto()
    #: A segment is missing: `file` is where it should be.
    MISSING = auto()
    #: One of two copies of a segment is damaged.
    COPY = auto()
    SNAPSHOT = auto()
    #: An index has good checksums, but does not list the events of its segment.
    INDEX = auto()
    #: The bytes are good, but the events contradict each other: only the caller can tell.
    CONTRADICTION = auto()
    #: Written by a newer version.
    UNSUPPORTED = auto()
    #: The file is there, but the system cannot read it.
    UNREADABLE = auto()


class Gap(NamedTuple):
    """Missing events: the sequences `first` to `last`; None if the end is not known."""

    first: int
    last: int | None


class Fault(NamedTuple):
    """A fault at `offset` of `file`; `last_sequence` is the last good event before."""

    kind: Kind
    file: Path
    offset: int
    last_sequence: int
    reason: str
    #: The events of a missing segment.
    gap: Gap | None = None

    @classmethod
    def of_snapshot(cls, directory: Path, sequence: int, reason: str) -> Self:
        """A snapshot is wrong, or is missing."""
        return cls(Kind.SNAPSHOT, snapshot_path(directory, sequence), 0, sequence, reason)


class BadIndex(NamedTuple):
    """An index that does not belong to its segment, and why."""

    path: Path
    reason: str


class Anchor(NamedTuple):
    """A head that was kept elsewhere."""

    sequence: int
    digest: bytes


class Verified(msgspec.Struct):
    """The result of a check."""

    #: What the oldest segment continues: genesis, unless older ones are gone.
    beginning: Position = GENESIS
    #: The end of the last segment that could be read.
    head: Position = GENESIS
    #: The last place before it that no power cut can undo: see `Scan.vouched`.
    vouched: Position = GENESIS
    segments: int = 0
    #: How many events could be read.
    count: int = 0
    #: Good snapshots, oldest first.
    snapshots: list[Snapshot] = []
    #: Undamaged snapshots of which the journal has no record.
    unrecorded: list[Snapshot] = []
    faults: list[Fault] = []
    #: Indexes that cannot be used. They prove nothing, and are made again.
    bad_indexes: list[BadIndex] = []
    #: Indexes with good checksums that hide events or lead elsewhere.
    altered_indexes: list[Fault] = []
    #: The events of the types that were asked for.
    events: list[Found] = []
    #: Whether the anchor was found.
    anchored: bool = False
    #: The chain's digest at the end of each segment, by the last sequence.
    boundaries: dict[int, bytes] = {}

    @property
    def unvouched(self) -> int:
        """The number of events at the end that are not known to be durable yet."""
        return self.head.sequence - self.vouched.sequence
