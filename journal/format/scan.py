"""Scans the bytes of one segment: its frames, where they end, and the fault there.

`scan` is the one loop that every start of the daemon, every replay and every check runs. It
decodes the events of many frames with one call, because a call for each would cost more than the
decoding when frames are small.
"""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Callable
from enum import Enum, auto
from typing import Any, Self

import msgspec

from journal.format.codec import (
    ALIGNMENT,
    EVENTS,
    FRAME_HEADER_BYTES,
    FRAME_MAGIC,
    MARK,
    SEGMENT_HEADER_BYTES,
    MalformedError,
    SegmentHeader,
    UnsupportedError,
    chain_digest,
    decode_frame,
)

#: Takes the next events of the journal, in order.
Deliver = Callable[[list[Any]], None]

#: Events decoded with one call. More would not fit the processor's caches, fewer cost more calls.
BATCH_EVENTS = 256

_HEAD = struct.Struct("<IIIHHQ")
_MAGIC = int.from_bytes(FRAME_MAGIC, "little")
_SHORT_LIST_MAX = 15


def list_decoder(event_type: Any) -> msgspec.msgpack.Decoder[list[Any]]:
    """A decoder of the events of a frame."""
    return msgspec.msgpack.Decoder(list[event_type])


class End(Enum):
    """How a segment ends."""

    #: Zeros follow the last frame.
    CLEAN = auto()
    #: The remains of one write that was never confirmed follow it.
    TORN = auto()
    #: Bytes that no crash leaves follow it.
    CORRUPT = auto()


class Cursor(msgspec.Struct):
    """A place between two frames of a segment, and what was read up to there."""

    #: Where the next frame belongs.
    offset: int
    next_sequence: int
    #: The last frame's digest, or the predecessor's if there is no frame.
    digest: bytes
    #: Commit time of the last frame, or when the segment was created.
    time: int
    #: Whether the last frame is a mark, or there is no frame to vouch for.
    marked: bool
    #: The last frame's number of events, and the chain's digest before it.
    last_count: int
    digest_before: bytes

    @classmethod
    def at_start(cls, header: SegmentHeader) -> Self:
        """Before the first frame."""
        return cls(
            offset=SEGMENT_HEADER_BYTES,
            next_sequence=header.first_sequence,
            digest=header.previous_digest,
            time=header.created,
            marked=True,
            last_count=0,
            digest_before=header.previous_digest,
        )


class Scan(Cursor):
    """The content of one segment. Sequences are of events, times in ns since the epoch."""

    end: End = End.CLEAN
    #: The reason why it ends there; empty if clean.
    reason: str = ""
    #: One past the last byte that is not zero, if torn or corrupt.
    data_end: int = 0

    @property
    def vouched(self) -> tuple[int, bytes]:
        """The last sequence of the open segment that is vouched for, and the chain's digest there.

        A frame is begun only when the one before it is durable. So the last one may not be
        durable, unless something was begun behind it.
        """
        if self.end is End.CLEAN:
            return self.next_sequence - 1 - self.last_count, self.digest_before
        return self.next_sequence - 1, self.digest


def scan(
    segment: bytes,
    header: SegmentHeader,
    decoder: msgspec.msgpack.Decoder[list[Any]] | None = None,
    deliver: Deliver | None = None,
    *,
    verify_chain: bool = False,
) -> Scan:
    """Read `segment` from its first frame to its end, and deliver its events.

    Every frame is checked against its checksum and its place in the sequence. `verify_chain`
    recomputes the digests as well, which also finds alterations with forged checksums; a start
    does not.

    Raises UnsupportedError for an intact frame that this program cannot read, and the errors of
    `deliver`.
    """
    found = Scan.at_start(header)
    advance(segment, header, found, decoder, deliver, verify_chain=verify_chain)
    judge_end(segment, header, found)
    return found


