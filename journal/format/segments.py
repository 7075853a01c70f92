"""The files of a journal: their names, how they are made, and what a directory may have.

    <first sequence, 20 digits>.seg     a segment
    spare.tmp                           the next one, zero-filled ahead of time, without a name yet;
                                        it stays when the writer ends, for the next writer
    recovered.tmp                       a torn segment's good part, while it is being copied
    <file>.torn-<time>                  bytes that a repair took out of a file, or the whole file
    repairs.json                        repairs not yet recorded in the journal: see `repair_note`
    <last sequence, 20 digits>.snap     the state after that event: see `snapshot`
    <first sequence, 20 digits>.idx     the index of a sealed segment: see `index`
    archive/<first sequence>.seg.zst    a sealed segment, compressed; its index lies beside it
    LOCK                                flock'ed by the one writer, as is the directory itself; it
                                        holds the writer's process id

A segment appears under its name whole or not at all: zero-filled, header written, fsync, rename,
fsync of the directory. Its length never changes after that, so a shorter one was cut by another
program. Other files in the directory are left alone.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from journal.errors import JournalCorruptError
from journal.format.codec import SEGMENT_BYTES_MAX, MalformedError, SegmentHeader, encode_header
from journal.fs import FileSystem, ReadOnlyFileSystem

LOCK_NAME = "LOCK"
SPARE_NAME = "spare.tmp"
RECOVERED_NAME = "recovered.tmp"
NOTE_NAME = "repairs.json"
NOTE_TEMPORARY_NAME = "repairs.tmp"

ARCHIVE_NAME = "archive"

_SUFFIX = ".seg"
_ARCHIVED_SUFFIX = ".seg.zst"
_NAME = re.compile(r"[0-9]{20}\.seg")
_ARCHIVED_NAME = re.compile(r"[0-9]{20}\.seg\.zst")
#: Zeros are written in pieces of this size: large enough to stream, small enough to hold.
_ZEROS = bytes(1 << 20)


class SegmentFile(NamedTuple):
    """A segment by its name."""

    first_sequence: int
    path: Path

    @property
    def archived(self) -> bool:
        """Whether the segment is compressed."""
        return self.path.name.endswith(_ARCHIVED_SUFFIX)

    @property
    def index_path(self) -> Path:
        """The path of its index."""
        return self.path.with_name(f"{self.first_sequence:020d}.idx")


def segment_path(directory: Path, first_sequence: int) -> Path:
    """The path of the segment that starts with `first_sequence`."""
    return directory / f"{first_sequence:020d}{_SUFFIX}"


def archive_path(directory: Path, first_sequence: int) -> Path:
    """The path of the compressed segment that starts with `first_sequence`."""
    return directory / ARCHIVE_NAME / f"{first_sequence:020d}{_ARCHIVED_SUFFIX}"


def journal_of(path: Path) -> Path:
    """The journal directory of a segment's file, archived or not."""
    return path.parent.parent if path.parent.name == ARCHIVE_NAME else path.parent


def list_history(fs: ReadOnlyFileSystem, directory: Path) -> list[SegmentFile]:
    """All segments there are, oldest first, archived ones included.

    Of a segment in both places, the uncompressed file counts. Raises as `list_segments` does.
    """
    # The archive last, so that a segment moved in between is seen twice, not missed.
    live = {file.first_sequence: file for file in list_segments(fs, directory)}
    found = {file.first_sequence: file for file in list_archive(fs, directory)} | live
    return [found[first] for first in sorted(found)]


def list_archive(fs: ReadOnlyFileSystem, directory: Path) -> list[SegmentFile]:
    """The compressed segments, oldest first."""
    archive = directory / ARCHIVE_NAME
    try:
        names = sorted(fs.list_directory(archive))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [
        SegmentFile(int(name.removesuffix(_ARCHIVED_SUFFIX)), archive / name)
        for name in names
        if _ARCHIVED_NAME.fullmatch(name)
    ]


