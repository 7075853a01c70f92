"""Reads the parts of a journal that a repair removes, as far as possible."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from journal.format.codec import (
    EVENTS,
    FRAME_HEADER_BYTES,
    Frame,
    MalformedError,
    SegmentHeader,
    UnsupportedError,
    decode_frame,
    decode_header,
)
from journal.format.scan import find_frame, list_decoder
from journal.format.segments import read_part
from journal.fs import FileSystem


class Lost(NamedTuple):
    """The bytes of a file to remove, and the intact frames and events among them."""

    path: Path
    offset: int
    size: int
    frames: int
    #: The events that are nowhere else in the journal.
    events: int
    #: Whether frames can be told from other bytes at all: not without the segment's header.
    readable: bool


def lost_from(data: bytes, path: Path, offset: int, schema: int, last_sequence: int) -> Lost:
    """The bytes of a file from `offset` on, up to its last one that is not zero.

    `last_sequence` is that of the last event that stays.
    """
    end = max(offset, len(data.rstrip(b"\0")))
    frames = list(_intact(data, offset, schema))
    # A segment that was copied to a later name holds what stays.
    events = sum(
        frame.count for frame in frames if frame.first_sequence + frame.count > last_sequence + 1
    )
    readable = _header(data, schema) is not None
    return Lost(path, offset, end - offset, len(frames), events, readable)


def _header(data: bytes, schema: int) -> SegmentHeader | None:
    try:
        return decode_header(data, schema)
    except (MalformedError, UnsupportedError):
        return None


def _intact(data: bytes, offset: int, schema: int) -> Iterator[Frame]:
    """The frames that validate from `offset` on, wherever they are."""
    header = _header(data, schema)
    if header is None:
        return
    end = max(offset, len(data.rstrip(b"\0")))
    view = memoryview(data)
    at = find_frame(data, offset, end, header)
    while at is not None:
        frame = decode_frame(view, at, header)
        yield frame
        at = find_frame(data, frame.end, end, header)


def lost_events(
    fs: FileSystem, lost: Sequence[Lost], schema: int, event_type: Any
) -> Iterator[Any]:
    """The events that can be read in the bytes to remove. Raises OSError."""
    decoder = list_decoder(event_type)
    for file in lost:
        data = read_part(fs, file.path)
        for frame in _intact(data, file.offset, schema):
            if frame.kind == EVENTS:
                start = frame.offset + FRAME_HEADER_BYTES
                try:
                    yield from decoder.decode(data[start : start + frame.body_bytes])
                except ValueError:
                    continue  # of a vocabulary that is not ours