def advance(
    segment: bytes,
    header: SegmentHeader,
    cursor: Cursor,
    decoder: msgspec.msgpack.Decoder[list[Any]] | None = None,
    deliver: Deliver | None = None,
    *,
    before: int = sys.maxsize,
    verify_chain: bool = False,
) -> None:
    """Move `cursor` over all good frames that begin before `before`; see `scan`."""
    # Slices of bytes, not of a memoryview: to copy a small frame is cheaper than to view it.
    unpack = _HEAD.unpack_from
    crc32 = zlib.crc32
    seed = header.seed
    view = memoryview(segment)
    size = len(segment)
    limit = min(size - FRAME_HEADER_BYTES, before - 1)
    length_max = header.frame_bytes_max - FRAME_HEADER_BYTES
    start = offset = last = previous = cursor.offset
    sequence = cursor.next_sequence
    digest = cursor.digest
    parts: list[bytes] = []
    pending = 0
    while offset <= limit:
        magic, crc, length, count, kind, first = unpack(segment, offset)
        body = offset + FRAME_HEADER_BYTES
        stop = body + length
        end = stop + ALIGNMENT - 1 & -ALIGNMENT
        # Kind and flags are read as one number: no flag is defined, so it is the kind when known.
        if (
            magic != _MAGIC
            or first != sequence
            or length > length_max
            or end > size
            or crc32(segment[offset + 8 : end], seed ^ offset) != crc
            or not EVENTS <= kind <= MARK
        ):
            break
        if verify_chain:
            digest = chain_digest(digest, view[offset + 8 : offset + 32], view[body:end])
            if digest != view[offset + 32 : body]:
                break
        if count:
            sequence += count
            if deliver is not None:
                parts.append(segment[body + (1 if count <= _SHORT_LIST_MAX else 3) : stop])
                pending += count
                if pending >= BATCH_EVENTS:
                    deliver(_decode(decoder, parts, pending))
                    parts.clear()
                    pending = 0
        previous, last = last, offset
        offset = end
    if pending and deliver is not None:
        deliver(_decode(decoder, parts, pending))
    cursor.offset, cursor.next_sequence = offset, sequence
    if offset > start:
        frame = decode_frame(view, last, header)
        cursor.last_count = frame.count
        # Of one frame alone, what was read before has it.
        cursor.digest_before = (
            decode_frame(view, previous, header).digest if last > start else cursor.digest
        )
        cursor.digest, cursor.time, cursor.marked = frame.digest, frame.time, frame.kind == MARK


def _decode(
    decoder: msgspec.msgpack.Decoder[list[Any]] | None,
    parts: list[bytes],
    count: int,
) -> list[Any]:
    if decoder is None:
        raise TypeError("events are to be delivered, but there is no decoder")
    try:
        return decoder.decode(b"".join((b"\xdd", count.to_bytes(4, "big"), *parts)))
    except (ValueError, RecursionError) as error:
        raise UnsupportedError(
            f"its frames are intact, but an event is not ours: {error}"
        ) from None


def judge_end(segment: bytes, header: SegmentHeader, found: Scan) -> None:
    """Tell a clean end, a torn tail and damage apart, by the rules of `journal/README.md`."""
    offset = found.offset
    view = memoryview(segment)
    if len(segment) != header.segment_bytes:
        found.end = End.CORRUPT
        found.data_end = len(segment)
        found.reason = (
            f"the segment has {len(segment)} bytes and was made with {header.segment_bytes}; "
            "no crash changes its length, so whatever did may have taken events with it"
        )
        return
    data_end = offset + len(segment[offset:].rstrip(b"\0"))
    if data_end == offset:
        return
    found.data_end = data_end
    try:
        frame = decode_frame(view, offset, header)
    except MalformedError as error:
        found.reason = str(error)
    else:
        found.end = End.CORRUPT
        found.reason = (
            f"an intact frame has sequence {frame.first_sequence} instead of {found.next_sequence}"
            if frame.first_sequence != found.next_sequence
            else "an intact frame does not continue the chain of digests: it was altered"
        )
        return
    if data_end > offset + header.frame_bytes_max:
        found.end = End.CORRUPT
        found.reason += f", and data goes on until {data_end}, longer than one unfinished write"
        return
    if (successor := find_frame(segment, offset + ALIGNMENT, data_end, header)) is not None:
        found.end = End.CORRUPT
        found.reason += f", but an intact one follows at {successor}: this one was whole once"
        return
    found.end = End.TORN


def find_frame(segment: bytes, start: int, stop: int, header: SegmentHeader) -> int | None:
    """The offset of the first valid frame in `start`..`stop`, if there is one."""
    view = memoryview(segment)
    offset = segment.find(FRAME_MAGIC, start, stop)
    while offset >= 0:
        if offset % ALIGNMENT == 0:
            try:
                decode_frame(view, offset, header)
            except MalformedError:
                pass
            else:
                return offset
        offset = segment.find(FRAME_MAGIC, offset + 1, stop)
    return None