def list_segments(fs: ReadOnlyFileSystem, directory: Path) -> list[SegmentFile]:
    """The segments of `directory` itself, oldest first.

    Raises JournalCorruptError for a file `*.seg` that is not named like a segment.
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


class TooLargeError(MalformedError):
    """A file has more bytes than its format allows, and was not read."""


@contextlib.contextmanager
def opened(fs: ReadOnlyFileSystem, path: Path) -> Iterator[int]:
    """The file `path`, open to be read."""
    fd = fs.open(path)
    try:
        yield fd
    finally:
        fs.close(fd)


def read_file(fs: ReadOnlyFileSystem, path: Path, bytes_max: int = SEGMENT_BYTES_MAX) -> bytes:
    """All bytes of `path`, at most `bytes_max`, by default the largest segment.

    The limit is that of the format, so that a huge file does not take as much memory. Raises
    TooLargeError, OSError.
    """
    with opened(fs, path) as fd:
        size = fs.size(fd)
        check_size(size, bytes_max)
        return fs.read(fd, size, 0)


def check_size(size: int, bytes_max: int) -> None:
    """Raise TooLargeError if a file of `size` bytes cannot be one of its kind."""
    if size > bytes_max:
        raise TooLargeError(f"the file has {size} bytes; one of its kind has {bytes_max} at most")


def read_part(
    fs: ReadOnlyFileSystem, path: Path, offset: int = 0, size: int = SEGMENT_BYTES_MAX
) -> bytes:
    """Up to `size` bytes from `offset`; none if it is a directory, or a link to nowhere.

    Unless a size is given, as many as a segment may have. Raises OSError.
    """
    try:
        with opened(fs, path) as fd:
            return fs.read(fd, min(size, max(0, fs.size(fd) - offset)), offset)
    except (FileNotFoundError, IsADirectoryError):
        return b""


def file_bytes(fs: ReadOnlyFileSystem, path: Path) -> int:
    """The length of `path`; 0 if it is a directory, or a link to nowhere. Raises OSError."""
    try:
        with opened(fs, path) as fd:
            return fs.size(fd)
    except (FileNotFoundError, IsADirectoryError):
        return 0


def zero_fill(fs: FileSystem, fd: int, start: int, size: int) -> None:
    """Write zeros from `start` up to `size`.

    Real zeros, not fallocate: reserved blocks cost a metadata change at the first fdatasync that
    touches them, which preallocation is meant to avoid.
    """
    for offset in range(start, size, len(_ZEROS)):
        fs.write(fd, memoryview(_ZEROS)[: size - offset], offset)


def write_durably(
    fs: FileSystem, path: Path, data: bytes, size: int, *, over: bool = False
) -> None:
    """Make `path` of `data` and zeros up to `size`; all but its name is durable.

    With `over`, overwrites a file of that size, which stays if that fails; without, the file is
    made, and removed if that fails. Raises OSError, which names the path.
    """
    fd = fs.open(path, write=True) if over else fs.create(path)
    try:
        fs.write(fd, data, 0)
        zero_fill(fs, fd, len(data), size)
        fs.sync(fd)
    except BaseException as error:
        if over:
            with contextlib.suppress(OSError):
                fs.close(fd)
        else:
            give_up(fs, fd, path)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise
    fs.close(fd)


def give_up(fs: FileSystem, fd: int, path: Path) -> None:
    """Close and remove a file that could not be made, since it may take the space that is short."""
    with contextlib.suppress(OSError):
        fs.close(fd)
    with contextlib.suppress(OSError):
        fs.remove(path)


def is_spare(fs: FileSystem, path: Path, size: int) -> bool:
    """Whether the file may be overwritten to become a segment of this size.

    It must have its space already, and no other name.
    """
    try:
        fd = fs.open(path, write=True, create=True)
    except OSError:
        return False
    try:
        return fs.size(fd) == size and fs.names(fd) == 1
    finally:
        fs.close(fd)


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
