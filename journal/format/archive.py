"""Compressed sealed segments, with random access.

An archive file is a segment cut into chunks of 64 KiB, each a Zstandard frame of its own (RFC 8878)
with a checksum, and a trailer in a skippable frame. So `zstd -d` gives the segment back, with the
header, checksums and digests that prove it and chain it to its neighbours.

Trailer, integers little-endian, the last bytes of the file:

    +----------+------+----------------------+
    | 184D2A5E | size | compressed size of   |   skippable frame: magic, size of what follows;
    |          |      | each chunk, 4 bytes  |   the table
    +----------+------+----------------------+
    0        8    12   14   16     20     24        32               48
    +--------+----+----+----+------+------+---------+----------------+
    | magic  |crc |vers|zero|chunk |chunks| segment | digest of the  |   footer; the CRC covers the
    |        |    |    |    |bytes |      | bytes   | chunks' bytes  |   table and the rest of it
    +--------+----+----+----+------+------+---------+----------------+
"""

from __future__ import annotations

import contextlib
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import NamedTuple, Protocol, Self

from journal.errors import JournalCorruptError, JournalUnsupportedError
from journal.format.codec import (
    SEGMENT_BYTES_MAX,
    SEGMENT_HEADER_BYTES,
    MalformedError,
    SegmentHeader,
    UnsupportedError,
    decode_header,
    digest_of,
)
from journal.format.segments import SegmentFile, check_size, opened, read_file
from journal.fs import ReadOnlyFileSystem

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

#: The bytes to decompress for one frame: few enough for a query about one address, enough to
#: compress nearly as well as the whole segment.
CHUNK_BYTES = 64 * 1024
#: The fastest level that finds repeated names.
_LEVEL = 3

_MAGIC = b"\x89JARC\r\n\x1a"
_VERSION = 1
_SKIPPABLE = struct.Struct("<II")
_SKIPPABLE_MAGIC = 0x184D2A5E
_FOOTER = struct.Struct("<8sIHHIIQ16s")
#: Smaller ones were never written: the table would be as long as the segment.
_CHUNK_BYTES_MIN = 1024
#: Larger ones were never written either: to read one frame decompresses one of them.
_CHUNK_BYTES_MAX = 16 << 20
_CRC_END = 12
#: The last sequence in errors about a header that is read for its size alone.
_ANY_SCHEMA = 0xFFFFFFFF


def compress(segment: bytes) -> bytes:
    """The archive file of a segment's bytes."""
    view = memoryview(segment)
    chunks = [
        zstd.compress(
            view[start : start + CHUNK_BYTES],
            options={
                zstd.CompressionParameter.compression_level: _LEVEL,
                zstd.CompressionParameter.checksum_flag: 1,
            },
        )
        for start in range(0, len(segment), CHUNK_BYTES)
    ]
    return b"".join((*chunks, _encode_trailer(chunks, len(segment))))


def decompress(data: bytes) -> bytes:
    """The segment's bytes; checks the whole file.

    Raises MalformedError with the reason, UnsupportedError for what a newer version wrote.
    """
    layout = _Layout.read(data[-_FOOTER.size :], len(data), lambda size, at: data[at : at + size])
    if digest_of((memoryview(data)[: layout.data_bytes],)) != layout.digest:
        raise MalformedError("the archive's chunks do not match their digest")
    return b"".join(
        layout.decompress(index, data[layout.starts[index] : layout.starts[index + 1]])
        for index in range(layout.chunks)
    )


def _encode_trailer(chunks: list[bytes], segment_bytes: int) -> bytes:
    table = b"".join(len(chunk).to_bytes(4, "little") for chunk in chunks)
    footer = _FOOTER.pack(
        _MAGIC, 0, _VERSION, 0, CHUNK_BYTES, len(chunks), segment_bytes, digest_of(chunks)
    )
    crc = zlib.crc32(footer[_CRC_END:], zlib.crc32(table)).to_bytes(4, "little")
    footer = footer[:8] + crc + footer[_CRC_END:]
    return _SKIPPABLE.pack(_SKIPPABLE_MAGIC, len(table) + len(footer)) + table + footer


