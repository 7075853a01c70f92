"""Files that are durable, locked, and surely the ones that have their name: what a spool needs.

Only the standard library's C modules are imported, for the plugin's sake.
"""

from __future__ import annotations

import errno
import fcntl
import posix
from time import monotonic, sleep, time

#: What begins so is being written, or was when its writer died.
TEMPORARY = ".tmp-"
#: To write takes a moment; after this long, the process is gone.
_TEMPORARY_SECONDS = 3600
_POLL_SECONDS = 0.005
#: An entry is three names; nothing longer was written.
READ_MAX = 8192
#: Never through a link, and never waiting for the other end of a pipe.
_READ = posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NOFOLLOW | posix.O_NONBLOCK


def lock(path: str, deadline: float) -> int:
    """The locked file that has this name; -1 if there is none. Raises OSError.

    Waits for the process that has locked it until `deadline`, of time.monotonic(); then
    BlockingIOError.
    """
    while True:
        try:
            fd = posix.open(path, _READ)
        except FileNotFoundError:
            return -1
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(fd, path):
                locked, fd = fd, -1
                return locked
            # Done or replaced between opening and locking it: look again.
        except BlockingIOError:
            if monotonic() >= deadline:
                raise
            sleep(_POLL_SECONDS)
        finally:
            if fd >= 0:
                posix.close(fd)


def read(path: str) -> bytes:
    """The first bytes of a file, READ_MAX at most; empty if it cannot be read."""
    try:
        fd = posix.open(path, _READ)
    except OSError:
        return b""
    try:
        return posix.read(fd, READ_MAX)
    except OSError:
        return b""
    finally:
        posix.close(fd)


def make(directory: str) -> None:
    """Make the directory, and those above it that are missing, durably. Raises OSError."""
    parent = directory.rstrip("/").rpartition("/")[0]
    try:
        try:
            posix.mkdir(directory, 0o700)
        except FileNotFoundError:
            if not parent:
                raise
            make(parent)
            # Once: above may be a link that leads nowhere, which is there and is not a directory.
            posix.mkdir(directory, 0o700)
    except FileExistsError:
        return
    sync(parent or "/")


def write_aside(directory: str, content: bytes) -> str:
    """Write and flush a file that is not an entry yet; its name. Raises OSError."""
    name = f"{TEMPORARY}{posix.getpid()}-{int(time() * 1e6):x}"
    flags = posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC
    fd = posix.open(f"{directory}/{name}", flags, 0o600)
    try:
        try:
            # So short a write is whole, or the disk is full.
            if posix.write(fd, content) != len(content):
                raise OSError(errno.ENOSPC, "No space left on device")
            posix.fsync(fd)
        finally:
            posix.close(fd)
    except OSError:
        unlink(f"{directory}/{name}")
        raise
    return name


def replace(directory: str, name: str, content: bytes) -> None:
    """Give a flushed file of `content` the name of another, which goes. Raises OSError."""
    temporary = f"{directory}/{write_aside(directory, content)}"
    try:
        posix.rename(temporary, f"{directory}/{name}")
    finally:
        unlink(temporary)


def remove_stale(path: str) -> None:
    """Remove what a writer left when it died, some time ago."""
    try:
        if posix.lstat(path).st_mtime < time() - _TEMPORARY_SECONDS:
            posix.unlink(path)
    except OSError:
        pass  # another process did, or none can


def unlink(path: str) -> None:
    """Remove a file, if there is one and that can be."""
    try:  # noqa: SIM105 - contextlib takes longer to import than this
        posix.unlink(path)
    except OSError:
        pass  # it has its name by now


def sync(directory: str) -> None:
    """Flush the names in a directory. Raises OSError."""
    fd = posix.open(directory, posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC)
    try:
        posix.fsync(fd)
    finally:
        posix.close(fd)


def _is_at(fd: int, path: str) -> bool:
    """Whether the open file is still the one with this name."""
    try:
        named = posix.lstat(path)
    except FileNotFoundError:
        return False
    opened = posix.fstat(fd)
    return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)
