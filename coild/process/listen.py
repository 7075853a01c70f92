"""The sockets: made by us, since a server's own way replaces a live socket and opens it to all.

Or by the program that started us, as systemd does for a socket unit.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import socket
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import NamedTuple

from coild.config.config import NOWHERE, REMOTE
from coild.config.endpoint import Endpoint
from coild.config.layers import ConfigError, StartError
from coild.process.systemd import Descriptor, take_descriptors
from coild.process.tcp import BACKLOG, bind_all, endpoint_of
from coild.process.unix_socket import PassedSocket, UnixSocket, passed

logger = logging.getLogger(__name__)

#: Files that are not connections: the journal's, those of a compaction, the loop's; some to spare.
_OWN_FILES = 128


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
    """Listening sockets that were passed by the program that started this one."""

    tcp: socket.socket | None = None
    unix: socket.socket | None = None

    def close(self) -> None:
        """Close this process's end of them; the program that made them goes on listening."""
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
            raise ConfigError(str(descriptor), f"{endpoint_of(sock)} {REMOTE}")
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


class Listeners(NamedTuple):
    """The sockets that a daemon listens on."""

    #: Those of TCP first.
    sockets: list[socket.socket]
    #: The unix socket among them, if there is one and it is known where its file is.
    unix: UnixSocket | PassedSocket | None


@contextlib.contextmanager
def listen(
    endpoints: tuple[Endpoint, ...], path: Path | None, inherited: Inherited
) -> Iterator[Listeners]:
    """Sockets that listen: the inherited ones, or else those configured.

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
            yield Listeners(sockets, passed(inherited.unix) if inherited.unix else None)
            return
        if not endpoints and path is None:
            raise ConfigError("http", NOWHERE)
        sockets = bind_all(endpoints)
        for sock in sockets:
            stack.callback(sock.close)
        unix = None
        if path is not None:
            try:
                unix = UnixSocket(path)
            except OSError as error:
                raise StartError("socket", f"cannot use {path}: {error.strerror}") from None
            stack.callback(unix.close)
            sockets.append(unix.socket)
        yield Listeners(sockets, unix)


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
