"""Clients that are gone before their answer: nothing is said of it but at debug."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from pathlib import Path

import pytest

from tests.kits.daemon.process import Daemon, wait_for
from tests.kits.daemon.wire import (
    address_of,
    allocate_body,
    connect,
    exchange,
    parse_answers,
    request_bytes,
)
from tests.kits.variants import slow_blocks

GET = request_bytes("GET", "/status")
LIVE = request_bytes("GET", "/livez")


def test_answers_that_are_aborted_unread_leave_no_error(tmp_path: Path) -> None:
    """A client that leaves while answers queue up is none of the operator's business."""
    posts = (
        request_bytes("POST", "/ip", allocate_body(f"{n}-{'x' * 200}", "p")) for n in range(400)
    )
    with Daemon(tmp_path / "data", "--block-size=10", "--pool=default=10.0.0.0/16") as daemon:
        # So that the status is a long body.
        exchange(daemon.place, b"".join(posts), answers=400)
        for _ in range(3):
            sock = socket.socket()
            # So that few answers fit on their way.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect((daemon.host, daemon.port))
            sock.sendall(GET * 100)
            assert sock.recv(1)
            # Until an answer waits for the room that there is not.
            time.sleep(0.2)
            _reset(sock)
        status, log = _ended(daemon)

    assert status == 0
    _check_quiet(log)


def test_a_request_whose_head_ends_with_its_connection_leaves_no_error(daemon: Daemon) -> None:
    """Half a head and the end of it at once, politely or not, is nothing to log."""
    for n in range(40):
        sock = connect(daemon.place)
        # A whole one before it, or some of it in a turn of the loop of its own.
        sock.sendall(LIVE if n % 2 else LIVE[:5])
        if n % 4 == 0:
            time.sleep(0.01)
        sock.sendall(LIVE[5:-5])
        if n % 8 > 5:
            _reset(sock)
            continue
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(4096):
            pass
        sock.close()
    status, log = _ended(daemon)

    assert status == 0
    _check_quiet(log)


class SlowDaemon(Daemon):
    """A coild whose blocks come when the test wants them to."""

    module = slow_blocks.__name__


@pytest.mark.parametrize("how", ["unix", "reset"])
def test_what_waits_for_a_client_that_is_gone_is_given_up(tmp_path: Path, how: str) -> None:
    """A POST that ended its side is answered, unless the kernel says that nobody is there."""
    ready, path = tmp_path / "ready", tmp_path / "s"
    variables = {slow_blocks.VARIABLE: str(ready), "COILD_SOCKET": str(path)}
    with SlowDaemon(tmp_path / "data", "--log-level=debug", **variables) as daemon:
        socks = [connect(path if how == "unix" else (daemon.host, daemon.port)) for _ in range(2)]
        for name, sock in zip(("gone", "stays"), socks, strict=True):
            sock.sendall(request_bytes("POST", "/ip", allocate_body(name, "p")))
            sock.shutdown(socket.SHUT_WR)
        (_reset if how == "reset" else socket.socket.close)(socks[0])
        wait_for(lambda: "a client went away" in daemon.log, "the client to be missed")
        ready.touch()
        (answer,) = parse_answers(socks[1].recv(65536))
        socks[1].close()
        held = daemon.status()["pods"]
        status, log = _ended(daemon)

    assert address_of(answer)
    assert ["stays"] == list(held)
    assert status == 0
    _check_quiet(log)


def _reset(sock: socket.socket) -> None:
    """Hang up without a word: with SO_LINGER of 0 s the peer is sent RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def _ended(daemon: Daemon) -> tuple[int, str]:
    """End the daemon once all connections are forgotten; its exit status and its log."""
    files = Path(f"/proc/{daemon.process.pid}/fd")

    def connections() -> int:
        inodes = set()
        for each in files.iterdir():
            with contextlib.suppress(FileNotFoundError):
                inodes.add(each.readlink().name)
        lines = Path(f"/proc/{daemon.process.pid}/net/tcp").read_text().splitlines()[1:]
        return sum(f"socket:[{line.split()[9]}]" in inodes for line in lines) - 1

    daemon.client.close()
    wait_for(lambda: connections() == 0, "the connections to be forgotten")
    return daemon.stop(), daemon.log


def _check_quiet(log: str) -> None:
    for word in ("Traceback", "ERROR", "refused GET"):
        assert word not in log, log
