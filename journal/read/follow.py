"""Follows a journal while it is written, without its lock, and shows durable events only.

A frame that can be read may not be on the disk yet. But the writer begins a frame only when the
one before it is: so a frame with a successor is durable, and the mark after half a second without
events is the successor of the last event. The next segment vouches for all of the one before it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from journal.errors import JournalCorruptError
from journal.format.archive import errors_of, open_segment, read_header
from journal.format.codec import SEGMENT_HEADER_BYTES, Frame, MalformedError
from journal.format.segments import SegmentFile
from journal.read.indexed import Found, read_frames
from journal.read.reader import Reader

#: The bytes read at a time; a multiple of the largest frame.
_PIECE_BYTES = 1 << 20


def follow(reader: Reader, start: int) -> Iterator[list[Found]]:
    """The durable events from the sequence `start` on, without end; an empty list is "none yet".

    When the caller gets an empty list, it sleeps or stops. Raises JournalCorruptError, also if
    `start` is missing, JournalUnsupportedError, OSError.
    """
    follower = _Follower(start)
    while True:
        none = True
        with reader.held(follower.place) as held:
            for found in follower.show(held):
                none = False
                yield found
        # A caller that gets an empty list may stop, so it must be true of the journal as it is now.
        if none:
            yield []


class _Follower:
    def __init__(self, start: int) -> None:
        self._start = start
        # Of the next event that is to be shown, and of the segment that it is or will be in.
        self._next = start
        self._first: int | None = None
        self._offset = SEGMENT_HEADER_BYTES

    @property
    def place(self) -> int:
        """The sequence from which on segments are still needed."""
        return self._next if self._first is None else self._first

    def show(self, reader: Reader) -> Iterator[list[Found]]:
        """The events that became durable since the last call, as far as this reader goes."""
        before: SegmentFile | None = None
        files = self._files(reader)
        for number, file in enumerate(files, start=1):
            first = file.first_sequence
            if self._first is None:
                self._next = first
            elif first not in {self._first, self._next}:
                reason = f"the events {self._next} to {first - 1} "
                if before is None:  # its segment was pruned
                    raise JournalCorruptError(file.path, 0, self._next - 1, f"{reason}are nowhere")
                reason += "cannot be read"
                raise JournalCorruptError(before.path, self._offset, self._next - 1, reason)
            if first != self._first:
                self._first, self._offset = first, SEGMENT_HEADER_BYTES
            # A successor vouches for all of a segment.
            offset = None
            while offset != self._offset:
                offset = self._offset
                if found := self._read(reader, file, vouched=number < len(files)):
                    yield found
            before = file

    def _files(self, reader: Reader) -> list[SegmentFile]:
        """The segment to read on in, and those behind it."""
        if self._first is None:
            return reader.files_from(self._next)
        files = [file for file in reader.files() if file.first_sequence >= self._first]
        if not files:
            reason = "its newest segments are missing"
            raise JournalCorruptError(reader.directory, 0, self._next - 1, reason)
        return files

    def _read(self, reader: Reader, file: SegmentFile, *, vouched: bool) -> list[Found]:
        """The next events of a segment; of the last frame only if it is `vouched` for."""
        found: list[Found] = []
        with errors_of(file, self._next - 1):
            header = read_header(reader.fs, file, reader.schema)
            with open_segment(reader.fs, file) as segment:
                data = segment.read(_PIECE_BYTES, self._offset)
            read: list[tuple[Frame, list[object]]] = []
            # The rest is zeros, a frame that is being written, or one that the piece cuts off.
            with contextlib.suppress(MalformedError):
                read.extend(read_frames(reader.decoder, data, self._offset, header))
            for frame, events in read if vouched else read[:-1]:
                if frame.first_sequence != self._next:
                    raise MalformedError(
                        f"sequence {frame.first_sequence} follows {self._next - 1}", frame.offset
                    )
                found += (Found(self._next + i, event) for i, event in enumerate(events))
                self._next += frame.count
                self._offset = frame.end
        return [entry for entry in found if entry.sequence >= self._start]
