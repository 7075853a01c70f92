"""The unix socket's file, and the lock beside it that makes the path ours.

Other programs with rights in the directory can remove or replace either while we listen: then no
client reaches us by the path, and the kernel does not say so. Both are compared with what we hold,
by device and inode; a file that we hold open, or whose socket we do, keeps its inode.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import socket
import stat
from pathlib import Path

from coild.config.layers import StartError
from coild.process.tcp import BACKLOG

logger = logging.getLogger(__name__)

#: How often a lock file is opened anew that was replaced while it was locked.
_LOCK_TRIES = 10
_MODE = 0o660


def _identity(found: os.stat_result) -> tuple[int, int]:
    """Which file it is, whatever its name: device and inode."""
    return found.st_dev, found.st_ino


def _leads_to(path: str, descriptor: int) -> bool:
    """Whether a name is that of an open file."""
    try:
        return _identity(os.lstat(path)) == _identity(os.fstat(descriptor))
    except OSError:
        return False


def _is_file(path: Path, identity: tuple[int, int] | None) -> bool:
    """Whether a path leads to that file, by a link or not."""
    try:
        return _identity(path.stat()) == identity
    except OSError:
        return False


def _take_lock(path: Path) -> int:
    """The locked file beside a socket; it had its name when it was locked. Raises StartError."""
    name = f"{path}.lock"
    for _ in range(_LOCK_TRIES):
        try:
            lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            reason = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
            raise StartError("socket", f"cannot create {name}: {reason}") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            reason = (
                f"{path} is in use by another coild"
                if isinstance(error, BlockingIOError)
                else f"cannot lock {name}: {error.strerror}"
            )
            raise StartError("socket", reason) from None
        # Between opening and locking, it may have been removed, and another made.
        if _leads_to(name, lock):
            return lock
        os.close(lock)
    raise StartError("socket", f"{name} is replaced again and again; see who does that")


class UnixSocket:
    """A listening unix socket of mode 0660, and the lock that makes its path ours.

    A socket file outlives its process, so its being there says nothing. The lock beside it does:
    its holder may replace the file. Connecting tells about programs that do not take the lock.
    """

    #: What to do when the file is lost and cannot be made again.
    ADVICE = (
        "stop or remove what has the path, or make its directory again; "
        "coild binds it again within a second"
    )

    def __init__(self, path: Path) -> None:
        """Raises StartError if the path is in use or cannot be used."""
        self.path = path
        self._lock = _take_lock(path)
        try:
            self.socket, self._identity = self._bind()
        except BaseException:
            os.close(self._lock)
            raise

    @property
    def is_bound(self) -> bool:
        """Whether the path leads to this socket, so that requests reach it."""
        return _is_file(self.path, self._identity)

    @property
    def is_locked(self) -> bool:
        """Whether the lock's name leads to the lock that is held, so that it keeps others out."""
        return _leads_to(f"{self.path}.lock", self._lock)

    def restore(self) -> None:
        """Lock and bind again what was removed or replaced; waits for nothing.

        `socket` is another one afterwards if it was bound again; the former is the caller's to
        close. Raises StartError if something else has the path or the lock, or is in the way.
        """
        if not self.is_locked:
            lock = _take_lock(self.path)
            os.close(self._lock)
            self._lock = lock
        if not self.is_bound:
            self.socket, self._identity = self._bind()

    def close(self) -> None:
        """Remove the socket file, if it is still this one."""
        with contextlib.suppress(OSError):
            if _identity(self.path.lstat()) == self._identity:
                self.path.unlink()
        self.socket.close()
        os.close(self._lock)

    def _remove_dead(self) -> None:
        try:
            mode = self.path.lstat().st_mode
        except FileNotFoundError:
            return
        except OSError as error:
            raise StartError("socket", f"cannot use {self.path}: {error.strerror}") from None
        if not stat.S_ISSOCK(mode):
            raise StartError("socket", f"{self.path} is there and is no socket; it was left alone")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            # It is known at once whether a process listens. Only a full backlog is waited for, and
            # whose that is does not answer.
            probe.setblocking(False)
            try:
                probe.connect(os.fspath(self.path))
            except ConnectionRefusedError:
                self._unlink()
                return
            except FileNotFoundError:
                return
            except BlockingIOError:
                reason = "is in use by another process, which accepts no connection now"
                raise StartError("socket", f"{self.path} {reason}") from None
            except OSError as error:
                raise StartError("socket", f"cannot use {self.path}: {error.strerror}") from None
        raise StartError("socket", f"{self.path} is in use by another process")

    def _unlink(self) -> None:
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise StartError(
                "socket",
                f"cannot remove {self.path}, a socket of a process that ended: {error.strerror}",
            ) from None

    def _bind(self) -> tuple[socket.socket, tuple[int, int]]:
        """A socket that listens at the path, and which file that is."""
        self._remove_dead()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            # The mode must be right from the first moment: the file takes it from the socket, less
            # the umask. The umask itself is the whole process's, other threads make files, too.
            os.fchmod(sock.fileno(), _MODE)
            sock.bind(os.fspath(self.path))
            found = self.path.lstat()
            if stat.S_ISSOCK(found.st_mode) and stat.S_IMODE(found.st_mode) != _MODE:
                self.path.chmod(_MODE)
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            raise StartError("socket", f"cannot bind {self.path}: {error.strerror}") from None
        return sock, _identity(found)


class PassedSocket:
    """A unix socket that was passed to this process, by a program that has to mend its file."""

    ADVICE = "restart the unit that makes the socket (systemctl restart coild.socket)"
    #: There is no lock of ours beside it.
    is_locked = True

    def __init__(self, sock: socket.socket, path: Path) -> None:
        """Raises OSError if `path` leads nowhere."""
        self.socket = sock
        self.path = path
        self._identity = _identity(path.stat())

    @property
    def is_bound(self) -> bool:
        """Whether the path leads to the file that it led to when the socket was passed."""
        return _is_file(self.path, self._identity)

    def restore(self) -> None:
        """Raises StartError: it is not ours to make."""
        raise StartError("socket", "it was passed to coild (LISTEN_FDS), which cannot make it")


def passed(sock: socket.socket) -> PassedSocket | None:
    """A passed socket with its file; None if it has none that this process sees."""
    name = os.fsdecode(sock.getsockname())
    # An abstract name has no file, and a relative one goes by a directory that we do not know.
    if not name.startswith("/"):
        return None
    try:
        return PassedSocket(sock, Path(name))
    except OSError:
        # A container or a sandbox may see another file system than the one it was made in.
        logger.warning(
            "the file of the passed socket %s is not there: if it was removed, restart the unit "
            "that makes it; it is not looked after",
            name,
        )
        return None
