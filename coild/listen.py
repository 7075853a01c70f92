"""The sockets: made by us, since a server's own way replaces a live socket and opens it to all.

Or by whoever started us, as systemd does for a socket unit.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import resource
import socket
import stat
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import NamedTuple

from coild.config import NOWHERE
from coild.endpoint import Endpoint
from coild.settings import ConfigError, StartError
from coild.systemd import Descriptor, take_descriptors
from coild.tcp import BACKLOG, bind_all, endpoint_of

logger = logging.getLogger(__name__)

#: Files that are no connections: the journal's, those of a compaction, the loop's; some to spare.
_OWN_FILES = 128
#: How often a lock file is opened anew that was replaced while it was locked.
_LOCK_TRIES = 10


def descriptors_for(connections: int) -> int:
    """Raise the limit of open files for so many connections; how many of them there is room for.

    A whole backlog may be accepted, in order to be refused, before the first of it is closed: it
    must not take the journal's files.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + BACKLOG + _OWN_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        soft = allowed
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return connections
    return max(soft - BACKLOG - _OWN_FILES, soft // 2)


class Inherited(NamedTuple):
    """Listening sockets that whoever started this process made for it."""

    tcp: socket.socket | None = None
    unix: socket.socket | None = None

    def close(self) -> None:
        """Close this process's end of them; whoever made them goes on listening."""
        for sock in filter(None, self):
            sock.close()


def inherit(environment: MutableMapping[str, str], *, allow_remote: bool) -> Inherited:
    """The sockets that a service manager passes, one of a kind; sd_listen_fds(3).

    Raises ConfigError that names a descriptor which cannot be used, or, unless `allow_remote`, one
    that other machines can reach.
    """
    try:
        descriptors = take_descriptors(environment)
    except ValueError as error:
        raise ConfigError("LISTEN_FDS", str(error)) from None
    found = Inherited()
    try:
        for descriptor in descriptors:
            found = _adopt(found, descriptor, allow_remote=allow_remote)
    except BaseException:
        found.close()
        raise
    return found


def _adopt(found: Inherited, descriptor: Descriptor, *, allow_remote: bool) -> Inherited:
    sock = _listener(descriptor)
    kind = "unix" if sock.family == socket.AF_UNIX else "tcp"
    try:
        if getattr(found, kind) is not None:
            raise ConfigError(
                str(descriptor), f"it is the second {kind} socket; coild listens on one of a kind"
            )
        if kind == "tcp" and not allow_remote and not endpoint_of(sock).is_loopback:
            raise ConfigError(
                str(descriptor),
                f"{endpoint_of(sock)} can be reached from other machines, and whoever reaches it "
                "can release any address; use a loopback address, or give --allow-remote",
            )
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return found._replace(**{kind: sock})


def _listener(descriptor: Descriptor) -> socket.socket:
    try:
        # Python asks the kernel which family and type it has.
        sock = socket.socket(fileno=descriptor.number)
    except OSError as error:
        raise ConfigError(str(descriptor), f"it is no socket: {error.strerror}") from None
    if sock.family not in {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6}:
        reason = "it is neither a TCP nor a unix socket"
    elif sock.type != socket.SOCK_STREAM:
        reason = "it is no stream socket; use ListenStream="
    elif not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        reason = "it does not listen; use ListenStream= and Accept=no"
    else:
        return sock
    sock.close()
    raise ConfigError(str(descriptor), reason)


@contextlib.contextmanager
def listen(
    endpoints: tuple[Endpoint, ...], path: Path | None, inherited: Inherited
) -> Iterator[list[socket.socket]]:
    """Sockets that listen, those of TCP first: the inherited ones, or else those configured.

    Raises StartError, and ConfigError, also if there is none.
    """
    with contextlib.ExitStack() as stack:
        sockets = list(filter(None, inherited))
        for sock in sockets:
            stack.callback(sock.close)
        if inherited.tcp is not None and not endpoints:
            raise ConfigError(
                "http",
                f"it is off, but a TCP socket on {endpoint_of(inherited.tcp)} was passed "
                "(LISTEN_FDS): take that ListenStream= out of the socket unit, or off out of the "
                "configuration",
            )
        if sockets:
            if path is not None:
                logger.info("sockets were passed (LISTEN_FDS), so --http and --socket do not count")
            yield sockets
            return
        if not endpoints and path is None:
            raise ConfigError("http", NOWHERE)
        sockets = bind_all(endpoints)
        for sock in sockets:
            stack.callback(sock.close)
        if path is not None:
            try:
                unix = UnixSocket(path)
            except OSError as error:
                raise StartError("socket", f"cannot use {path}: {error.strerror}") from None
            stack.callback(unix.close)
            sockets.append(unix.socket)
        yield sockets


def place_of(sock: socket.socket) -> str:
    """Where a socket listens, as people write it."""
    where = address_of(sock)
    return where if sock.family == socket.AF_UNIX else f"http://{where}"


def address_of(sock: socket.socket) -> str:
    """`HOST:PORT` of a TCP socket, `unix:PATH` of another."""
    if sock.family == socket.AF_UNIX:
        # An abstract name begins with a NUL.
        return f"unix:{os.fsdecode(sock.getsockname()).replace(chr(0), '@')}"
    return str(endpoint_of(sock))


def _identity(found: os.stat_result) -> tuple[int, int]:
    """Which file it is, whatever its name: device and inode."""
    return found.st_dev, found.st_ino


def _leads_to(path: str, descriptor: int) -> bool:
    """Whether a name is that of an open file."""
    try:
        return _identity(os.lstat(path)) == _identity(os.fstat(descriptor))
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
        except BlockingIOError:
            os.close(lock)
            raise StartError("socket", f"{path} is in use by another coild") from None
        # Between opening and locking, it may have been removed, and another made.
        if _leads_to(name, lock):
            return lock
        os.close(lock)
    raise StartError("socket", f"{name} is replaced again and again; see who does that")


class UnixSocket:
    """A listening unix socket of mode 0660, and the lock that makes its path ours.

    A socket file outlives its process, so its being there says nothing. The lock beside it does:
    who holds it may replace the file. Connecting tells about programs that do not take the lock.
    """

    def __init__(self, path: Path) -> None:
        """Raises StartError if the path is in use or cannot be used."""
        self.path = path
        self._lock = _take_lock(path)
        try:
            self._remove_dead()
            self.socket = self._bind()
        except BaseException:
            os.close(self._lock)
            raise
        self._identity = _identity(path.lstat())

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
            probe.settimeout(1)
            try:
                probe.connect(os.fspath(self.path))
            except ConnectionRefusedError:
                self.path.unlink()
                return
            except OSError as error:
                raise StartError("socket", f"cannot use {self.path}: {error.strerror}") from None
        raise StartError("socket", f"{self.path} is in use by another process")

    def _bind(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        # The mode must be right from the first moment; there is no call that binds with one.
        umask = os.umask(0o117)
        try:
            sock.bind(os.fspath(self.path))
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            raise StartError("socket", f"cannot bind {self.path}: {error.strerror}") from None
        finally:
            os.umask(umask)
        return sock
