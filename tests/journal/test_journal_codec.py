"""The codec: what is encoded decodes to the same, and nothing else ever does."""

# expected == actual

from __future__ import annotations

import dataclasses
import zlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from journal.format.codec import (
    ALIGNMENT,
    DIGEST_BYTES,
    EVENTS,
    FORMAT_VERSION,
    FRAME_BYTES_MAX,
    FRAME_HEADER_BYTES,
    ID_BYTES,
    MARK,
    SEGMENT_BYTES_MAX,
    SEGMENT_BYTES_MIN,
    SEGMENT_HEADER_BYTES,
    MalformedError,
    SegmentHeader,
    UnsupportedError,
    decode_frame,
    decode_header,
    encode_frame,
    encode_header,
    frame_bytes_max,
    list_header,
    padded,
)
from tests.kits.journal.building import flipped, patched

NUMBERS_32 = st.integers(0, 2**32 - 1)
NUMBERS_64 = st.integers(0, 2**64 - 1)
IDS = st.binary(min_size=ID_BYTES, max_size=ID_BYTES)
DIGESTS = st.binary(min_size=DIGEST_BYTES, max_size=DIGEST_BYTES)
SEGMENT_SIZES = st.integers(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX)
HEADERS = st.builds(
    SegmentHeader,
    journal_id=IDS,
    segment_id=IDS,
    schema=NUMBERS_32,
    segment_bytes=SEGMENT_SIZES,
    frame_bytes_max=SEGMENT_SIZES.map(frame_bytes_max),
    first_sequence=NUMBERS_64,
    previous_sequence=NUMBERS_64,
    previous_digest=DIGESTS,
    created=NUMBERS_64,
)
#: Whatever msgpack can hold as one element.
EVENTS_ENCODED = st.lists(st.binary(max_size=60).map(msgspec.msgpack.encode), max_size=40)
OFFSETS = st.integers(0, 40).map(lambda n: SEGMENT_HEADER_BYTES + n * ALIGNMENT)
NEWEST_SCHEMA = 2**32 - 1

HEADER = SegmentHeader(
    journal_id=b"j" * ID_BYTES,
    segment_id=b"s" * ID_BYTES,
    schema=7,
    segment_bytes=SEGMENT_BYTES_MIN,
    frame_bytes_max=frame_bytes_max(SEGMENT_BYTES_MIN),
    first_sequence=100,
    previous_sequence=99,
    previous_digest=b"d" * DIGEST_BYTES,
    created=1_700_000_000_000_000_000,
)


@dataclasses.dataclass(frozen=True)
class Placed:
    """A frame in an otherwise empty segment."""

    header: SegmentHeader
    offset: int
    frame: bytes
    segment: bytes
    digest: bytes


def place(
    events: list[bytes], header: SegmentHeader = HEADER, offset: int = SEGMENT_HEADER_BYTES
) -> Placed:
    """Encode a frame where it belongs."""
    frame, digest = encode_frame(
        events,
        seed=header.seed,
        offset=offset,
        first_sequence=header.first_sequence,
        time=header.created,
        previous_digest=header.previous_digest,
    )
    page = bytes(SEGMENT_BYTES_MIN)
    return Placed(header, offset, frame, patched(page, offset, frame), digest)


def with_checksum(page: bytes) -> bytes:
    """The header page with a checksum that fits what was changed in it."""
    return patched(page, 8, zlib.crc32(page[12:]).to_bytes(4, "little"))


@given(HEADERS)
def test_header_round_trip(header: SegmentHeader) -> None:
    """A header page is one page and decodes to what was encoded."""
    page = encode_header(header)

    assert SEGMENT_HEADER_BYTES == len(page)
    assert header == decode_header(page, NEWEST_SCHEMA)


