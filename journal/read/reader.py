"""Reading a journal without its lock and without changing it: for tools, copies and tests.

A writer may be at work meanwhile, and a compaction move segments into the archive: a file that is
gone is looked for again under its other name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from pathlib import Path
from typing import Any, NamedTuple, Self

from journal.errors import JournalCorruptError, JournalUnsupportedError
from journal.format.archive import read_segment
from journal.format.chain import Position, Walked, check_end, check_succession, claimed_position
from journal.format.codec import MalformedError, SegmentHeader, UnsupportedError, decode_header
from journal.format.scan import End, Scan, list_decoder, scan
from journal.format.segments import SegmentFile, list_history
from journal.format.snapshot import list_snapshots
from journal.fs import FileSystem, OsFileSystem
from journal.read.replay_start import RejectedSnapshot, Restore, find_replay_start
from journal.read.vouching import RecordOf, Records

#: A file can vanish between two looks only when a compaction moves it, which it does once.
_LOOKS = 5

#: Called with how many segments were read, and how many there are.
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
        fs: FileSystem | None = None,
    ) -> None:
        """With `record_of`, a snapshot is used only if the journal has its record.

        `vouched_only` leaves out what is written, but not known to be durable: see `Scan.vouched`.
        """
        self.directory = directory
        self.schema = schema
        self.fs = fs or OsFileSystem()
        self.decoder = list_decoder(event_type)
        self._vouched_only = vouched_only
        self._records = Records.of(self.decoder, record_of)

    def files(self) -> list[SegmentFile]:
        """The segments there are now, oldest first, archived ones included. Raises OSError."""
        return list_history(self.fs, self.directory)

    def to_the_end(self) -> Self:
        """The same reader, that leaves nothing out."""
        other = copy(self)
        other._vouched_only = False  # noqa: SLF001 - it is one of these
        return other

    def restore(
        self, restore: Restore, until: int | None = None
    ) -> tuple[int, tuple[RejectedSnapshot, ...]]:
        """Give `restore` the newest good snapshot of a sequence up to `until`, or None.

        Returns its sequence, 0 if there is none, and what could not be used. Raises as `batches`.
        """
        for _ in range(_LOOKS - 1):
            try:
                found, rejected = self._restore(restore, until)
            except FileNotFoundError:
                continue
            there = {file.path for file in list_snapshots(self.fs, self.directory)}
            # One that is gone now was removed for a newer one.
            if all(snapshot.path in there for snapshot in rejected):
                return found, rejected
        return self._restore(restore, until)

    def _restore(
        self, restore: Restore, until: int | None
    ) -> tuple[int, tuple[RejectedSnapshot, ...]]:
        replay_start = find_replay_start(
            self.fs, self.directory, self.schema, restore, records=self._records, until=until
        )
        return replay_start.position.sequence, replay_start.rejected

    def batches(
        self, start: int | None = None, *, progress: SegmentProgress | None = None
    ) -> Iterator[Batch]:
        """The events from the sequence `start` on up to the last whole frame, a segment at a time.

        With `vouched_only`, up to the last that is known to be durable. `start` None begins with
        the oldest event there is: not the first one ever, if history was pruned. Raises
        JournalCorruptError, also if `start` is nowhere, JournalUnsupportedError, OSError; a
        torn tail is where a journal ends.
        """
        files = self.files()
        if start is None:
            start = files[0].first_sequence if files else 1
        position: Position | None = None
        done = 0
        while True:
            wanted = start if position is None else position.sequence + 1
            walked, events, left = self._next_segment(files, wanted, position)
            if walked is None:
                return
            first = walked.header.first_sequence
            if self._vouched_only and not left and not walked.file.archived:
                del events[walked.found.vouched[0] - first + 1 :]
            if first < start:
                del events[: start - first]
                first = start
            if events:
                yield Batch(first, events)
            # What is good before damage was worth telling.
            check_end(walked.file, walked.found, sealed=bool(left))
            done += 1
            if progress is not None:
                progress(done, done + left)
            if not left:
                return
            position = walked.end
            # Those that were there at first are enough: what a writer adds meanwhile may not end.
            files = [file for file in files if file.first_sequence > walked.file.first_sequence]

    def _next_segment(
        self, files: list[SegmentFile], wanted: int, before: Position | None
    ) -> tuple[Walked | None, list[Any], int]:
        """The segment with the sequence `wanted`, its events, and how many files come after it."""
        for look in range(_LOOKS):
            if not files:
                return None, [], 0
            index = max(
                (i for i, file in enumerate(files) if file.first_sequence <= wanted), default=0
            )
            file = files[index]
            if before is None and file.first_sequence > wanted:
                raise JournalCorruptError(
                    file.path,
                    0,
                    wanted - 1,
                    f"a segment is missing before it: the events {wanted} to "
                    f"{file.first_sequence - 1} are nowhere",
                )
            left = len(files) - index - 1
            try:
                walked, events = self.read(file, before, sealed=bool(left))
            except FileNotFoundError:
                if look == _LOOKS - 1:
                    raise
                last = files[-1].first_sequence
                files[:] = [file for file in self.files() if file.first_sequence <= last]
                continue
            return walked, events, left
        raise AssertionError("the last look returns or raises")

    def read(
        self, file: SegmentFile, before: Position | None, *, sealed: bool
    ) -> tuple[Walked, list[Any]]:
        """Read one segment, which continues `before` (None: whatever it says); and its events.

        How it ends is the caller's to judge, with `check_end`. Raises as `batches`.
        """
        last = before.sequence if before else max(0, file.first_sequence - 1)
        events: list[Any] = []
        try:
            header, found = self._scan(file, events)
            # What a live writer adds while the file is being read can look like damage: a page from
            # before a frame, the page behind it from after the next one. But whoever looks again
            # gets further then. Damage stays where it is.
            while found.end is End.CORRUPT and not sealed:
                offset = found.offset
                header, found = self._scan(file, events)
                if found.offset == offset:
                    break
            check_succession(file, header, before or claimed_position(header))
        except MalformedError as error:
            raise JournalCorruptError(file.path, 0, last, str(error)) from None
        except UnsupportedError as error:
            raise JournalUnsupportedError(file.path, str(error)) from None
        return Walked(file, header, found), events

    def _scan(self, file: SegmentFile, events: list[Any]) -> tuple[SegmentHeader, Scan]:
        events.clear()
        data = read_segment(self.fs, file)
        header = decode_header(data, self.schema)
        return header, scan(data, header, self.decoder, events.extend)


def read_events(
    directory: Path,
    event_type: Any,
    *,
    schema: int,
    start: int | None = 1,
    fs: FileSystem | None = None,
) -> Iterator[tuple[int, Any]]:
    """Each event of `directory` with its sequence, oldest first, up to the last whole frame.

    `start` is the first sequence wanted; None is the oldest there is, if history was pruned. One
    segment is in memory at a time. Raises JournalCorruptError, JournalUnsupportedError,
    OSError; a torn tail is where a journal ends.
    """
    for first, events in Reader(directory, event_type, schema=schema, fs=fs).batches(start):
        yield from enumerate(events, start=first)
