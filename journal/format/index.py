"""The index of a sealed segment, which lists the parts of it to read for one key.

The caller defines the keys, by a function from an event to the keys that find it. The
index cuts the segment into chunks (those of `archive`) and lists for each key the chunks in which
an event with that key begins. It is never trusted over the segment: it is tied to one segment by
its random id, every part that is read is checked, and the events it leads to are read and compared.
A missing entry would go unnoticed, so the journal vouches for the index by its digest: see
`indexed`. An index with any fault is made again.

Integers little-endian; tables follow the header without gaps.

    header    magic 8, crc 4, version 2, bits of a chunk number 1, bits of a bucket number 1,
              the caller's number of its keys 4, chunk bytes 4, chunks 4, entries 4,
              journal id 16, segment id 16, last sequence 8, last time 8, end of the last frame 8,
              last digest 16, records 4; the CRC covers the rest of it and the next three tables
    chunks    for each: offset 8, first sequence 8 and time 8 of the first frame that begins in it
              or later; the time is that of the frame before it
    buckets   for each: entries up to its end 4, digest of its entries 16
    records   for each: first sequence 8 and digest 16 of the index of an earlier segment, as an
              event of this one has it
    entries   4 bytes each, sorted: low bits of the key's hash, then the number of the chunk

The hash is CRC-32 of the key; its high bits are the number of the bucket. Digests are BLAKE2b-128.
The index's digest covers header and tables, without magic and CRC, and by the buckets the entries.
"""

from __future__ import annotations

import struct
import sys
import zlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Self

import msgspec

from journal.format.archive import CHUNK_BYTES
from journal.format.codec import DIGEST_BYTES, MalformedError, SegmentHeader, digest_of
from journal.format.scan import Deliver, End, Scan, advance, judge_end
from journal.fs import ReadOnlyFileSystem

#: From an event to the keys that find it.
KeysOf = Callable[[Any], Iterable[bytes]]
#: From an event to the digests of indexes that it vouches for, by first sequence of their segments.
DigestsOf = Callable[[Any], Mapping[int, bytes]]

_MAGIC = b"\x89JIDX\r\n\x1a"
_VERSION = 2
_OLD_VERSIONS = {1}
_HEADER = struct.Struct("<8sIHBBIIII16s16sQQQ16sI")
_CRC_END = 12
_CHUNK = struct.Struct("<QQQ")
_BUCKET = struct.Struct(f"<I{DIGEST_BYTES}s")
_RECORD = struct.Struct(f"<Q{DIGEST_BYTES}s")
_ENTRY_BYTES = 4
_HASH_BITS = 32
_SEQUENCE_END = 1 << 64
#: About the number of entries in a bucket, which one query reads of each segment.
_BUCKET_ENTRIES = 256
_BUCKET_BITS_MAX = 20


class Keys(NamedTuple):
    """How events are found. `version` is the caller's; an index with another is made again."""

    of: KeysOf
    version: int
    #: From a key to a test whether an event has it, if that is quicker than listing its keys.
    matcher: Callable[[bytes], Callable[[Any], bool]] | None = None
    #: Tells the index digests that an event vouches for; None: every undamaged index counts.
    digests_of: DigestsOf | None = None

    def matching(self, key: bytes) -> Callable[[Any], bool]:
        """A test whether an event has `key`."""
        if self.matcher is not None:
            return self.matcher(key)
        return lambda event: key in self.of(event)


class Record(NamedTuple):
    """An event's record that the index of the segment that begins here has this digest."""

    first_sequence: int
    digest: bytes


class Chunk(NamedTuple):
    """Where the frames that begin in a chunk are; `time` is that of the frame before them."""

    offset: int
    first_sequence: int
    time: int


class OldIndexError(MalformedError):
    """An undamaged index of an old version, which is not used any more."""


