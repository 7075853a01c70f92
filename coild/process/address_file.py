"""`<data-dir>/http`: where the daemon listens, for scripts."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from pathlib import Path

from coild.config.files import read_limited

logger = logging.getLogger(__name__)

#: The longest is a path of a unix socket, with escapes.
_ADDRESS_BYTES_MAX = 4096


class AddressFile:
    """A convenience: coild serves also when the disk has no room for it.

    Its methods may block as the disk does, and may be called in any thread: one at a time works.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._wanted = ""
        # Device and inode of the file that was written: by its name another coild's may be found,
        # once the directory was moved or replaced.
        self._identity: tuple[int, int] | None = None
        self._lock = threading.Lock()
        # A crash may have left it, and a script must not read where coild was last time.
        self._unlink()

    def publish(self, address: str) -> None:
        """Write the address, at once for every reader; what fails is tried again by `retry`."""
        with self._lock:
            self._wanted = address
            self._write()

    def _write(self) -> None:
        if not self._wanted:
            return
        temporary = self._path.with_name(f"{self._path.name}.tmp")
        try:
            # Whatever has the name, a link for instance: what it leads to is not ours to write.
            temporary.unlink(missing_ok=True)
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            try:
                os.write(fd, f"{self._wanted}\n".encode())
                written = os.fstat(fd)
            finally:
                os.close(fd)
            temporary.rename(self._path)
        except OSError as error:
            logger.error("cannot write %s: %s", self._path, error.strerror)
            with contextlib.suppress(OSError):
                temporary.unlink()
        else:
            self._wanted = ""
            self._identity = written.st_dev, written.st_ino

    def retry(self) -> None:
        """Write what could not be written before."""
        with self._lock:
            self._write()

    def remove(self) -> None:
        """The daemon does not listen any more. A `retry` that comes later writes nothing."""
        with self._lock:
            self._wanted = ""
            with contextlib.suppress(OSError):
                found = self._path.lstat()
                if self._identity == (found.st_dev, found.st_ino):
                    self._unlink()

    def _unlink(self) -> None:
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            logger.error("cannot remove %s: %s", self._path, error.strerror)


def read_address(path: Path) -> str:
    """Where the daemon listens, as the file at `path` says. Raises OSError, ValueError."""
    return read_limited(path, _ADDRESS_BYTES_MAX).decode().strip()
