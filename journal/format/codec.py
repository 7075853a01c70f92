"""Encodes and decodes segment headers and frames. Touches no file.

A segment is one header page, then frames, then zeros up to its fixed size. A frame is one group
commit: a header, one msgpack list of events, zeros up to the next multiple of eight.

Segment header, at offset 0 of the file, integers little-endian:

    0        8        12   14   16       20       24       28       32
    +--------+--------+----+----+--------+--------+--------+--------+
    | magic  |  crc   |vers|zero|compat  |incompat| schema |frame mx|
    +--------+--------+----+----+--------+--------+--------+--------+
    32                48                64       72       80       88
    +-----------------+-----------------+--------+--------+--------+
    |   journal id    |   segment id    |seg size|1st seq |prev seq|
    +-----------------+-----------------+--------+--------+--------+
    88                104      112                               4096
    +-----------------+--------+----------------------------------+
    |   prev digest   |created |              zeros               |
    +-----------------+--------+----------------------------------+

Frame, at a multiple of eight:

    0    4    8    12 14 15 16       24       32                48
    +----+----+----+--+-+-+--------+--------+-----------------+------···------+
    |magc|crc |len |n |k|f|1st seq |time ns |  chain digest   | events, zeros |
    +----+----+----+--+-+-+--------+--------+-----------------+------···------+

The CRC of a frame covers all that follows it and starts from a seed made of the segment's
identity and the frame's offset: bytes left over from another segment, or a frame embedded in an
event, are never valid. The digest chains each frame to its predecessor, so `sequence:digest`
names a journal's whole content up to there. `journal/README.md` is the specification.
"""

from __future__ import annotations

import hashlib
import secrets
import struct
import zlib
from collections.abc import Iterable, Sequence
from typing import Self

import msgspec

SEGMENT_MAGIC = b"\x89JSEG\r\n\x1a"
FRAME_MAGIC = b"\xabFRM"
FORMAT_VERSION = 1

#: A whole page, so that no append ever rewrites the sector that holds the header.
SEGMENT_HEADER_BYTES = 4096
FRAME_HEADER_BYTES = 48
DIGEST_BYTES = 16
ID_BYTES = 16

#: Frames start at multiples of this, so a search for one after damage has few places to look.
ALIGNMENT = 8
#: The event count is 16 bits wide.
FRAME_EVENTS_MAX = 0xFFFF
#: A frame is one write: a larger one would only leave more bytes to judge after a crash.
FRAME_BYTES_MAX = 256 * 1024
#: Room for the header and for two frames of the largest event that coild has.
SEGMENT_BYTES_MIN = 16 * 1024
#: A frame's offset is mixed into a 32-bit seed; at this bound two offsets never share one.
SEGMENT_BYTES_MAX = 1 << 30

#: The latest time that the headers hold, in ns since the epoch: it is of the year 2554.
TIME_MAX = (1 << 64) - 1

#: Kinds of frame.
EVENTS = 1
MARK = 2

#: The chain's digest before the first frame of a journal.
GENESIS_DIGEST = bytes(DIGEST_BYTES)

_SEGMENT = struct.Struct("<8sIHHIIII16s16sQQQ16sQ")
_FRAME = struct.Struct("<4sIIHBBQQ16s")
_FRAME_TAIL = struct.Struct("<IHBBQQ")
_CRC = struct.Struct("<I")


class SegmentHeader(msgspec.Struct, frozen=True):
    """The header page of a segment, its fields in the order of the page.

    Sizes are in bytes, `created` in ns since the epoch.
    """

    schema: int
    frame_bytes_max: int
    journal_id: bytes
    segment_id: bytes
    segment_bytes: int
    first_sequence: int
    previous_sequence: int
    previous_digest: bytes
    created: int

    @classmethod
    def begin(
        cls,
        schema: int,
        segment_bytes: int,
        created: int,
        last_sequence: int = 0,
        digest: bytes = GENESIS_DIGEST,
        journal_id: bytes | None = None,
    ) -> Self:
        """The header of a new segment behind the event `last_sequence`; of a new journal too."""
        return cls(
            journal_id=journal_id or secrets.token_bytes(ID_BYTES),
            segment_id=secrets.token_bytes(ID_BYTES),
            schema=schema,
            segment_bytes=segment_bytes,
            frame_bytes_max=frame_bytes_max(segment_bytes),
            first_sequence=last_sequence + 1,
            previous_sequence=last_sequence,
            previous_digest=digest,
            created=created,
        )

    @property
    def seed(self) -> int:
        """The segment's part of the seed of every CRC in it."""
        return zlib.crc32(self.journal_id + self.segment_id)


class Frame(msgspec.Struct, frozen=True):
    """The header of a valid frame. Offsets are in bytes from the segment's start."""

    offset: int
    end: int
    kind: int
    count: int
    first_sequence: int
    time: int
    digest: bytes
    body_bytes: int


class MalformedError(ValueError):
    """These bytes are not a whole and valid header or frame.

    `offset` is the place in the file, `last_sequence` the last good event before it; 0 and None if
    the whole file is of no use.
    """

    def __init__(self, reason: str = "", offset: int = 0, last_sequence: int | None = None) -> None:
        self.offset = offset
        self.last_sequence = last_sequence
        super().__init__(reason)


class UnsupportedError(ValueError):
    """These bytes are intact, but have a version or feature that this program does not know."""


