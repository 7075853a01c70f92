"""Makes checksums fit altered bytes, so that a fuzzer gets behind them."""

from __future__ import annotations

import hashlib
import struct
import zlib

from journal.format.codec import (
    DIGEST_BYTES,
    FRAME_HEADER_BYTES,
    FRAME_MAGIC,
    SEGMENT_HEADER_BYTES,
    SEGMENT_MAGIC,
    MalformedError,
    SegmentHeader,
    UnsupportedError,
    chain_digest,
    decode_header,
    padded,
)
from tests.kits.journal.building import SCHEMA
from tests.kits.journal.compaction import KEYS

#: Ways to mend, as bits of the second byte.
CHECKSUM, CONTENT, CHAIN = 1, 2, 4

_FRAME = struct.Struct("<4sIIHBBQQ16s")
_ARCHIVE_MAGIC = b"\x89JARC\r\n\x1a"
_ARCHIVE_FOOTER_BYTES = 48
_INDEX_MAGIC = b"\x89JIDX\r\n\x1a"
_INDEX_HEADER_BYTES = 108
_SNAPSHOT_MAGIC = b"\x89JSNP\r\n\x1a"
_SNAPSHOT_HEADER_BYTES = 120
_SKIPPABLE = 0x184D2A5E


def mended_header(page: bytes) -> bytes:
    """A header page with the magic and the checksum that it needs."""
    crc = zlib.crc32(page[12:SEGMENT_HEADER_BYTES]).to_bytes(4, "little")
    return SEGMENT_MAGIC + crc + page[12:]


def mended_frames(segment: bytes, header: SegmentHeader, mend: int) -> bytes:
    """A segment whose frames have checksums that fit, and sequences and digests by `mend`."""
    data = bytearray(segment)
    offset, sequence, digest = SEGMENT_HEADER_BYTES, header.first_sequence, header.previous_digest
    while offset + FRAME_HEADER_BYTES <= len(data):
        (_, _, length, count, kind, flags, first, time, chain) = _FRAME.unpack_from(data, offset)
        end = offset + FRAME_HEADER_BYTES + padded(length)
        if end > len(data) or not any(data[offset:end]):
            break
        if mend & CONTENT:
            first, flags = sequence, 0
            sequence = (sequence + count) % (1 << 64)
        tail = struct.pack("<IHBBQQ", length, count, kind, flags, first, time)
        if mend & CHAIN:
            chain = digest = chain_digest(
                digest, tail, bytes(data[offset + FRAME_HEADER_BYTES : end])
            )
        data[offset : offset + FRAME_HEADER_BYTES] = FRAME_MAGIC + bytes(4) + tail + chain
        crc = zlib.crc32(data[offset + 8 : end], header.seed ^ offset)
        data[offset + 4 : offset + 8] = crc.to_bytes(4, "little")
        offset = end
    return bytes(data)


def mended_archive(data: bytes) -> bytes:
    """An archive whose trailer has the checksum, the sizes and the digest that it needs."""
    footer = bytearray(data[-_ARCHIVE_FOOTER_BYTES:])
    if len(footer) < _ARCHIVE_FOOTER_BYTES:
        return data
    (chunks,) = struct.unpack_from("<I", footer, 20)
    data_bytes = len(data) - _ARCHIVE_FOOTER_BYTES - 4 * chunks - 8
    if data_bytes < 0:
        return data
    sizes = [data_bytes // chunks] * chunks if chunks else []
    if sizes:
        sizes[-1] += data_bytes - sum(sizes)
    table = struct.pack(f"<{chunks}I", *sizes)
    footer[:8] = _ARCHIVE_MAGIC
    footer[12:16] = b"\1\0\0\0"
    digest = hashlib.blake2b(data[:data_bytes], digest_size=DIGEST_BYTES).digest()
    footer[32:] = digest
    footer[8:12] = zlib.crc32(footer[12:], zlib.crc32(table)).to_bytes(4, "little")
    head = struct.pack("<II", _SKIPPABLE, len(table) + len(footer))
    return data[:data_bytes] + head + table + bytes(footer)


def mended_index(data: bytes, header: SegmentHeader) -> bytes:
    """An index of the segment that `header` is of, with checksums that fit."""
    head = bytearray(data[:_INDEX_HEADER_BYTES].ljust(_INDEX_HEADER_BYTES, b"\0"))
    head[:8] = _INDEX_MAGIC
    head[12:14] = b"\2\0"
    head[15] %= 4
    head[16:24] = struct.pack("<II", KEYS.version, 64 * 1024)
    head[32:64] = header.journal_id + header.segment_id
    (chunks, entries) = struct.unpack_from("<II", head, 24)
    (records,) = struct.unpack_from("<I", head, 104)
    rest = bytearray(data[_INDEX_HEADER_BYTES:])
    buckets = 24 * chunks
    buckets_end = buckets + (20 << head[15])
    stop = buckets_end + 24 * records
    if stop > len(rest):
        return bytes(head + rest)
    start = 0
    for at in range(buckets, buckets_end, 20):
        end = min(struct.unpack_from("<I", rest, at)[0], entries)
        part = rest[stop + 4 * start : stop + 4 * end]
        digest = hashlib.blake2b(part, digest_size=DIGEST_BYTES).digest()
        struct.pack_into("<I16s", rest, at, end, digest)
        start = end
    head[8:12] = zlib.crc32(rest[:stop], zlib.crc32(head[12:])).to_bytes(4, "little")
    return bytes(head + rest)


def mended_snapshot(data: bytes, mend: int) -> bytes:
    """A snapshot with checksums that fit, and the size and the digest of its state by `mend`."""
    head = bytearray(data[:_SNAPSHOT_HEADER_BYTES].ljust(_SNAPSHOT_HEADER_BYTES, b"\0"))
    state = data[_SNAPSHOT_HEADER_BYTES:]
    head[:8] = _SNAPSHOT_MAGIC
    if mend & CONTENT:
        head[80:96] = hashlib.blake2b(state, digest_size=DIGEST_BYTES).digest()
        head[104:112] = len(state).to_bytes(8, "little")
    head[8:12] = zlib.crc32(head[12:]).to_bytes(4, "little")
    return bytes(head) + state


def mended_file(name: str, data: bytes, mend: int) -> bytes:
    """A file of a journal, by what its name says that it is."""
    if name.endswith(".zst"):
        return mended_archive(data)
    if name.endswith(".snap"):
        return mended_snapshot(data, mend)
    if name.endswith(".seg") and len(data) >= SEGMENT_HEADER_BYTES:
        data = mended_header(data)
        try:
            return mended_frames(data, decode_header(data, SCHEMA), mend)
        except (MalformedError, UnsupportedError):
            return data
    return data
