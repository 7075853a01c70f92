"""TCP sockets that listen: one for each address of the configuration."""

from __future__ import annotations

import contextlib
import errno
import socket

from coild.config.endpoint import Endpoint
from coild.config.layers import ConfigError, StartError

#: Connections that wait to be accepted: a node's containers may all start at once.
BACKLOG = 1024
#: How often a port is looked for that is free on all addresses.
_FREE_PORT_TRIES = 10


class _TakenError(StartError):
    """The port is another's."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.port = endpoint.port
        super().__init__(
            "http",
            f"{endpoint} is taken by another process; choose another with --http HOST:PORT "
            "(port 0 picks a free one)",
        )


class _UnavailableError(StartError):
    """This machine has no such address."""


def endpoint_of(sock: socket.socket) -> Endpoint:
    """Where a TCP socket listens."""
    host, port = sock.getsockname()[:2]
    return Endpoint(host, port)


def bind_all(endpoints: tuple[Endpoint, ...]) -> list[socket.socket]:
    """TCP sockets that listen. All whose port is 0 get the same free one. Raises StartError."""
    for attempt in range(_FREE_PORT_TRIES):
        with contextlib.ExitStack() as stack:
            sockets: list[socket.socket] = []
            chosen = 0
            try:
                for endpoint in endpoints:
                    for sock in _bind_endpoint(endpoint, endpoint.port or chosen):
                        stack.callback(sock.close)
                        sockets.append(sock)
                    if not endpoint.port:
                        chosen = endpoint_of(sockets[-1]).port
            except _TakenError as error:
                # A port that is free in one family may be taken in the other.
                if any(endpoint.port == error.port for endpoint in endpoints) or (
                    attempt + 1 == _FREE_PORT_TRIES
                ):
                    raise
            else:
                stack.pop_all()
                return sockets
    raise AssertionError


def _bind_endpoint(endpoint: Endpoint, port: int) -> list[socket.socket]:
    """A socket for each address of the endpoint that this machine has. Raises StartError."""
    sockets: list[socket.socket] = []
    missing: StartError | None = None
    try:
        for host in endpoint.addresses:
            try:
                sockets.append(bind_tcp(Endpoint(host, port)))
            except _UnavailableError as error:
                missing = error
            else:
                port = endpoint_of(sockets[-1]).port
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    if missing is not None and not sockets:
        raise missing
    return sockets


def bind_tcp(endpoint: Endpoint) -> socket.socket:
    """A TCP socket that listens. Raises StartError, or ConfigError if it never will."""
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise _UnavailableError("http", f"cannot use {endpoint}: {error.strerror}") from None
    try:
        # A restart must not wait for the connections of the former daemon to be forgotten.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)
        sock.bind((endpoint.host, endpoint.port))
        # Only a listening socket owns its port: with SO_REUSEADDR, two may be bound to it. Those
        # who connect before the server accepts wait in the backlog for a few milliseconds.
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise _TakenError(endpoint) from None
        # EINVAL: no program can listen on such an address, as on a link-local one without link.
        kind = {errno.EADDRNOTAVAIL: _UnavailableError, errno.EINVAL: ConfigError}.get(
            error.errno or 0, StartError
        )
        raise kind("http", f"cannot listen on {endpoint}: {error.strerror}") from None
    return sock