def frame_bytes_max(segment_bytes: int) -> int:
    """The largest frame of a segment of that size, with header and padding.

    Half of the room at most, so that any frame fits behind a mark at the start of a segment, and no
    segment stays without an event, which would give its successor the same name.
    """
    return min(FRAME_BYTES_MAX, (segment_bytes - SEGMENT_HEADER_BYTES) // 2 & -ALIGNMENT)


def padded(size: int) -> int:
    """`size` rounded up to the alignment of frames."""
    return (size + ALIGNMENT - 1) & -ALIGNMENT


def encode_header(header: SegmentHeader) -> bytes:
    """The header page: `SEGMENT_HEADER_BYTES` bytes."""
    page = bytearray(SEGMENT_HEADER_BYTES)
    _SEGMENT.pack_into(
        page,
        0,
        SEGMENT_MAGIC,
        0,
        FORMAT_VERSION,
        0,
        0,
        0,
        *msgspec.structs.astuple(header),
    )
    _CRC.pack_into(page, 8, zlib.crc32(memoryview(page)[12:]))
    return bytes(page)


def decode_header(data: bytes | memoryview, schema: int) -> SegmentHeader:
    """Read a header page; `schema` is the newest vocabulary that the caller knows.

    Raises MalformedError for what is not a whole header, UnsupportedError for an intact header of a
    newer format, with an unknown incompatible feature, or with a newer schema.
    """
    if len(data) < SEGMENT_HEADER_BYTES:
        raise MalformedError(
            "the file is empty"
            if not data
            else f"the segment header is cut short: {len(data)} of {SEGMENT_HEADER_BYTES} bytes"
        )
    page = memoryview(data)[:SEGMENT_HEADER_BYTES]
    magic, crc, version, _reserved, _compatible, incompatible, *fields = _SEGMENT.unpack_from(page)
    if magic != SEGMENT_MAGIC:
        raise MalformedError("this is no journal segment: its first eight bytes are wrong")
    # Before the checksum: a later version may well checksum its header in another way, and a newer
    # journal must never be called corrupt.
    if version > FORMAT_VERSION:
        raise UnsupportedError(
            f"its header says format version {version}, this program reads up to {FORMAT_VERSION}"
        )
    if zlib.crc32(page[12:]) != crc:
        raise MalformedError("the segment header does not match its checksum")
    if incompatible:
        raise UnsupportedError(f"it uses features {incompatible:#x} that this program lacks")
    header = SegmentHeader(*fields)
    if header.schema > schema:
        raise UnsupportedError(
            f"its events have schema {header.schema}, written by a newer version; "
            f"this program reads up to {schema}"
        )
    return header


def digest_of(parts: Iterable[bytes | memoryview]) -> bytes:
    """BLAKE2b-128 of these bytes, which come in parts."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        digest.update(part)
    return digest.digest()


def list_header(count: int) -> bytes:
    """The shortest msgpack header of a list of `count` elements."""
    if count < 16:
        return bytes((0x90 | count,))
    return b"\xdc" + count.to_bytes(2, "big")


def encode_frame(
    events: Sequence[bytes],
    *,
    seed: int,
    offset: int,
    first_sequence: int,
    time: int,
    previous_digest: bytes,
) -> tuple[bytes, bytes]:
    """One frame of encoded events (none: a mark) and its digest, the new head of the chain.

    `seed` is the segment's, `offset` the frame's place in the segment.
    """
    count = len(events)
    body = b"".join((list_header(count), *events)) if count else b""
    header = _FRAME_TAIL.pack(len(body), count, EVENTS if count else MARK, 0, first_sequence, time)
    payload = body + bytes(padded(len(body)) - len(body))
    digest = chain_digest(previous_digest, header, payload)
    crc = zlib.crc32(payload, zlib.crc32(digest, zlib.crc32(header, seed ^ offset)))
    return b"".join((FRAME_MAGIC, _CRC.pack(crc), header, digest, payload)), digest


def chain_digest(
    previous_digest: bytes, header: bytes | memoryview, payload: bytes | memoryview
) -> bytes:
    """The digest of a frame: BLAKE2b-128 of its predecessor's, its header and its payload.

    `header` is the 24 bytes between the CRC and the digest.
    """
    # Not by `digest_of`: this is done for every frame.
    chain = hashlib.blake2b(previous_digest, digest_size=DIGEST_BYTES)
    chain.update(header)
    chain.update(payload)
    return chain.digest()


def decode_frame(
    segment: memoryview, offset: int, header: SegmentHeader, *, base: int = 0
) -> Frame:
    """Read the frame at `offset` of a segment; the bytes given begin at `base` of it.

    Raises MalformedError with the reason if no valid frame is there, UnsupportedError for an
    intact frame of an unknown kind. The caller compares sequence and chain.
    """
    start = offset - base
    if start + FRAME_HEADER_BYTES > len(segment):
        raise MalformedError("a frame header is cut short by the end of the segment")
    magic, crc, length, count, kind, flags, first, time, digest = _FRAME.unpack_from(segment, start)
    if magic != FRAME_MAGIC:
        raise MalformedError("no frame starts here")
    size = FRAME_HEADER_BYTES + padded(length)
    if size > header.frame_bytes_max or start + size > len(segment):
        raise MalformedError(f"a frame of {length} bytes does not fit")
    if zlib.crc32(segment[start + 8 : start + size], header.seed ^ offset) != crc:
        raise MalformedError("a frame does not match its checksum")
    if flags or kind not in {EVENTS, MARK}:
        raise UnsupportedError(f"a frame of kind {kind}, flags {flags:#x} at offset {offset}")
    return Frame(
        offset=offset,
        end=offset + size,
        kind=kind,
        count=count,
        first_sequence=first,
        time=time,
        digest=digest,
        body_bytes=length,
    )
