"""Questions to a whole journal, archive included, that do not read all of it.

`find` asks the index of each segment which chunks to read, and reads those. An index that is
missing or does not match is made from the segment, and kept if the directory can be written to.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from journal.archive import SegmentReader, open_segment, read_segment
from journal.codec import (
    EVENTS,
    FRAME_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    Frame,
    MalformedError,
    SegmentHeader,
    UnsupportedError,
    decode_frame,
    decode_header,
)
from journal.errors import JournalCorruptError, JournalUnsupportedError
from journal.fs import FileSystem
from journal.index import Index, Keys, build_index
from journal.reader import Reader, SegmentProgress
from journal.segments import SegmentFile


class Found(NamedTuple):
    """An event and its sequence."""

    sequence: int
    event: Any


class _InSegment(NamedTuple):
    """What was found in a segment, and the last sequence in it."""

    events: list[Found]
    last_sequence: int


def find(
    reader: Reader,
    keys: Keys,
    wanted: bytes,
    *,
    progress: SegmentProgress | None = None,
) -> Iterator[Found]:
    """All events that have the key `wanted`, oldest first.

    Raises JournalCorruptError, JournalUnsupportedError, OSError.
    """
    files = reader.files()
    last = files[0].first_sequence - 1 if files else 0
    for number, file in enumerate(files, start=1):
        if file.first_sequence != last + 1:
            raise JournalCorruptError(
                file.path,
                0,
                last,
                f"a segment is missing before it: the events {last + 1} to "
                f"{file.first_sequence - 1} are nowhere",
            )
        if number == len(files):
            yield from _find_in_tail(reader, keys, wanted, file)
        else:
            expected = files[number].first_sequence - 1
            look = partial(_find_sealed, reader, keys, wanted, expected)
            events, last = _retry_moved(reader, file, look)
            yield from events
        if progress is not None:
            progress(number, len(files))


def _find_in_tail(reader: Reader, keys: Keys, wanted: bytes, file: SegmentFile) -> Iterator[Found]:
    """Search the segment that is being written, which has no index."""
    matches = keys.matching(wanted)
    for batch in reader.batches(file.first_sequence):
        for sequence, event in enumerate(batch.events, start=batch.first_sequence):
            if matches(event):
                yield Found(sequence, event)


def _retry_moved(
    reader: Reader, file: SegmentFile, look: Callable[[SegmentFile], _InSegment]
) -> _InSegment:
    """What `look` finds in a segment, wherever it is; a compaction may move it meanwhile."""
    try:
        return look(file)
    except FileNotFoundError:
        for moved in reader.files():
            if moved.first_sequence == file.first_sequence:
                return look(moved)
        raise


def _find_sealed(
    reader: Reader, keys: Keys, wanted: bytes, last: int, file: SegmentFile
) -> _InSegment:
    """Search a segment whose successor begins behind the sequence `last`."""
    try:
        matches = keys.matching(wanted)
        segment = open_segment(reader.fs, file)
        try:
            header = decode_header(segment.read(SEGMENT_HEADER_BYTES, 0), reader.schema)
            with opened_index(reader.fs, file, header, keys) as index:
                # One that ends elsewhere is of an older copy of the segment.
                if index is not None and index.last_sequence == last:
                    # What is damaged, the index or the segment, shows when all of it is read.
                    with contextlib.suppress(MalformedError):
                        found = [
                            found
                            for chunk in index.find(wanted)
                            for found in _read_chunk(reader, segment, header, index, chunk)
                            if matches(found.event)
                        ]
                        return _InSegment(found, index.last_sequence)
        finally:
            segment.close()
        everything = _index_anew(reader, keys, file, header)
    except MalformedError as error:
        raise JournalCorruptError(file.path, 0, file.first_sequence - 1, str(error)) from None
    except UnsupportedError as error:
        raise JournalUnsupportedError(file.path, str(error)) from None
    found = [found for found in everything if matches(found.event)]
    return _InSegment(found, everything[-1].sequence if everything else header.previous_sequence)


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
            index = Index(lambda size, offset: fs.read(fd, size, offset), header, keys)
        except (MalformedError, OSError):
            index = None
        yield index
    finally:
        fs.close(fd)


def _read_chunk(
    reader: Reader, segment: SegmentReader, header: SegmentHeader, index: Index, chunk: int
) -> Iterator[Found]:
    """The events of the frames that begin in a chunk. Raises MalformedError."""
    start = index.chunks[chunk]
    end = index.chunks[chunk + 1].offset if chunk + 1 < len(index.chunks) else index.end
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
            except ValueError as error:
                raise UnsupportedError(
                    f"its frames are intact, but an event is not ours: {error}"
                ) from None
        yield frame, events
        offset += body


def _index_anew(
    reader: Reader, keys: Keys, file: SegmentFile, header: SegmentHeader
) -> list[Found]:
    """Read a sealed segment whole, keep an index of it if that can be, and give its events."""
    data = read_segment(reader.fs, file)
    events: list[Any] = []
    index = build_index(data, header, reader.decoder, keys, events.extend)
    with contextlib.suppress(OSError):
        write_index(reader.fs, file.index_path, index)
    return list(map(Found._make, enumerate(events, start=header.first_sequence)))


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
