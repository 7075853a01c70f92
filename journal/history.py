"""Questions to a whole journal, archive included, that do not read all of it.

`find` asks the index of each segment which chunks to read, and reads those. An index that is
missing or does not match is made from the segment, and kept if the directory can be written to.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from journal.archive import SegmentReader, errors_of, open_segment, read_header, read_segment
from journal.chain import Position, check_succession
from journal.codec import (
    EVENTS,
    FRAME_HEADER_BYTES,
    Frame,
    MalformedError,
    SegmentHeader,
    UnsupportedError,
    decode_frame,
)
from journal.errors import JournalCorruptError
from journal.fs import FileSystem
from journal.index import Index, Keys, build_index
from journal.reader import Reader, SegmentProgress
from journal.segments import SegmentFile

_T = TypeVar("_T")


class Found(NamedTuple):
    """An event and its sequence."""

    sequence: int
    event: Any


class _InSegment(NamedTuple):
    """What was found in a segment, and where it ends."""

    events: list[Found]
    end: Position


def find(
    reader: Reader,
    keys: Keys,
    wanted: bytes,
    *,
    start: int | None = None,
    progress: SegmentProgress | None = None,
) -> Iterator[Found]:
    """All events from the sequence `start` on that have the key `wanted`, oldest first.

    None begins with the oldest event there is: not the first one ever, if history was pruned.
    Raises JournalCorruptError, also if `start` is nowhere, JournalUnsupportedError, OSError.
    """
    files = reader.files()
    if start is None:
        start = files[0].first_sequence if files else 1
    if files and files[0].first_sequence > start:
        raise JournalCorruptError(
            files[0].path,
            0,
            start - 1,
            f"a segment is missing before it: the events {start} to "
            f"{files[0].first_sequence - 1} are nowhere",
        )
    skipped = max((i for i, file in enumerate(files) if file.first_sequence <= start), default=0)
    del files[:skipped]
    headed = ((file, _header_of(reader, file)) for file in files)
    for number, ((file, header), (successor, following)) in enumerate(pairwise(headed), start=1):
        look = partial(_find_sealed, reader, keys, wanted, header, following)
        events, end = _retry_moved(reader, file, look)
        # What is good before a gap was worth telling.
        yield from (found for found in events if found.sequence >= start)
        check_succession(successor, following, end)
        if progress is not None:
            progress(number, len(files))
    if files:
        yield from _find_in_tail(reader, keys, wanted, max(start, files[-1].first_sequence))
        if progress is not None:
            progress(len(files), len(files))


def _find_in_tail(reader: Reader, keys: Keys, wanted: bytes, start: int) -> Iterator[Found]:
    """Search the segment that is being written, which has no index."""
    matches = keys.matching(wanted)
    for batch in reader.batches(start):
        for sequence, event in enumerate(batch.events, start=batch.first_sequence):
            if matches(event):
                yield Found(sequence, event)


def _header_of(reader: Reader, file: SegmentFile) -> SegmentHeader:
    def look(file: SegmentFile) -> SegmentHeader:
        with errors_of(file):
            return read_header(reader.fs, file, reader.schema)

    return _retry_moved(reader, file, look)


def _retry_moved(reader: Reader, file: SegmentFile, look: Callable[[SegmentFile], _T]) -> _T:
    """What `look` finds in a segment, wherever it is; a compaction may move it meanwhile."""
    try:
        return look(file)
    except FileNotFoundError:
        for moved in reader.files():
            if moved.first_sequence == file.first_sequence:
                return look(moved)
        raise


def _find_sealed(
    reader: Reader,
    keys: Keys,
    wanted: bytes,
    header: SegmentHeader,
    following: SegmentHeader,
    file: SegmentFile,
) -> _InSegment:
    """Search a segment by its header and that of its successor."""
    matches = keys.matching(wanted)
    end = Position(following.previous_sequence, following.previous_digest, header.journal_id)
    with errors_of(file):
        with opened_index(reader.fs, file, header, keys) as index:
            # One that ends elsewhere is of an older or another copy of the segment.
            if index is not None and (index.last_sequence, index.last_digest) == end[:2]:
                # What is damaged, the index or the segment, shows when all of it is read.
                with contextlib.suppress(MalformedError):
                    return _InSegment(
                        [
                            found
                            for found in _lead(reader, file, header, index, wanted)
                            if matches(found.event)
                        ],
                        end,
                    )
        everything, end = _index_anew(reader, keys, file, header)
    return _InSegment([found for found in everything if matches(found.event)], end)


@contextlib.contextmanager
def opened_index(
    fs: FileSystem, file: SegmentFile, header: SegmentHeader, keys: Keys
) -> Iterator[Index | None]:
    """The index of a sealed segment, or None if there is none to be used."""
    try:
        fd = fs.open(file.index_path)
    except OSError:
        yield None
        return
    try:
        try:
            # What a damaged header asks for may be more than there is memory.
            file_bytes = fs.size(fd)
            index = Index(
                lambda size, offset: fs.read(fd, min(size, file_bytes), offset), header, keys
            )
            index.check_length(file_bytes)
        except (MalformedError, OSError):
            index = None
        yield index
    finally:
        fs.close(fd)


def _lead(
    reader: Reader, file: SegmentFile, header: SegmentHeader, index: Index, wanted: bytes
) -> Iterator[Found]:
    """The events of the frames to which an index leads. Raises MalformedError, OSError."""
    chunks = index.find(wanted)
    if not chunks:
        return
    segment = open_segment(reader.fs, file)
    try:
        for chunk in chunks:
            yield from _read_chunk(reader, segment, header, index, chunk)
    finally:
        segment.close()


def _read_chunk(
    reader: Reader, segment: SegmentReader, header: SegmentHeader, index: Index, chunk: int
) -> Iterator[Found]:
    """The events of the frames that begin in a chunk. Raises MalformedError."""
    if chunk >= len(index.chunks):
        raise MalformedError("the index leads to a chunk that is not there")
    start = index.chunks[chunk]
    end = index.chunks[chunk + 1].offset if chunk + 1 < len(index.chunks) else index.end
    # A segment that was cut short may end where a frame does: then all that is left is whole.
    if not start.offset <= end <= segment.size:
        raise MalformedError("the index leads beyond the end of the segment")
    data = segment.read(end - start.offset, start.offset)
    sequence = start.first_sequence
    for frame, events in read_frames(reader, data, start.offset, header):
        if frame.first_sequence != sequence:
            raise MalformedError("the index leads to another place than it says")
        yield from map(Found._make, enumerate(events, start=sequence))
        sequence += frame.count


def read_frames(
    reader: Reader, data: bytes, base: int, header: SegmentHeader
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
                events = reader.decoder.decode(view[start : start + frame.body_bytes])
            except (ValueError, RecursionError) as error:
                raise UnsupportedError(
                    f"its frames are intact, but an event is not ours: {error}"
                ) from None
        yield frame, events
        offset += body


def _index_anew(reader: Reader, keys: Keys, file: SegmentFile, header: SegmentHeader) -> _InSegment:
    """Read a sealed segment whole, keep an index of it if that can be, and give its events."""
    data = read_segment(reader.fs, file)
    events: list[Any] = []
    built = build_index(data, header, reader.decoder, keys, events.extend)
    with contextlib.suppress(OSError):
        write_index(reader.fs, file.index_path, built)
    index = Index(lambda size, offset: built[offset : offset + size], header, keys)
    found = list(map(Found._make, enumerate(events, start=header.first_sequence)))
    return _InSegment(found, Position(index.last_sequence, index.last_digest, header.journal_id))


def write_index(fs: FileSystem, path: Path, data: bytes) -> None:
    """Put an index at its place, at once for every reader. Raises OSError.

    Not flushed: one that a crash damages is made again.
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
