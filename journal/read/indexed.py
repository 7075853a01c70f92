"""Reads sealed segments by their indexes, as far as the journal itself vouches for these.

An index is a file like any other, and its checksums can be forged. The events it leads to are
read and compared, but a missing entry would go unnoticed. So it counts only if an event behind
its segment says that the segment's index has this digest: then it was made from the segment. The
events are chained, so altering one alters the head of the journal as well. Any other index
is ignored, and the segment is read whole.

An index lists the index digests that its segment's events record. So in a long journal, only the
newest segment and the indexes are read to know which indexes count.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from journal.format.archive import SegmentReader, errors_of, open_segment, read_segment
from journal.format.chain import Position
from journal.format.codec import (
    EVENTS,
    FRAME_HEADER_BYTES,
    Frame,
    MalformedError,
    SegmentHeader,
    UnsupportedError,
    decode_frame,
)
from journal.format.index import Index, Keys, Record, build_index, records_in
from journal.format.scan import End, scan
from journal.format.segments import SegmentFile, opened
from journal.fs import FileSystem, ReadOnlyFileSystem
from journal.read.view import View

_Decoder = msgspec.msgpack.Decoder[list[Any]]


class Found(NamedTuple):
    """An event and its sequence."""

    sequence: int
    event: Any


class ReadResult(NamedTuple):
    """Events of a segment, with all that have the wanted keys among them; and where it ends."""

    events: list[Found]
    end: Position


class Indexes:
    """The indexes of a journal, whose segments are read one by one, the newest first.

    So it learns which indexes count: an event can only vouch for indexes of earlier segments.
    """

    def __init__(
        self, fs: FileSystem | View, decoder: _Decoder, keys: Keys, *, make: bool = False
    ) -> None:
        """`keys.digests_of` gives an event's records of indexes; without it, undamaged ones count.

        An index that does not count is made again if the journal vouches for the new one. With
        `make`, so are all that are not on record; then every digest of their segments is checked,
        because an event is to vouch for them.
        """
        self._fs = fs
        self._disk = fs.disk if isinstance(fs, View) else fs
        self._decoder = decoder
        self._keys = keys
        self._make = make
        self._records: dict[int, set[bytes]] = {}
        #: The digests of indexes that were made and are not on record, by first sequence.
        self.unrecorded: dict[int, bytes] = {}

    def learn(self, events: Iterable[Any]) -> None:
        """Note the records of indexes among these events."""
        self._note(records_in(self._keys, events))

    def _note(self, records: Iterable[Record]) -> None:
        for record in records:
            self._records.setdefault(record.first_sequence, set()).add(record.digest)

    def look(
        self,
        file: SegmentFile,
        header: SegmentHeader,
        following: SegmentHeader,
        wanted: Sequence[bytes] = (),
    ) -> ReadResult:
        """The events of a sealed segment that may have one of the keys `wanted`.

        `header` is the segment's, `following` that of its successor. Raises JournalCorruptError,
        JournalUnsupportedError, OSError.
        """
        end = Position(following.previous_sequence, following.previous_digest, header.journal_id)
        recorded = self._records.get(header.first_sequence, set())
        there: bytes | None = None
        with errors_of(file):
            with _opened(self._fs, file, header, self._keys) as index:
                # An index that ends elsewhere is of an older or another copy of the segment.
                if index is not None and (index.last_sequence, index.last_digest) == end[:2]:
                    there = index.digest
                    if there in recorded or self._keys.digests_of is None:
                        # Damage of index or segment is found when all of it is read.
                        with contextlib.suppress(MalformedError):
                            events = list(self._lead(file, header, index, wanted))
                            self._note(index.records)
                            return ReadResult(events, end)
                        there = None
            if recorded or self._make or self._keys.digests_of is None:
                return self._make_index(file, header, there, recorded, wanted)
            return self._read_whole(file, header)

    def _make_index(
        self,
        file: SegmentFile,
        header: SegmentHeader,
        there: bytes | None,
        recorded: set[bytes],
        wanted: Sequence[bytes],
    ) -> ReadResult:
        """All events of a sealed segment, if any are wanted.

        Its index is kept, unless it is the one `there`.
        """
        data = read_segment(self._fs, file)
        events: list[Any] = []
        built = build_index(
            data,
            header,
            self._decoder,
            self._keys,
            events.extend if wanted else None,
            verify_chain=self._make,
        )
        index = Index(lambda size, offset: built[offset : offset + size], header, self._keys)
        if index.digest != there:
            with contextlib.suppress(OSError):
                write_index(self._disk, file.index_path, built)
        if index.digest not in recorded:
            self.unrecorded[header.first_sequence] = index.digest
        self._note(index.records)
        end = Position(index.last_sequence, index.last_digest, header.journal_id)
        return ReadResult(_numbered(events, header.first_sequence), end)

    def _read_whole(self, file: SegmentFile, header: SegmentHeader) -> ReadResult:
        """All events of a sealed segment."""
        events: list[Any] = []
        found = scan(read_segment(self._fs, file), header, self._decoder, events.extend)
        if found.end is not End.CLEAN:
            raise MalformedError(found.reason, found.offset, found.next_sequence - 1)
        self.learn(events)
        end = Position(found.next_sequence - 1, found.digest, header.journal_id)
        return ReadResult(_numbered(events, header.first_sequence), end)

    def _lead(
        self, file: SegmentFile, header: SegmentHeader, index: Index, wanted: Sequence[bytes]
    ) -> Iterator[Found]:
        """The events of the frames to which an index leads. Raises MalformedError, OSError."""
        chunks = sorted({chunk for key in wanted for chunk in index.find(key)})
        if not chunks:
            return
        with open_segment(self._fs, file) as segment:
            for chunk in chunks:
                yield from self._read_chunk(segment, header, index, chunk)

    def _read_chunk(
        self, segment: SegmentReader, header: SegmentHeader, index: Index, chunk: int
    ) -> Iterator[Found]:
        """The events of the frames that begin in a chunk. Raises MalformedError."""
        if chunk >= len(index.chunks):
            raise MalformedError("the index leads to a chunk that is not there")
        start = index.chunks[chunk]
        end = index.chunks[chunk + 1].offset if chunk + 1 < len(index.chunks) else index.end
        # A segment that was cut short may end where a frame does: then all that is left is valid.
        if not start.offset <= end <= segment.size:
            raise MalformedError("the index leads beyond the end of the segment")
        data = segment.read(end - start.offset, start.offset)
        sequence = start.first_sequence
        for frame, events in read_frames(self._decoder, data, start.offset, header):
            if frame.first_sequence != sequence:
                raise MalformedError("the index leads to another place than it says")
            yield from _numbered(events, sequence)
            sequence += frame.count


def _numbered(events: list[Any], first_sequence: int) -> list[Found]:
    return list(map(Found._make, enumerate(events, start=first_sequence)))


@contextlib.contextmanager
def _opened(
    fs: ReadOnlyFileSystem, file: SegmentFile, header: SegmentHeader, keys: Keys
) -> Iterator[Index | None]:
    """The index of a sealed segment, or None if there is no usable one."""
    with contextlib.ExitStack() as stack:
        index = None
        with contextlib.suppress(MalformedError, OSError):
            fd = stack.enter_context(opened(fs, file.index_path))
            index = Index.of_file(fs, fd, header, keys)
        yield index


def read_frames(
    decoder: _Decoder, data: bytes, base: int, header: SegmentHeader
) -> Iterator[tuple[Frame, list[Any]]]:
    """The frames of `data`, which begins at `base` of the segment, and their events.

    Raises MalformedError at the first that is not whole and valid, UnsupportedError.
    """
    view = memoryview(data)
    offset = base
    while offset < base + len(data):
        frame = decode_frame(view, offset, header, base=base)
        body = frame.end - offset
        events: list[Any] = []
        if frame.kind == EVENTS:
            start = offset - base + FRAME_HEADER_BYTES
            try:
                events = decoder.decode(view[start : start + frame.body_bytes])
            except (ValueError, RecursionError) as error:
                raise UnsupportedError(
                    f"its frames are intact, but an event is not ours: {error}"
                ) from None
        yield frame, events
        offset += body


def write_index(fs: FileSystem, path: Path, data: bytes) -> None:
    """Put an index in place, atomically for every reader. Raises OSError.

    Not flushed: if a crash damages it, it is made again.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    fd = fs.create(temporary)
    try:
        fs.write(fd, data, 0)
        fs.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            fs.remove(temporary)
        raise
    finally:
        fs.close(fd)