@given(EVENTS_ENCODED, OFFSETS, NUMBERS_64, NUMBERS_64, DIGESTS)
def test_frame_round_trip(
    events: list[bytes], offset: int, sequence: int, time: int, previous: bytes
) -> None:
    """A frame decodes to the fields it was made of, and its body to its events."""
    frame, digest = encode_frame(
        events,
        seed=HEADER.seed,
        offset=offset,
        first_sequence=sequence,
        time=time,
        previous_digest=previous,
    )
    segment = patched(bytes(SEGMENT_BYTES_MIN), offset, frame)

    decoded = decode_frame(memoryview(segment), offset, HEADER)
    body = frame[FRAME_HEADER_BYTES : FRAME_HEADER_BYTES + decoded.body_bytes]

    assert (offset, offset + len(frame)) == (decoded.offset, decoded.end)
    assert 0 == len(frame) % ALIGNMENT
    assert (EVENTS if events else MARK) == decoded.kind
    assert (len(events), sequence, time) == (decoded.count, decoded.first_sequence, decoded.time)
    assert digest == decoded.digest
    assert [msgspec.msgpack.decode(event) for event in events] == (
        msgspec.msgpack.decode(body) if events else []
    )


@given(st.integers(0, 0xFFFF))
def test_list_header(count: int) -> None:
    """The list header is the one msgpack itself would write, for every count that fits."""
    # An encoder of many elements is slow; nil takes one byte.
    data = list_header(count) + b"\xc0" * count

    assert [None] * count == msgspec.msgpack.decode(data)
    assert msgspec.msgpack.encode([None] * count) == data


@pytest.mark.parametrize("count", [0, 1, 15, 16, 300])
def test_every_flipped_bit_of_a_frame_is_detected(count: int) -> None:
    """There is no bit in a frame, padding included, whose change goes unnoticed."""
    placed = place([msgspec.msgpack.encode("x")] * count)
    view = bytearray(placed.segment)

    for offset in range(placed.offset, placed.offset + len(placed.frame)):
        for bit in range(8):
            view[offset] ^= 1 << bit
            with pytest.raises(MalformedError):
                decode_frame(memoryview(view), placed.offset, HEADER)
            view[offset] ^= 1 << bit

    assert count == decode_frame(memoryview(view), placed.offset, HEADER).count


def test_every_flipped_bit_of_a_header_is_detected() -> None:
    """There is no bit in a header page whose change goes unnoticed."""
    page = encode_header(HEADER)

    for offset in range(128):
        for bit in range(8):
            with pytest.raises((MalformedError, UnsupportedError)):
                decode_header(flipped(page, offset, 1 << bit), HEADER.schema)
    for offset in range(128, SEGMENT_HEADER_BYTES):
        with pytest.raises(MalformedError):
            decode_header(flipped(page, offset, 1 << (offset % 8)), HEADER.schema)

    assert HEADER == decode_header(page, HEADER.schema)


@given(EVENTS_ENCODED, OFFSETS, OFFSETS)
def test_a_frame_at_another_offset_never_validates(
    events: list[bytes], offset: int, other: int
) -> None:
    """A frame that was moved within its segment is no frame."""
    if offset == other:
        other += ALIGNMENT
    placed = place(events, offset=offset)
    moved = patched(bytes(SEGMENT_BYTES_MIN), other, placed.frame)

    with pytest.raises(MalformedError, match="checksum"):
        decode_frame(memoryview(moved), other, HEADER)


@given(EVENTS_ENCODED, IDS, IDS)
def test_a_frame_of_another_segment_never_validates(
    events: list[bytes], journal_id: bytes, segment_id: bytes
) -> None:
    """A frame that was left over from another segment, or another journal, is no frame."""
    other = msgspec.structs.replace(HEADER, journal_id=journal_id, segment_id=segment_id)
    placed = place(events, other)

    with pytest.raises(MalformedError, match="checksum"):
        decode_frame(memoryview(placed.segment), placed.offset, HEADER)


def test_a_frame_within_an_event_never_validates() -> None:
    """An event may hold a whole frame, aligned, and still is only an event."""
    inner = place([msgspec.msgpack.encode("inner")]).frame
    # The filling before it puts the inner frame at a multiple of eight.
    event = msgspec.msgpack.encode(inner.rjust(len(inner) + 5, b"\0"))
    placed = place([event])
    inside = placed.segment.index(inner)

    assert 0 == inside % ALIGNMENT
    with pytest.raises(MalformedError, match="checksum"):
        decode_frame(memoryview(placed.segment), inside, HEADER)


