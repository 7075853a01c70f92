"""The files of a journal: their names, how one comes to be, and what a directory must look like.

    <first sequence, 20 digits>.seg     a segment
    spare.tmp                           the next one, zero-filled ahead of time, without a name yet
    recovered.tmp                       a torn segment's good part, while it is being copied
    <segment>.torn-<time>               the torn bytes that recovery set aside
    LOCK                                flock'ed by the one writer, whose process id it holds

A segment appears under its name whole or not at all: zero-filled, header written, fsync, rename,
fsync of the directory. Its length never changes after that, so a shorter one was cut by somebody.
Anything else in the directory is left alone.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from journal.codec import SegmentHeader, encode_header
from journal.errors import JournalCorruptError, JournalLockedError
from journal.fs import FileSystem

LOCK_NAME = "LOCK"
SPARE_NAME = "spare.tmp"
RECOVERED_NAME = "recovered.tmp"

_SUFFIX = ".seg"
_NAME = re.compile(r"\d{20}\.seg")
_PID_BYTES = 20
#: Zeros are written in pieces of this size: large enough to stream, small enough to hold.
_ZEROS = bytes(1 << 20)


class SegmentFile(NamedTuple):
    """A segment by its name."""

    first_sequence: int
    path: Path


def segment_path(directory: Path, first_sequence: int) -> Path:
    """Where the segment that starts with `first_sequence` is kept."""
    return directory / f"{first_sequence:020d}{_SUFFIX}"


def list_segments(fs: FileSystem, directory: Path) -> list[SegmentFile]:
    """The segments of `directory`, oldest first.

    Raises JournalCorruptError for a name that claims to be a segment and is none.
    """
    found = []
    for name in sorted(fs.list_directory(directory)):
        if _NAME.fullmatch(name):
            found.append(SegmentFile(int(name.removesuffix(_SUFFIX)), directory / name))
        elif name.endswith(_SUFFIX):
            raise JournalCorruptError(
                directory / name, 0, 0, "a segment is named by 20 digits; this file is not ours"
            )
    return found


def read_file(fs: FileSystem, path: Path) -> bytes:
    """All bytes of `path`."""
    fd = fs.open(path)
    try:
        return fs.read(fd, fs.size(fd), 0)
    finally:
        fs.close(fd)


def zero_fill(fs: FileSystem, fd: int, start: int, size: int) -> None:
    """Write zeros from `start` up to `size`.

    Real zeros, not fallocate: blocks that were only reserved cost a metadata change at the first
    fdatasync that touches them, which is what preallocating is to spare us.
    """
    for offset in range(start, size, len(_ZEROS)):
        fs.write(fd, memoryview(_ZEROS)[: size - offset], offset)


def publish(fs: FileSystem, fd: int, temporary: Path, header: SegmentHeader) -> Path:
    """Turn the filled file `temporary`, open as `fd`, into the segment that `header` describes.

    On return the segment is durable under its name.
    """
    fs.write(fd, encode_header(header), 0)
    fs.sync(fd)
    path = segment_path(temporary.parent, header.first_sequence)
    fs.rename(temporary, path)
    fs.sync_directory(path.parent)
    return path


def acquire_lock(fs: FileSystem, directory: Path) -> int:
    """Become the writer of `directory`; the descriptor holds the lock until it is closed.

    Raises JournalLockedError, naming the other process, if there is one.
    """
    path = directory / LOCK_NAME
    fd = fs.open(path, write=True, create=True)
    try:
        if not fs.lock(fd):
            pid = fs.read(fd, _PID_BYTES, 0).strip(b"\0 \n").decode("ascii", "replace")
            raise JournalLockedError(directory, f"process {pid}" if pid else "another process")
        # A fixed width, so that no truncation is needed and a reader never sees half a number.
        fs.write(fd, f"{os.getpid():<{_PID_BYTES - 1}}\n".encode(), 0)
    except BaseException:
        fs.close(fd)
        raise
    return fd
