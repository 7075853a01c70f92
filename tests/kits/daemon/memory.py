"""Clients with large, endless requests or answers, and the memory that they cost the daemon."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.kits.daemon.process import Daemon
from tests.kits.daemon.wire import request_bytes

MIB = 1 << 20
GET_STATUS = request_bytes("GET", "/status")
#: The beginning of a long list for /gc.
LONG_LIST = request_bytes("POST", "/gc", b"")[:-5] + b"33000000\r\n\r\n"


class Clients(NamedTuple):
    """Connections, the bytes that each sends first, and those that it goes on sending."""

    number: int
    data: bytes
    more: bytes = b""


CLIENTS = {
    "unread status": Clients(400, GET_STATUS),
    "unfinished lists": Clients(150, LONG_LIST, b"a" * MIB),
    "unread documents": Clients(400, request_bytes("GET", "/openapi.json") * 20),
    "unread refusals": Clients(400, request_bytes("GET", "/ip/a/b/" + "c" * 12_000) * 10),
    "unfinished bodies": Clients(
        1000, b"POST /ip HTTP/1.1\r\nHost: a\r\nContent-Length: 65000\r\n\r\n", b" " * 64_000
    ),
    "unfinished headers": Clients(1000, b"GET /status HTTP/1.1\r\n" + b"X: " + b"a" * 15_000),
}


def most_bytes(daemon: Daemon) -> int:
    """The peak of resident memory since `forget_most_bytes` (proc(5), VmHWM)."""
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def forget_most_bytes(daemon: Daemon) -> None:
    """Reset the peak, so that each test counts its own memory only (proc(5), clear_refs)."""
    Path(f"/proc/{daemon.process.pid}/clear_refs").write_text("5")


@contextlib.contextmanager
def deaf(daemon: Daemon, count: int, data: bytes) -> Iterator[list[socket.socket]]:
    """Connections that send as much as the daemon takes at once, and read nothing."""
    with contextlib.ExitStack() as stack:
        socks = []
        for _ in range(count):
            sock = stack.enter_context(socket.socket())
            # What the kernel keeps for us is not the daemon's.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect((daemon.host, daemon.port))
            sock.setblocking(False)
            with contextlib.suppress(OSError):
                sock.send(data)
            socks.append(sock)
        yield socks


def push(socks: list[socket.socket], data: bytes) -> None:
    """Send more on each, as far as it is taken."""
    for sock in socks:
        with contextlib.suppress(OSError):
            sock.send(data)
