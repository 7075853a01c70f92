"""Following a journal that is being written, without its lock, and showing what is durable only.

A frame that can be read need not be on the disk yet. But the writer begins a frame only when the
one before it is: so what has a successor is durable, and the mark that ends every silence is the
successor that the last event needs. The next segment vouches for all of the one before it.
"""

from __future__ import annotations

from collections.abc import Iterator

from journal.errors import JournalCorruptError
from journal.format.archive import errors_of, open_segment, read_header
from journal.format.codec import SEGMENT_HEADER_BYTES, Frame, MalformedError, SegmentHeader
from journal.format.segments import SegmentFile
from journal.read.indexed import Found, read_frames
from journal.read.reader import Reader

#: Read at a time; a multiple of the largest frame.
_PIECE_BYTES = 1 << 20
#: As for a `Reader`: a compaction moves a file once.
_LOOKS = 5


def follow(reader: Reader, start: int) -> Iterator[list[Found]]:
    """The durable events from the sequence `start` on, for ever; an empty list is "none yet".

    The caller sleeps when it gets one, or stops. Raises JournalCorruptError, also if `start` is
    nowhere, JournalUnsupportedError, OSError.
    """
    follower = _Follower(reader, start)
    while True:
        yield follower.more()


class _Follower:
    def __init__(self, reader: Reader, start: int) -> None:
        self._reader = reader
        self._start = start
        self._file: SegmentFile | None = None
        self._offset = SEGMENT_HEADER_BYTES
        # Of the next event that is to be shown.
        self._next = start
        self._stuck = False

    def more(self) -> list[Found]:
        """What has become durable since the last call, or a part of it; nothing if there is none.

        Who is told that there is none may stop: so the end of a segment is not the end.
        """
        moved = 0
        while True:
            file = self._locate()
            if file is None:
                return []
            place = self._file, self._offset
            try:
                with errors_of(file, self._next - 1):
                    found = self._read(file)
            except FileNotFoundError:
                # A compaction moved it; the next look finds it.
                moved += 1
                if moved == _LOOKS:
                    raise
                continue
            if found or (place == (self._file, self._offset) and not self._stuck):
                return found

    def _locate(self) -> SegmentFile | None:
        """The segment to read on in, wherever it is by now."""
        files = self._reader.files()
        if self._file is None:
            before = [file for file in files if file.first_sequence <= self._next]
            if not before and files:
                raise JournalCorruptError(
                    files[0].path,
                    0,
                    self._next - 1,
                    f"the events {self._next} to {files[0].first_sequence - 1} are nowhere",
                )
            self._file = before[-1] if before else None
            self._next = self._file.first_sequence if self._file else self._next
            return self._file
        here = [file for file in files if file.first_sequence >= self._file.first_sequence]
        if not here or here[0].first_sequence == self._file.first_sequence:
            return here[0] if here else self._file
        # It was pruned meanwhile.
        if here[0].first_sequence != self._next:
            raise JournalCorruptError(
                here[0].path,
                0,
                self._next - 1,
                f"the events {self._next} to {here[0].first_sequence - 1} are nowhere",
            )
        self._file, self._offset = here[0], SEGMENT_HEADER_BYTES
        return self._file

    def _read(self, file: SegmentFile) -> list[Found]:
        # Before the frames are read: then a successor vouches for all that can be read.
        successor = next(
            (other for other in self._reader.files() if other.first_sequence > file.first_sequence),
            None,
        )
        header = read_header(self._reader.fs, file, self._reader.schema)
        segment = open_segment(self._reader.fs, file)
        try:
            data = segment.read(_PIECE_BYTES, self._offset)
        finally:
            segment.close()
        read = self._frames(data, header)
        vouched = read if successor is not None else read[:-1]
        found: list[Found] = []
        for frame, events in vouched:
            if frame.first_sequence != self._next:
                raise MalformedError(
                    f"sequence {frame.first_sequence} follows {self._next - 1}", frame.offset
                )
            found += (Found(self._next + i, event) for i, event in enumerate(events))
            self._next += frame.count
            self._offset = frame.end
        if successor is not None and not read:
            self._go_on(successor)
        return [entry for entry in found if entry.sequence >= self._start]

    def _frames(self, data: bytes, header: SegmentHeader) -> list[tuple[Frame, list[object]]]:
        """The whole frames at the beginning of `data`."""
        read: list[tuple[Frame, list[object]]] = []
        try:
            for frame, events in read_frames(self._reader.decoder, data, self._offset, header):
                read.append((frame, events))
        except MalformedError:
            pass  # zeros, a frame that is being written, or one that is cut by the end of the piece
        return read

    def _go_on(self, successor: SegmentFile) -> None:
        """Nothing is left of a sealed segment: take the next one up."""
        if successor.first_sequence != self._next:
            # The list may be older than the last frames were.
            if self._stuck:
                raise MalformedError(
                    f"the events {self._next} to {successor.first_sequence - 1} cannot be read",
                    self._offset,
                )
            self._stuck = True
            return
        self._stuck = False
        self._file, self._offset = successor, SEGMENT_HEADER_BYTES