@pytest.mark.parametrize(
    ("offset", "new", "words"),
    [
        (12, (FORMAT_VERSION + 1).to_bytes(2, "little"), "format version 2"),
        (12, (0xFFFF).to_bytes(2, "little"), "format version 65535"),
        (20, (0x10).to_bytes(4, "little"), "features 0x10"),
        (24, (HEADER.schema + 1).to_bytes(4, "little"), "schema 8"),
    ],
)
def test_a_newer_header_is_unsupported(offset: int, new: bytes, words: str) -> None:
    """An intact header of a newer version, feature or schema is told from a damaged one."""
    page = with_checksum(patched(encode_header(HEADER), offset, new))

    with pytest.raises(UnsupportedError, match=words):
        decode_header(page, HEADER.schema)


def test_a_newer_version_may_checksum_in_another_way() -> None:
    """A header of a newer version is unsupported even where our checksum does not fit it."""
    page = patched(encode_header(HEADER), 12, (FORMAT_VERSION + 1).to_bytes(2, "little"))

    with pytest.raises(UnsupportedError, match="format version 2"):
        decode_header(page, HEADER.schema)


def test_a_compatible_feature_is_ignored() -> None:
    """A feature that older programs may ignore does not keep them from reading."""
    page = with_checksum(patched(encode_header(HEADER), 16, b"\xff\xff\xff\xff"))

    assert HEADER == decode_header(page, HEADER.schema)


def test_an_older_schema_is_read() -> None:
    """A journal with an older vocabulary opens, and its header says which one it is."""
    page = encode_header(HEADER)

    assert HEADER.schema == decode_header(page, HEADER.schema + 5).schema


@pytest.mark.parametrize(("offset", "value"), [(14, 3), (14, 0), (15, 1), (15, 0x80)])
def test_an_unknown_kind_or_flag_is_unsupported(offset: int, value: int) -> None:
    """An intact frame of a kind or with a flag that came later is unsupported, not damaged."""
    placed = place([msgspec.msgpack.encode("x")])
    frame = patched(placed.frame, offset, bytes([value]))
    crc = zlib.crc32(frame[8:], HEADER.seed ^ placed.offset)
    frame = patched(frame, 4, crc.to_bytes(4, "little"))
    segment = patched(placed.segment, placed.offset, frame)

    with pytest.raises(UnsupportedError, match="kind"):
        decode_frame(memoryview(segment), placed.offset, HEADER)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "the file is empty"),
        (encode_header(HEADER)[:-1], "cut short: 4095 of 4096 bytes"),
        (bytes(SEGMENT_HEADER_BYTES), "no journal segment"),
    ],
)
def test_what_is_no_header_is_malformed(data: bytes, words: str) -> None:
    """Bytes that are no header page are refused in words that say what they are."""
    with pytest.raises(MalformedError, match=words):
        decode_header(data, HEADER.schema)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (SEGMENT_HEADER_BYTES + FRAME_HEADER_BYTES - 1, "cut short"),
        (SEGMENT_HEADER_BYTES + FRAME_HEADER_BYTES, "does not fit"),
    ],
)
def test_a_frame_beyond_the_end_is_malformed(size: int, words: str) -> None:
    """A frame that the segment ends within is no frame."""
    placed = place([msgspec.msgpack.encode("x")])

    with pytest.raises(MalformedError, match=words):
        decode_frame(memoryview(placed.segment)[:size], placed.offset, HEADER)


def test_a_frame_beyond_the_largest_is_malformed() -> None:
    """A frame larger than its segment's header allows is no frame, whatever its checksum."""
    placed = place([msgspec.msgpack.encode(bytes(HEADER.frame_bytes_max))])

    with pytest.raises(MalformedError, match="does not fit"):
        decode_frame(memoryview(placed.segment), placed.offset, HEADER)


@given(SEGMENT_SIZES)
def test_two_largest_frames_fit_into_a_segment(segment_bytes: int) -> None:
    """Two of the largest frames fit into any segment, so a mark and any frame do as well."""
    largest = frame_bytes_max(segment_bytes)

    assert 0 == largest % ALIGNMENT
    assert FRAME_HEADER_BYTES < largest <= FRAME_BYTES_MAX
    assert SEGMENT_HEADER_BYTES + 2 * largest <= segment_bytes


@given(st.integers(0, 2**33))
def test_padded(size: int) -> None:
    """Padding goes to the next multiple of the alignment, and no further."""
    rounded: Any = padded(size)

    assert 0 == rounded % ALIGNMENT
    assert 0 <= rounded - size < ALIGNMENT