def _compressed_bytes_max(segment_bytes: int, chunks: int) -> int:
    """An upper bound of Zstandard's output for bytes that do not compress."""
    return segment_bytes + segment_bytes // 128 + 256 * chunks


class _Layout(NamedTuple):
    """The content of a trailer: where each chunk is."""

    #: The offset of each chunk in the file, and the end of the last.
    starts: list[int]
    chunk_bytes: int
    segment_bytes: int
    digest: bytes

    @classmethod
    def read(cls, footer: bytes, file_bytes: int, read: Callable[[int, int], bytes]) -> Self:
        """Check the footer and the table before it; `read` takes a size and an offset."""
        if len(footer) < _FOOTER.size:
            raise MalformedError("the archive file is cut short: it has no trailer")
        magic, crc, version, zero, chunk_bytes, chunks, segment_bytes, digest = _FOOTER.unpack(
            footer
        )
        if magic != _MAGIC:
            raise MalformedError("the archive file is cut short or no archive: it has no trailer")
        if version > _VERSION:
            raise UnsupportedError(
                f"the archive has version {version}, this program reads up to {_VERSION}"
            )
        if (
            not _CHUNK_BYTES_MIN <= chunk_bytes <= _CHUNK_BYTES_MAX
            or segment_bytes > SEGMENT_BYTES_MAX
            or -(-segment_bytes // chunk_bytes) != chunks
        ):
            raise MalformedError("the archive's trailer does not match its checksum")
        prefix_bytes = _SKIPPABLE.size + 4 * chunks
        data_bytes = file_bytes - _FOOTER.size - prefix_bytes
        if data_bytes < 0:
            raise MalformedError("the archive file is cut short: its table does not fit")
        check_size(data_bytes, _compressed_bytes_max(segment_bytes, chunks))
        prefix = read(prefix_bytes, data_bytes)
        table = prefix[_SKIPPABLE.size :]
        sizes = struct.unpack(f"<{chunks}I", table)
        if (
            zlib.crc32(footer[_CRC_END:], zlib.crc32(table)) != crc
            or zero
            or _SKIPPABLE.unpack_from(prefix) != (_SKIPPABLE_MAGIC, len(table) + _FOOTER.size)
            or sum(sizes) != data_bytes
        ):
            raise MalformedError("the archive's trailer does not match its checksum")
        return cls([0, *accumulate(sizes)], chunk_bytes, segment_bytes, digest)

    @property
    def chunks(self) -> int:
        """The number of chunks."""
        return len(self.starts) - 1

    @property
    def data_bytes(self) -> int:
        """The compressed size of all chunks."""
        return self.starts[-1]

    def decompress(self, index: int, data: bytes) -> bytes:
        """One chunk. Raises MalformedError."""
        expected = min(self.chunk_bytes, self.segment_bytes - index * self.chunk_bytes)
        decompressor = zstd.ZstdDecompressor()
        try:
            # One byte more than there should be: enough to tell, whatever the data says.
            chunk = decompressor.decompress(data, expected + 1)
        except zstd.ZstdError as error:
            raise MalformedError(f"chunk {index} of the archive is damaged: {error}") from None
        if len(chunk) != expected or not decompressor.eof or decompressor.unused_data:
            raise MalformedError(f"chunk {index} of the archive is damaged: its size is wrong")
        return chunk


class SegmentReader(Protocol):
    """Reads a segment's bytes, compressed or not."""

    @property
    def size(self) -> int:
        """The segment's length in bytes."""

    def read(self, size: int, offset: int) -> bytes:
        """`size` bytes from `offset`; fewer at the end. Raises OSError, MalformedError."""


class _Plain:
    def __init__(self, fs: ReadOnlyFileSystem, fd: int) -> None:
        self._fs = fs
        self._fd = fd
        self.size = fs.size(fd)

    def read(self, size: int, offset: int) -> bytes:
        return self._fs.read(self._fd, size, offset)


class _Archived:
    def __init__(self, fs: ReadOnlyFileSystem, fd: int) -> None:
        self._fs = fs
        self._fd = fd
        file_bytes = fs.size(fd)
        footer = fs.read(fd, _FOOTER.size, max(0, file_bytes - _FOOTER.size))
        self._layout = _Layout.read(
            footer, file_bytes, lambda size, at: self._fs.read(self._fd, size, at)
        )
        self.size = self._layout.segment_bytes

    def read(self, size: int, offset: int) -> bytes:
        layout = self._layout
        stop = min(offset + size, self.size)
        if stop <= offset:
            return b""
        first, last = offset // layout.chunk_bytes, (stop - 1) // layout.chunk_bytes
        parts = []
        for index in range(first, last + 1):
            start, end = layout.starts[index], layout.starts[index + 1]
            parts.append(layout.decompress(index, self._fs.read(self._fd, end - start, start)))
        skipped = first * layout.chunk_bytes
        return b"".join(parts)[offset - skipped : stop - skipped]


@contextlib.contextmanager
def open_segment(fs: ReadOnlyFileSystem, file: SegmentFile) -> Iterator[SegmentReader]:
    """A segment to read from, archived or not. Raises OSError, MalformedError, UnsupportedError."""
    with opened(fs, file.path) as fd:
        yield _Archived(fs, fd) if file.archived else _Plain(fs, fd)


def read_segment(fs: ReadOnlyFileSystem, file: SegmentFile) -> bytes:
    """All bytes of a segment; of an archived one, checks the whole file.

    Raises OSError, MalformedError, UnsupportedError.
    """
    if not file.archived:
        return read_file(fs, file.path)
    # Only a file whose trailer fits its length, and the segment's own header, is read whole.
    with open_segment(fs, file) as segment:
        _check_decoded_size(segment)
    return decompress(read_file(fs, file.path, _compressed_bytes_max(SEGMENT_BYTES_MAX, 1 << 20)))


def _check_decoded_size(segment: SegmentReader) -> None:
    """Raise MalformedError if an archived segment has another size than its header says.

    Zeros compress to nearly nothing: a short file may hold as much as the largest segment.
    """
    try:
        page = segment.read(SEGMENT_HEADER_BYTES, 0)
    except MalformedError:
        return  # reading all of it gives a better error
    with contextlib.suppress(UnsupportedError):
        header = decode_header(page, _ANY_SCHEMA)
        if header.segment_bytes != segment.size:
            raise MalformedError(
                f"the archive holds {segment.size} bytes of a segment that was made with "
                f"{header.segment_bytes}"
            )


def read_header(fs: ReadOnlyFileSystem, file: SegmentFile, schema: int) -> SegmentHeader:
    """The header of a segment, archived or not; reads nothing else.

    Raises OSError, MalformedError, UnsupportedError.
    """
    with open_segment(fs, file) as segment:
        return decode_header(segment.read(SEGMENT_HEADER_BYTES, 0), schema)


@contextlib.contextmanager
def errors_of(file: SegmentFile, last: int | None = None) -> Iterator[None]:
    """Turn errors about a segment's bytes into errors that name its file.

    `last` is the last event known to be good unless the error knows better; None: that before the
    segment.
    """
    try:
        yield
    except MalformedError as error:
        good = file.first_sequence - 1 if last is None else last
        if error.last_sequence is not None:
            good = error.last_sequence
        raise JournalCorruptError(file.path, error.offset, good, str(error)) from None
    except UnsupportedError as error:
        raise JournalUnsupportedError(file.path, str(error)) from None


def header_of(fs: ReadOnlyFileSystem, file: SegmentFile, schema: int) -> SegmentHeader:
    """The same as `read_header`, with errors that name the file: as `errors_of`; OSError."""
    with errors_of(file):
        return read_header(fs, file, schema)
