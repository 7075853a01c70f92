"""The writer's lock, and the check that its names still lead to the files that it has open.

A path is only a name. While a writer has files open, an operator may remove, move or replace them,
unpack a backup over them or mount something over their directory: then the writer writes to
files that no start will ever read. So the writer remembers which files its names led to, and checks
that they still do before it confirms an event.

The lock is on the directory as well as on the file LOCK in it, so that removing or replacing the
file does not let a second writer in. It is on the segment, too: a copy of hard links (`cp -al`) has
the same segment in another directory, and its writer would overwrite this one's events.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

from journal.errors import JournalDisplacedError, JournalLockedError
from journal.format.segments import LOCK_NAME
from journal.fs import FileSystem, Identity

_PID_BYTES = 20
#: The bytes of the last frame's beginning, and of the end of the frame before, that are compared
#: with those written: all of two short frames, and by one call, because they are adjacent.
_WITNESS_BYTES = 512

_REMOVED = "it was removed or moved"
_REPLACED = "it was replaced, restored from a copy, or mounted over"
_OVERWRITTEN = "it was overwritten or cut in place, as by a copy that was restored over it"


class _Held(NamedTuple):
    path: Path
    fd: int
    identity: Identity


class Custody:
    """The open directory, lock and segment of one writer, and the names that must lead to them."""

    def __init__(self, fs: FileSystem) -> None:
        self._fs = fs
        self._held: list[_Held] = []
        self._segment: _Held | None = None
        self._segment_lock: int | None = None
        self._segment_bytes = 0
        self._witness_offset = 0
        self._witness = self._before = b""

    def hold(self, path: Path, fd: int) -> None:
        """Expect `path` to lead to `fd`, which `close` closes."""
        try:
            self._held.append(_Held(path, fd, self._fs.identity(fd)))
        except BaseException:
            self._fs.close(fd)
            raise

    def lock(self, directory: Path) -> int | None:
        """Lock `directory` and its LOCK; the descriptor of LOCK, or None if either is locked.

        Raises JournalDisplacedError, OSError.
        """
        # The directory first: a process that is refused does not even make the file.
        fd = self._fs.open_directory(directory)
        self.hold(directory, fd)
        if not self._fs.lock(fd):
            return None
        path = directory / LOCK_NAME
        fd = self._open_lock(path)
        self.hold(path, fd)
        if not self._fs.lock(fd):
            return None
        # Between opening and locking, another directory may have been put there.
        self.check()
        return fd

    def _open_lock(self, path: Path) -> int:
        """Open the file LOCK; make it if it is missing, replace it if it has another name too.

        Such a file belongs to a copy of hard links or to another program, and the process ID would
        be written into it. The directory is locked: no other writer comes in between.
        """
        fd = self._fs.open(path, write=True, create=True)
        try:
            # If it is locked, another writer has the journal by the other name.
            replaced = self._fs.names(fd) > 1 and self._fs.lock(fd)
        except BaseException:
            self._fs.close(fd)
            raise
        if not replaced:
            return fd
        self._fs.close(fd)
        self._fs.remove(path)
        return self._fs.open(path, write=True, create=True)

    def write_to(self, path: Path, fd: int, size: int, end: int) -> None:
        """Expect `path` to lead to the segment `fd` of that size, which the caller closes.

        Its content is known up to `end`. Raises JournalLockedError if another writer has it too.
        """
        self._lock_segment(path)
        self._segment = _Held(path, fd, self._fs.identity(fd))
        self._segment_bytes = size
        start = max(0, end - _WITNESS_BYTES)
        self._witness_offset = start
        self._before = self._witness = self._fs.read(fd, end - start, start)

    def wrote(self, data: bytes, offset: int) -> None:
        """Expect this frame in the segment, right behind the last one."""
        self._witness_offset = offset - len(self._before)
        self._witness = self._before + data[:_WITNESS_BYTES]
        self._before = data[-_WITNESS_BYTES:]

    def check(self) -> None:
        """Raise JournalDisplacedError if a name leads elsewhere or the segment has changed."""
        for held in self._held:
            self._check_name(held)
        if self._segment is None:
            return
        path, fd, _ = self._segment
        # Each call counts: this runs with every flush.
        if self._check_name(self._segment) != self._segment_bytes:
            raise JournalDisplacedError(path, _OVERWRITTEN)
        if self._fs.read(fd, len(self._witness), self._witness_offset) != self._witness:
            raise JournalDisplacedError(path, _OVERWRITTEN)

    def close(self) -> None:
        """Close directory and lock. Idempotent, raises nothing."""
        fds = [each.fd for each in self._held]
        if self._segment_lock is not None:
            fds.append(self._segment_lock)
        self._held, self._segment, self._segment_lock = [], None, None
        for fd in reversed(fds):
            with contextlib.suppress(OSError):
                self._fs.close(fd)

    def _lock_segment(self, path: Path) -> None:
        if not self._held:
            return
        # Its own descriptor: the lock ends with this custody, whatever the writer has open.
        fd = self._fs.open(path)
        try:
            if not self._fs.lock(fd):
                raise JournalLockedError(
                    path.parent,
                    f"another process, which has {path.name} under another name: a hard link, as "
                    "cp -al makes it; give each journal files of its own",
                )
        except BaseException:
            self._fs.close(fd)
            raise
        former, self._segment_lock = self._segment_lock, fd
        if former is not None:
            self._fs.close(former)

    def _check_name(self, held: _Held) -> int:
        """The length in bytes of the file that the name leads to; it must be the held one."""
        try:
            found, size = self._fs.look_up(held.path)
        except (FileNotFoundError, NotADirectoryError):
            raise JournalDisplacedError(held.path, _REMOVED) from None
        except OSError as error:
            reason = f"it cannot be reached any more ({error.strerror})"
            raise JournalDisplacedError(held.path, reason) from None
        if found != held.identity:
            raise JournalDisplacedError(held.path, _REPLACED)
        return size


def acquire_lock(fs: FileSystem, directory: Path) -> Custody:
    """Become the writer of `directory`, until the returned custody is closed.

    Raises JournalLockedError, naming the other process, if there is one; nothing was written then.
    """
    custody = Custody(fs)
    try:
        fd = custody.lock(directory)
        if fd is None:
            raise JournalLockedError(directory, _holder(fs, directory / LOCK_NAME))
        # A fixed width, so that no truncation is needed and a reader never sees half a number.
        fs.write(fd, f"{os.getpid():<{_PID_BYTES - 1}}\n".encode(), 0)
    except BaseException:
        custody.close()
        raise
    return custody


def _holder(fs: FileSystem, path: Path) -> str:
    try:
        fd = fs.open(path)
    except OSError:
        return "another process"
    try:
        pid = fs.read(fd, _PID_BYTES, 0).strip(b"\0 \n").decode("ascii", "replace")
    finally:
        fs.close(fd)
    return f"process {pid}" if pid else "another process"