class Index:
    """An index that belongs to the segment asked for, as far as it was read."""

    def __init__(
        self, read: Callable[[int, int], bytes], header: SegmentHeader, keys: Keys
    ) -> None:
        """Read header and tables with `read`, which takes a size and an offset.

        Raises OldIndexError, and MalformedError if it is damaged or of another segment or kind.
        """
        data = read(_HEADER.size, 0)
        if len(data) < _HEADER.size:
            raise MalformedError("the index is cut short")
        (
            magic,
            crc,
            version,
            self._chunk_bits,
            self._bucket_bits,
            keys_version,
            chunk_bytes,
            chunks,
            entries,
            journal_id,
            segment_id,
            last_sequence,
            last_time,
            end,
            last_digest,
            records,
        ) = _HEADER.unpack(data)
        if magic == _MAGIC and version in _OLD_VERSIONS:
            raise OldIndexError("the index was made by an earlier version")
        if magic != _MAGIC or version != _VERSION or chunk_bytes != CHUNK_BYTES:
            raise MalformedError("this is no index of this version")
        if (
            self._bucket_bits > _BUCKET_BITS_MAX
            or chunks != max(1, -(-header.segment_bytes // CHUNK_BYTES))
            or entries > _entries_max(header)
            or records > header.segment_bytes // DIGEST_BYTES
        ):
            raise MalformedError("the index does not match its checksum")
        chunk_table_bytes = chunks * _CHUNK.size
        buckets_end = chunk_table_bytes + (_BUCKET.size << self._bucket_bits)
        tables_bytes = buckets_end + records * _RECORD.size
        tables = read(tables_bytes, _HEADER.size)
        if len(tables) < tables_bytes or _crc(data, tables) != crc:
            raise MalformedError("the index does not match its checksum")
        if (journal_id, segment_id) != (header.journal_id, header.segment_id):
            raise MalformedError("the index is of another segment")
        if keys_version != keys.version:
            raise OldIndexError("the index was made with other keys")
        self.chunks = list(map(Chunk._make, _CHUNK.iter_unpack(tables[:chunk_table_bytes])))
        self._buckets = tables[chunk_table_bytes:buckets_end]
        #: The digests of earlier segments' indexes, as the segment's events record them.
        self.records = list(map(Record._make, _RECORD.iter_unpack(tables[buckets_end:])))
        #: Two indexes with the same digest are identical.
        self.digest = digest_of((data[_CRC_END:], tables))
        self._entries: int = entries
        self._entries_offset = _HEADER.size + len(tables)
        self._read = read
        #: Of the segment: its last event's sequence, its last frame's time, end and digest.
        self.last_sequence: int = last_sequence
        self.last_time: int = last_time
        self.end: int = end
        self.last_digest: bytes = last_digest

    @classmethod
    def of_file(cls, fs: ReadOnlyFileSystem, fd: int, header: SegmentHeader, keys: Keys) -> Self:
        """The index in the file that is open as `fd`. Raises as the constructor, OSError."""
        file_bytes = fs.size(fd)
        # What a damaged header asks for may be more than there is memory.
        index = cls(lambda size, at: fs.read(fd, min(size, file_bytes), at), header, keys)
        if file_bytes != index.file_bytes:
            raise MalformedError(
                f"the index has {file_bytes} bytes, another length than it says: {index.file_bytes}"
            )
        return index

    @property
    def file_bytes(self) -> int:
        """The length of the whole file."""
        return self._entries_offset + self._entries * _ENTRY_BYTES

    def find(self, key: bytes) -> list[int]:
        """The numbers of the chunks that may have events with `key`, in order.

        Raises MalformedError if a part that it reads is damaged.
        """
        hashed = zlib.crc32(key)
        entries = self._bucket(hashed >> (_HASH_BITS - self._bucket_bits))
        low = (hashed << self._chunk_bits) & 0xFFFFFFFF
        start = bisect_left(entries, low)
        mask = (1 << self._chunk_bits) - 1
        return [entry & mask for entry in entries[start : bisect_right(entries, low | mask)]]

    def check(self) -> None:
        """Read all of it. Raises MalformedError."""
        for bucket in range(1 << self._bucket_bits):
            self._bucket(bucket)

    def _bucket(self, bucket: int) -> array[int]:
        start = _BUCKET.unpack_from(self._buckets, (bucket - 1) * _BUCKET.size)[0] if bucket else 0
        end, digest = _BUCKET.unpack_from(self._buckets, bucket * _BUCKET.size)
        if not start <= end <= self._entries:
            raise MalformedError("the index does not match its checksum")
        data = self._read((end - start) * _ENTRY_BYTES, self._entries_offset + start * _ENTRY_BYTES)
        if digest_of((data,)) != digest or len(data) != (end - start) * _ENTRY_BYTES:
            raise MalformedError("a part of the index does not match its digest")
        return _little_endian(array("I", data))


def _entries_max(header: SegmentHeader) -> int:
    """An upper bound of a segment's entries: each key has bytes of its own."""
    return header.segment_bytes


def _crc(head: bytes, tables: bytes) -> int:
    return zlib.crc32(tables, zlib.crc32(head[_CRC_END:]))


def records_in(keys: Keys, events: Iterable[Any]) -> Iterator[Record]:
    """The records of indexes in these events, without impossible ones."""
    digests_of = keys.digests_of
    if digests_of is None:
        return
    for event in events:
        for first_sequence, digest in digests_of(event).items():
            if 0 < first_sequence < _SEQUENCE_END and len(digest) == DIGEST_BYTES:
                yield Record(first_sequence, digest)


def build_index(
    segment: bytes,
    header: SegmentHeader,
    decoder: msgspec.msgpack.Decoder[list[Any]],
    keys: Keys,
    deliver: Deliver | None = None,
    *,
    verify_chain: bool = False,
) -> bytes:
    """Check a sealed segment and make its index; its events go to `deliver` as well.

    Checks checksums and sequences, as a start does, and with `verify_chain` the digests. Raises
    MalformedError if the segment does not end cleanly, UnsupportedError as `scan` does.
    """
    cursor = Scan.at_start(header)
    chunk_count = max(1, -(-len(segment) // CHUNK_BYTES))
    chunk_bits = (chunk_count - 1).bit_length()
    chunks: list[Chunk] = []
    # A key's hash above, the chunk below: so one sort orders both.
    found: list[int] = []
    hashes: dict[bytes, int] = {}
    keys_of = keys.of
    records: list[Record] = []
    for number in range(chunk_count):
        chunks.append(Chunk(cursor.offset, cursor.next_sequence, cursor.time))
        here: set[bytes] = set()

        def collect(events: list[Any], here: set[bytes] = here) -> None:
            for event in events:
                here.update(keys_of(event))
            records.extend(records_in(keys, events))
            if deliver is not None:
                deliver(events)

        advance(
            segment,
            header,
            cursor,
            decoder,
            collect,
            before=(number + 1) * CHUNK_BYTES,
            verify_chain=verify_chain,
        )
        for key in here:
            hashed = hashes.get(key)
            if hashed is None:
                hashed = hashes[key] = zlib.crc32(key) << chunk_bits
            found.append(hashed | number)
    judge_end(segment, header, cursor)
    if cursor.end is not End.CLEAN:
        raise MalformedError(cursor.reason, cursor.offset, cursor.next_sequence - 1)
    found.sort()
    bucket_bits = min(_BUCKET_BITS_MAX, (len(found) // _BUCKET_ENTRIES).bit_length())
    buckets = []
    entries = []
    start = count = 0
    shift = _HASH_BITS - bucket_bits + chunk_bits
    for bucket in range(1 << bucket_bits):
        end = bisect_left(found, (bucket + 1) << shift, lo=start)
        # The highest bits of the hash are lost here; those that the bucket's number does not
        # have only lead to a chunk in vain.
        low = sorted({entry & 0xFFFFFFFF for entry in found[start:end]})
        data = _little_endian(array("I", low))
        entries.append(data.tobytes())
        count += len(low)
        buckets.append(_BUCKET.pack(count, digest_of((entries[-1],))))
        start = end
    head = _HEADER.pack(
        _MAGIC,
        0,
        _VERSION,
        chunk_bits,
        bucket_bits,
        keys.version,
        CHUNK_BYTES,
        len(chunks),
        count,
        header.journal_id,
        header.segment_id,
        cursor.next_sequence - 1,
        cursor.time,
        cursor.offset,
        cursor.digest,
        len(records),
    )
    tables = b"".join(
        (
            *(_CHUNK.pack(*chunk) for chunk in chunks),
            *buckets,
            *(_RECORD.pack(*record) for record in records),
        )
    )
    crc = _crc(head, tables).to_bytes(4, "little")
    return b"".join((head[:8], crc, head[_CRC_END:], tables, *entries))


def _little_endian(numbers: array[int]) -> array[int]:
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
