"""Snapshots: the caller's whole state after an event, so that no earlier event is replayed.

A snapshot file is a header of 120 bytes and the state's bytes, which only the caller can decode.
Integers are little-endian:

    0        8    12   14   16      20       24       28     32                48
    +--------+----+----+----+-------+--------+--------+------+-----------------+
    | magic  |crc |vers|zero|compat |incompat| schema | zero |   journal id    |
    +--------+----+----+----+-------+--------+--------+------+-----------------+
    48       56       64                80                96       104    112 120
    +--------+--------+-----------------+-----------------+--------+------+----+
    |sequence| time   |  chain digest   |  state digest   |created | size |zero|  state ...
    +--------+--------+-----------------+-----------------+--------+------+----+

The CRC covers the header, the state digest (BLAKE2b-128) the state. The chain digest is the one
that the segment which begins behind `sequence` continues: it ties the snapshot to its journal.
"""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import msgspec

from journal.format.codec import MalformedError, UnsupportedError, digest_of
from journal.format.segments import opened
from journal.fs import ReadOnlyFileSystem

_MAGIC = b"\x89JSNP\r\n\x1a"
_VERSION = 1
_HEADER = struct.Struct("<8sIHHIIII16sQQ16s16sQQQ")
_CRC_END = 12
_SUFFIX = ".snap"
_NAME = re.compile(r"[0-9]{20}\.snap")
TEMPORARY_NAME = "snapshot.tmp"
#: A longer state is read into memory only after its digest was checked: its header may be forged.
_HELD_UNCHECKED_MAX = 64 << 20
_PIECE_BYTES = 1 << 20


class SnapshotFile(NamedTuple):
    """A snapshot by its name."""

    sequence: int
    path: Path


class Snapshot(msgspec.Struct, frozen=True):
    """The state after the event `sequence`, whose time is `time`. Times are ns since the epoch."""

    journal_id: bytes
    schema: int
    sequence: int
    time: int
    #: The chain's digest, as in the next segment's header.
    chain_digest: bytes
    created: int
    state: bytes

    @property
    def digest(self) -> str:
        """The digest that identifies the state."""
        return state_digest(self.state).hex()

    @property
    def file_bytes(self) -> int:
        """The size of its file."""
        return snapshot_bytes(self.state)


def state_digest(state: bytes) -> bytes:
    """The digest of a state: BLAKE2b-128 of its bytes."""
    return digest_of((state,))


def list_snapshots(fs: ReadOnlyFileSystem, directory: Path) -> list[SnapshotFile]:
    """The snapshots of `directory`, newest first."""
    return [
        SnapshotFile(int(name.removesuffix(_SUFFIX)), directory / name)
        for name in sorted(fs.list_directory(directory), reverse=True)
        if _NAME.fullmatch(name)
    ]


def read_snapshot(fs: ReadOnlyFileSystem, path: Path, schema: int) -> Snapshot:
    """Read and check a snapshot; `schema` is the newest vocabulary that the caller knows.

    Raises MalformedError with the reason, UnsupportedError for what a newer version wrote, OSError.
    """
    with opened(fs, path) as fd:
        return _read(fs, fd, path, schema)


def _read(fs: ReadOnlyFileSystem, fd: int, path: Path, schema: int) -> Snapshot:
    """The snapshot in the file `path`, open as `fd`; the state is read after the header's check."""
    data = fs.read(fd, _HEADER.size, 0)
    if len(data) < _HEADER.size:
        raise MalformedError(f"the snapshot is cut short: it has {len(data)} bytes")
    (
        magic,
        crc,
        version,
        reserved,
        _compatible,
        incompatible,
        written_schema,
        reserved_too,
        journal_id,
        sequence,
        time,
        chain_digest,
        digest,
        created,
        size,
        reserved_last,
    ) = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise MalformedError("this is no snapshot: its first eight bytes are wrong")
    if version > _VERSION:
        raise UnsupportedError(
            f"the snapshot has version {version}, this program reads up to {_VERSION}"
        )
    view = memoryview(data)
    if zlib.crc32(view[_CRC_END : _HEADER.size]) != crc or reserved | reserved_too | reserved_last:
        raise MalformedError("the snapshot's header does not match its checksum")
    if incompatible:
        raise UnsupportedError(f"it uses features {incompatible:#x} that this program lacks")
    if written_schema > schema:
        raise UnsupportedError(
            f"its state has schema {written_schema}, written by a newer version; "
            f"this program reads up to {schema}"
        )
    state = _read_state(fs, fd, size, digest)
    if path.name != f"{sequence:020d}{_SUFFIX}":
        raise MalformedError(f"the snapshot is of sequence {sequence}, its name says otherwise")
    return Snapshot(
        journal_id=journal_id,
        schema=written_schema,
        sequence=sequence,
        time=time,
        chain_digest=chain_digest,
        created=created,
        state=state,
    )


def _read_state(fs: ReadOnlyFileSystem, fd: int, size: int, digest: bytes) -> bytes:
    """The state of a snapshot file whose header says that it has `size` bytes, and this digest."""
    file_bytes = fs.size(fd)
    if file_bytes != _HEADER.size + size:
        raise MalformedError(
            f"the snapshot has {file_bytes} bytes, and by its header {_HEADER.size + size}: "
            "its state does not match its digest"
        )
    state = b""
    if size <= _HELD_UNCHECKED_MAX or _digest_of(fs, fd, size) == digest:
        state = fs.read(fd, size, _HEADER.size)
    if len(state) != size or state_digest(state) != digest:
        raise MalformedError("the snapshot's state does not match its digest")
    return state


def _digest_of(fs: ReadOnlyFileSystem, fd: int, size: int) -> bytes:
    """The digest of the state of a snapshot file, read in pieces."""
    end = _HEADER.size + size
    return digest_of(
        fs.read(fd, min(_PIECE_BYTES, end - offset), offset)
        for offset in range(_HEADER.size, end, _PIECE_BYTES)
    )


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """The file of a snapshot."""
    header = _HEADER.pack(
        _MAGIC,
        0,
        _VERSION,
        0,
        0,
        0,
        snapshot.schema,
        0,
        snapshot.journal_id,
        snapshot.sequence,
        snapshot.time,
        snapshot.chain_digest,
        state_digest(snapshot.state),
        snapshot.created,
        len(snapshot.state),
        0,
    )
    crc = zlib.crc32(header[_CRC_END:]).to_bytes(4, "little")
    return header[:8] + crc + header[_CRC_END:] + snapshot.state


def snapshot_bytes(state: bytes) -> int:
    """The size of the file of a snapshot of this state."""
    return _HEADER.size + len(state)


def snapshot_path(directory: Path, sequence: int) -> Path:
    """The path of the snapshot of the state after `sequence`."""
    return directory / f"{sequence:020d}{_SUFFIX}"
