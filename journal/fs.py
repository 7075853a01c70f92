"""Every system call of the journal, behind one small protocol.

The journal's promises depend on these calls, so a test can stand in for the disk: it
implements `FileSystem` and decides what a crash leaves. Each call says here what must hold on
return; `OsFileSystem` is the real implementation.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from pathlib import Path
from typing import NamedTuple, Protocol

#: The journal says who had which address: only the owner may read it.
DIRECTORY_MODE = 0o700
FILE_MODE = 0o600
#: Opening a FIFO or a terminal does not wait for its other end. No effect on a regular file.
_AT_ONCE = os.O_NONBLOCK | os.O_NOCTTY


class Identity(NamedTuple):
    """Identifies a file or directory, whatever its name."""

    device: int
    inode: int


class ReadOnlyFileSystem(Protocol):
    """The calls that a reader makes to a disk. Each may raise OSError."""

    def list_directory(self, path: Path) -> list[str]:
        """The names in `path`, in any order."""

    def open(self, path: Path) -> int:
        """A descriptor of the regular file `path`, to read from; a link is followed."""

    def close(self, fd: int) -> None:
        """Close `fd`. Says nothing about durability."""

    def size(self, fd: int) -> int:
        """The file's length in bytes."""

    def read(self, fd: int, size: int, offset: int) -> bytes:
        """`size` bytes from `offset`; fewer only at the end of the file."""


class FileSystem(ReadOnlyFileSystem, Protocol):
    """The calls that the journal makes to a disk. Each may raise OSError."""

    def make_directory(self, path: Path) -> None:
        """Create `path` (mode 0700) unless it is there. Parents must exist."""

    def sync_directory(self, path: Path) -> None:
        """Return once every name in `path` is durable: renames, creations, removals."""

    def create(self, path: Path) -> int:
        """A descriptor to read and write `path` (mode 0600), emptied; see `open`.

        A symbolic or hard link is removed first, so the file that it leads to is not changed.
        """

    def open(self, path: Path, *, write: bool = False, create: bool = False) -> int:
        """A descriptor of `path` as it is; with `create`, made (mode 0600) if it is missing.

        A link is followed to read, never to write. Only a regular file is opened: a FIFO would wait
        for a writer.
        """

    def open_directory(self, path: Path) -> int:
        """A descriptor of the directory `path`, to lock and to identify it."""

    def identity(self, fd: int) -> Identity:
        """The identity of the file or directory that is open as `fd`."""

    def look_up(self, path: Path) -> tuple[Identity, int]:
        """The identity of the file or directory `path`, and a file's length in bytes."""

    def names(self, fd: int) -> int:
        """The number of the file's hard links."""

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        """Write all of `data` at `offset`. Nothing of it is durable yet."""

    def sync(self, fd: int) -> None:
        """Return once data and length of the file are durable (fsync)."""

    def sync_data(self, fd: int) -> None:
        """Return once all written data is durable and can be read back (fdatasync)."""

    def rename(self, source: Path, target: Path) -> None:
        """Give `source` the name `target`, replacing it, atomically for every observer."""

    def remove(self, path: Path) -> None:
        """Remove the name `path`."""

    def lock(self, fd: int) -> bool:
        """Take the exclusive lock on `fd` until it is closed; False if another has it."""


class OsFileSystem:
    """The operating system's own calls."""

    def make_directory(self, path: Path) -> None:
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=DIRECTORY_MODE)
            if os.geteuid() == 0:
                owner = path.parent.stat()
                if owner.st_uid:
                    os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)

    def list_directory(self, path: Path) -> list[str]:
        return os.listdir(path)

    def sync_directory(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def create(self, path: Path) -> int:
        with contextlib.suppress(FileNotFoundError):
            found = path.lstat()
            if stat.S_ISLNK(found.st_mode) or (stat.S_ISREG(found.st_mode) and found.st_nlink > 1):
                path.unlink()
        return _regular(_create(path, os.O_RDWR | os.O_TRUNC | _AT_ONCE), path)

    def open(self, path: Path, *, write: bool = False, create: bool = False) -> int:
        flags = (os.O_RDWR | os.O_NOFOLLOW if write else os.O_RDONLY) | _AT_ONCE
        return _regular(_create(path, flags) if create else os.open(path, flags), path)

    def open_directory(self, path: Path) -> int:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY)

    def identity(self, fd: int) -> Identity:
        found = os.fstat(fd)
        return Identity(found.st_dev, found.st_ino)

    def look_up(self, path: Path) -> tuple[Identity, int]:
        found = os.stat(path)
        return Identity(found.st_dev, found.st_ino), found.st_size

    def close(self, fd: int) -> None:
        os.close(fd)

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def names(self, fd: int) -> int:
        return os.fstat(fd).st_nlink

    def read(self, fd: int, size: int, offset: int) -> bytes:
        first = os.pread(fd, size, offset)
        if len(first) == size or not first:
            return first
        parts = [first]
        done = len(first)
        while done < size and (part := os.pread(fd, size - done, offset + done)):
            parts.append(part)
            done += len(part)
        return b"".join(parts)

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        written = os.pwrite(fd, data, offset)
        while written < len(data):
            # A short write is not an error yet: the write of the rest raises it.
            more = os.pwrite(fd, memoryview(data)[written:], offset + written)
            if not more:
                raise OSError(errno.EIO, "write made no progress")
            written += more

    def sync(self, fd: int) -> None:
        os.fsync(fd)

    def sync_data(self, fd: int) -> None:
        os.fdatasync(fd)

    def rename(self, source: Path, target: Path) -> None:
        source.rename(target)

    def remove(self, path: Path) -> None:
        path.unlink()

    def lock(self, fd: int) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _regular(fd: int, path: Path) -> int:
    """`fd` if it is of a regular file; else it is closed, and the OSError raised names `path`."""
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode):
        return fd
    # Reading it would wait for ever, or fail with an error that does not name it.
    os.close(fd)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "it is not a regular file", str(path))


def _create(path: Path, flags: int) -> int:
    """Open `path`; make it if it is missing."""
    try:
        return _make(path, flags)
    except FileExistsError:
        return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW, FILE_MODE)


def _make(path: Path, flags: int) -> int:
    """Make `path`; root gives it to the directory's owner. Raises FileExistsError.

    A daemon that is not root needs the files that a tool made as root. But only a file made here
    is given away, and no link is followed: otherwise the owner could have root give away any file.
    """
    fd = os.open(path, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, FILE_MODE)
    if os.geteuid() == 0:
        try:
            owner = os.stat(path.parent)
            if owner.st_uid:
                os.fchown(fd, owner.st_uid, owner.st_gid)
        except BaseException:
            os.close(fd)
            raise
    return fd
