"""Reads a journal without its lock and without changing it: for tools, copies and tests.

Meanwhile a writer may run, and a compaction may move or remove files: see `view`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any, NamedTuple, Self

from journal.errors import JournalCorruptError
from journal.format.chain import (
    DamagedSegmentError,
    Position,
    Walked,
    read_one,
    read_stable,
)
from journal.format.scan import list_decoder
from journal.format.segments import SegmentFile, list_history
from journal.fs import FileSystem, OsFileSystem
from journal.read.replay_start import RejectedSnapshot, Restore, find_replay_start
from journal.read.view import View
from journal.read.vouching import RecordOf, Records

#: Called with the number of segments read, and of all segments.
SegmentProgress = Callable[[int, int], None]


class Batch(NamedTuple):
    """Events in order, the first of which has `first_sequence`."""

    first_sequence: int
    events: list[Any]


class Reader:
    """One journal directory, read lock-free. Events are decoded as `event_type`."""

    def __init__(
        self,
        directory: Path,
        event_type: Any,
        *,
        schema: int,
        record_of: RecordOf | None = None,
        vouched_only: bool = False,
        fs: FileSystem | View | None = None,
    ) -> None:
        """With `record_of`, a snapshot is used only if the journal has its record.

        `vouched_only` leaves out events that are not known to be durable: see `Scan.vouched`.
        With a `View` as `fs`, it reads the journal as it was at one moment.
        """
        self.directory = directory
        self.schema = schema
        self.fs: FileSystem | View = fs or OsFileSystem()
        self.decoder = list_decoder(event_type)
        self._vouched_only = vouched_only
        self._records = Records.of(self.decoder, record_of)

    def files(self) -> list[SegmentFile]:
        """All segments, oldest first, archived ones included. Raises OSError."""
        return list_history(self.fs, self.directory)

    @property
    def first(self) -> int:
        """The oldest sequence left; more than 1 if history was pruned, or files are missing."""
        files = self.files()
        return files[0].first_sequence if files else 1

    @contextmanager
    def held(self, start: int | None = None) -> Iterator[Self]:
        """A reader of the journal as it is now: see `View`. Raises as that does.

        A reader of a `View` stays as it is.
        """
        other = copy(self)
        with View.of(self.fs, self.directory, start) as other.fs:
            yield other

    def now(self) -> Self:
        """A reader of the journal as it is at each read."""
        other = copy(self)
        other.fs = self.fs.disk if isinstance(self.fs, View) else self.fs
        return other

    def to_the_end(self) -> Self:
        """A reader that leaves no event out."""
        other = copy(self)
        other._vouched_only = False  # noqa: SLF001 - it is one of these
        return other

    def restore(
        self, restore: Restore, until: int | None = None
    ) -> tuple[int, tuple[RejectedSnapshot, ...]]:
        """Give `restore` the newest good snapshot of a sequence up to `until`, or None.

        Returns its sequence, 0 if there is none, and the rejected ones. Raises as `batches`.
        """
        with self.held() as held:
            found = find_replay_start(
                held.fs, self.directory, self.schema, restore, records=self._records, until=until
            )
        return found.position.sequence, found.rejected

    def batches(
        self, start: int | None = None, *, progress: SegmentProgress | None = None
    ) -> Iterator[Batch]:
        """The events from the sequence `start` on up to the last whole frame, a segment at a time.

        With `vouched_only`, up to the last that is known to be durable. `start` None begins with
        the oldest event left, which is not the first one ever if history was pruned. Raises
        JournalCorruptError, also if `start` is missing, JournalUnsupportedError, OSError; at a
        torn tail the journal ends without an error.
        """
        with self.held(start) as held:
            position: Position | None = None
            files = held.files_from(start)
            for number, file in enumerate(files, start=1):
                left = len(files) - number
                events: list[Any] = []
                damage: DamagedSegmentError | None = None
                try:
                    walked = held._read(file, position, events, sealed=bool(left))  # noqa: SLF001
                except DamagedSegmentError as error:
                    if error.walked is None:
                        raise
                    # The good events before damage are delivered first.
                    walked, damage = error.walked, error
                first = file.first_sequence
                if self._vouched_only and not left and not file.archived:
                    del events[walked.found.vouched[0] - first + 1 :]
                if start is not None and first < start:
                    del events[: start - first]
                    first = start
                if events:
                    yield Batch(first, events)
                if damage is not None:
                    raise damage
                if progress is not None:
                    progress(number, len(files))
                position = walked.end

    def files_from(self, start: int | None) -> list[SegmentFile]:
        """The segment with the sequence `start`, and those behind it; None: all.

        Raises JournalCorruptError if there is none with it, OSError.
        """
        files = self.files()
        if start is None or not files:
            return files
        if (first := files[0].first_sequence) > start:
            raise JournalCorruptError(
                files[0].path,
                0,
                start - 1,
                f"a segment is missing before it: the events {start} to {first - 1} are nowhere",
            )
        return files[max(i for i, file in enumerate(files) if file.first_sequence <= start) :]

    def _read(
        self, file: SegmentFile, before: Position | None, events: list[Any], *, sealed: bool
    ) -> Walked:
        """Read one segment, which continues `before` (None: trust its header), into `events`."""

        def read() -> tuple[Walked, bytes]:
            events.clear()
            return read_one(
                self.fs, file, self.schema, before, self.decoder, events.extend, sealed=sealed
            )

        return (read() if sealed else read_stable(read))[0]


def read_events(
    directory: Path,
    event_type: Any,
    *,
    schema: int,
    start: int | None = 1,
    fs: FileSystem | None = None,
) -> Iterator[tuple[int, Any]]:
    """Each event of `directory` with its sequence, oldest first, up to the last whole frame.

    `start` is the first sequence wanted; None is the oldest one left, if history was pruned. One
    segment is in memory at a time. Raises JournalCorruptError, JournalUnsupportedError,
    OSError; at a torn tail the journal ends without an error.
    """
    for first, events in Reader(directory, event_type, schema=schema, fs=fs).batches(start):
        yield from enumerate(events, start=first)
