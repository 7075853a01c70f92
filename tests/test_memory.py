"""Memory stays bounded whatever clients do, and others are served beside them."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from coild.limits import BODY_BYTES_MAX, BUDGET_BYTES, COLLECT_BYTES_MAX
from tests.bench.populate import POOL, populate
from tests.daemon_kit import Daemon, wait_for
from tests.wire_kit import address_of, connect, error_of, parse_answers, request_bytes

_HELD = 16_384
_MIB = 1 << 20
#: The daemon with so many addresses is below 90 MiB, and its budget comes on top.
_BOUND_BYTES = 90 * _MIB + 3 * BUDGET_BYTES // 2
_GET = request_bytes("GET", "/status")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A coild with many addresses held."""
    data_dir = tmp_path_factory.mktemp("full") / "data"
    populate(data_dir / "journal", _HELD)
    with Daemon(data_dir, f"--pool=default={POOL}") as running:
        yield running


def most_bytes(daemon: Daemon) -> int:
    """The most that was resident since it was forgotten (proc(5), VmHWM)."""
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def forget_most_bytes(daemon: Daemon) -> None:
    """Count anew: what one test made resident is none of the next one's (proc(5), clear_refs)."""
    Path(f"/proc/{daemon.process.pid}/clear_refs").write_text("5")


@contextlib.contextmanager
def deaf(daemon: Daemon, count: int, data: bytes) -> Iterator[list[socket.socket]]:
    """So many connections that send what the daemon takes of that at once, and read nothing."""
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


@pytest.mark.parametrize(
    ("count", "data", "more"),
    [
        (400, _GET, b""),
        (150, request_bytes("POST", "/gc", b"")[:-5] + b"33000000\r\n\r\n", b"a" * _MIB),
        (400, request_bytes("GET", "/openapi.json") * 20, b""),
        (400, request_bytes("GET", "/ip/a/b/" + "c" * 12_000) * 10, b""),
        (1000, b"POST /ip HTTP/1.1\r\nHost: a\r\nContent-Length: 65000\r\n\r\n", b" " * 64_000),
        (1000, b"GET /status HTTP/1.1\r\n" + b"X: " + b"a" * 15_000, b""),
    ],
    ids=[
        "unread status",
        "unfinished lists",
        "unread documents",
        "unread refusals",
        "unfinished bodies",
        "unfinished headers",
    ],
)
def test_memory_is_bounded(full: Daemon, count: int, data: bytes, more: bytes) -> None:
    """However many ask for much, or send much, and never come to an end."""
    forget_most_bytes(full)
    with deaf(full, count, data) as socks:
        for _ in range(8):
            push(socks, more)
            # Another is served beside them.
            address = full.allocate("beside").json()["address"]

            assert address == address_of(full.release("beside"))

        assert most_bytes(full) < _BOUND_BYTES
    # What they kept is free again.
    body = msgspec.json.encode({"sequence": 0, "valid": ["c" * 64] * 200_000})
    wait_for(lambda: full.client.post("/gc", content=body).status_code in {200, 409}, "room")
    assert full.client.get("/status").status_code == 200


def test_one_too_many_is_503_and_told_when_to_ask_again(full: Daemon) -> None:
    """Beyond the budget a long request is refused with Retry-After; a short one never is."""
    half = request_bytes("POST", "/gc", b"")[:-5] + b"33000000\r\n\r\n"
    with deaf(full, 40, half) as socks:
        refused: list[bytes] = []

        def is_refused() -> bool:
            push(socks, b"a" * _MIB)
            for sock in socks:
                with contextlib.suppress(BlockingIOError, ConnectionResetError):
                    refused.append(sock.recv(65536))
            return any(refused)

        wait_for(is_refused, "a refusal")
        short = full.client.get("/ip/default/web-0/none")
    answer = next(answers[0] for data in refused if (answers := parse_answers(data)))

    assert "try again" in error_of(answer, 503)
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["connection"] == "close"
    assert short.status_code == 404


def test_those_who_ask_together_see_what_was_answered_before(full: Daemon) -> None:
    """An answer that is shared shows what its asker could know of."""
    with deaf(full, 20, _GET):
        for number in range(5):
            full.allocate(f"new-{number}")

            assert f"new-{number}" in full.status()["pods"]
    for number in range(5):
        full.release(f"new-{number}")

        assert f"new-{number}" not in full.status()["pods"]


@pytest.mark.parametrize(
    ("path", "size"),
    [("/ip", BODY_BYTES_MAX + 1), ("/ip", 20 * _MIB), ("/gc", COLLECT_BYTES_MAX + 1)],
)
def test_a_body_too_large_is_answered_not_reset(full: Daemon, path: str, size: int) -> None:
    """Who sends all of it before reading finds 413, not a connection that was reset."""
    with connect((full.host, full.port)) as sock:
        sock.sendall(request_bytes("POST", path, b" " * size))
        received = b""
        while more := sock.recv(65536):
            received += more
    (answer,) = parse_answers(received)

    assert "too large" in error_of(answer, 413)
