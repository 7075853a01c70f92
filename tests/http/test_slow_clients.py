"""Clients that are slow, idle, too many or deaf: each is ended, and all others are served.

The daemon runs as a process, with the limits on time shortened to what a test can wait for. Nothing
here says how soon something ends, only that it does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import select
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from sanic.http import Stage

from coild.http.connections import Connection
from coild.http.openapi import document
from coild.upkeep.prune_orders import give_order
from tests.crash.scale import LONG, report
from tests.kits.daemon import process as daemon_kit
from tests.kits.daemon.openapi import Contract
from tests.kits.daemon.process import Daemon, wait_for
from tests.kits.daemon.wire import (
    TIMEOUT_SECONDS,
    address_of,
    allocate_body,
    connect,
    error_of,
    exchange,
    parse_answers,
    request_bytes,
)

CONTRACT = Contract(document())
ARRIVAL_SECONDS, RESPONSE_SECONDS, IDLE_SECONDS = 1, 2, 3
BODY = allocate_body("slow", "web-0")
GET = request_bytes("GET", "/status")
POST = request_bytes("POST", "/ip", BODY)
HALF_POST = POST[:-10]

_LAUNCH = """
import resource, sys
from coild.rules import limits
limits.ARRIVAL_SECONDS, limits.RESPONSE_SECONDS, limits.IDLE_SECONDS = {times}
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, ({files} or 1024, {files} or hard))
from coild.cli import main
sys.exit(main())
"""


@contextlib.contextmanager
def impatient(
    data_dir: Path,
    *arguments: str,
    times: tuple[int, int, int] = (ARRIVAL_SECONDS, RESPONSE_SECONDS, IDLE_SECONDS),
    files: int = 0,
) -> Iterator[Daemon]:
    """A coild with these limits in seconds and, unless 0, with so many open files at most.

    If 0, it is allowed 1024, as is usual, and may allow itself more.
    """
    code = _LAUNCH.format(times=times, files=files)

    def command(*flags: str, module: str) -> list[str]:
        assert module == "coild"
        return [sys.executable, "-W", "error", "-c", code, *flags]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(daemon_kit, "command", command)
        daemon = Daemon(data_dir, *arguments)
    with daemon:
        yield daemon


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One such coild for those tests that need nothing else of it."""
    with impatient(tmp_path_factory.mktemp("quick") / "data") as running:
        yield running


def open_files(daemon: Daemon) -> int:
    """How many files the daemon has open."""
    return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))  # noqa: PTH208


def children(daemon: Daemon) -> list[int]:
    """The processes that the daemon has started and that are still there."""
    pid = daemon.process.pid
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def until_closed(sent: dict[socket.socket, bytes]) -> dict[socket.socket, bytes]:
    """Send each connection its drip, until the server has closed all; what it said on each."""
    received = dict.fromkeys(sent, b"")
    left = set(sent)
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while left and time.monotonic() < deadline:
        for sock in select.select(left, [], [], 0.1)[0]:
            more = b""
            with contextlib.suppress(ConnectionResetError):
                more = sock.recv(65536)
            received[sock] += more
            if not more:
                left.remove(sock)
        for sock in left:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                sock.sendall(sent[sock])

    assert not left, f"the server keeps {[received[sock] for sock in left]}"
    return received


def start_post(sock: socket.socket) -> None:
    """Send half a POST, and wait until the server is at it."""
    sock.sendall(HALF_POST.replace(b"Host", b"Expect: 100-continue\r\nHost", 1))

    assert b"HTTP/1.1 100 Continue\r\n\r\n" == sock.recv(65536)


def post_to(path: str) -> bytes:
    """All of a POST but the end of its body."""
    return HALF_POST.replace(b"/ip", path.encode(), 1)


CHUNKS = b"Transfer-Encoding: chunked\r\n\r\n"
#: What is sent at once, what again and again, and the status of the one answer.
SLOW: dict[str, tuple[bytes, bytes, int]] = {
    "half a request line": (b"GET /sta", b"", 408),
    "a header, byte by byte": (GET[:-2] + b"X: ", b"a", 408),
    "headers, line by line": (GET[:-2], b"X: a\r\n", 408),
    "half a body": (HALF_POST, b"", 408),
    "no body": (POST[: -len(BODY)], b"", 408),
    "a body, byte by byte": (request_bytes("POST", "/ip", b" " * 9_999)[:-9_990], b" ", 408),
    "half a chunk": (POST.partition(b"Content-Length")[0] + CHUNKS + b"50\r\n{", b"", 408),
    "chunk after chunk": (POST.partition(b"Content-Length")[0] + CHUNKS, b"1\r\n \r\n", 408),
    "an order to compact": (post_to("/compact"), b"", 408),
    "a body for no path": (
        request_bytes("POST", "/nowhere", b" " * 9_999)[:-9_990],
        b" ",
        404,
    ),
    "half a body for no path": (post_to("/nowhere"), b"", 404),
    "half a body of a GET": (request_bytes("GET", "/nowhere", BODY)[:-1], b"", 404),
    "half a body that is waited for": (
        POST.replace(b"Host", b"Expect: 100-continue\r\nHost", 1)[:-10],
        b"",
        408,
    ),
}


def test_a_request_that_does_not_arrive_is_ended(quick: Daemon) -> None:
    """However it is spread out, an unfinished request is answered once, and its connection ends.

    So it is with the first request of a connection and with a later one; and a connection on which
    nothing is asked, or nothing more, ends without a word.
    """
    before = quick.events()
    cases = {**SLOW, "nothing": (b"", b"", 0)}
    with contextlib.ExitStack() as stack:
        socks: dict[socket.socket, tuple[str, bytes]] = {}
        for name in cases:
            for first in (b"", GET):
                sock = stack.enter_context(connect((quick.host, quick.port)))
                sock.sendall(first + cases[name][0])
                socks[sock] = name, first
        received = until_closed({sock: cases[name][1] for sock, (name, _) in socks.items()})
    for sock, (name, first) in socks.items():
        answers = parse_answers(received[sock])
        status = cases[name][2]

        assert [200] * bool(first) + [status] * bool(status) == [a.status_code for a in answers], (
            name
        )
        if status:
            CONTRACT.check_any(answers[-1])
            error_of(answers[-1], status)
        if status == 408:
            assert answers[-1].headers["connection"] == "close"
    assert before == quick.events()


def test_a_compaction_is_waited_for_however_long(quick: Daemon) -> None:
    """Its answer may come long after any other would have been given up."""
    with connect((quick.host, quick.port)) as sock:
        sock.sendall(request_bytes("POST", "/compact"))
        wait_for(lambda: children(quick), "the process that compacts")
        (worker,) = children(quick)
        os.kill(worker, signal.SIGSTOP)
        time.sleep(RESPONSE_SECONDS + 1)
        os.kill(worker, signal.SIGCONT)
        (answer,) = parse_answers(sock.recv(65536))

    assert answer.status_code == 200


def test_many_requests_in_halves_are_not_one_slow_request(quick: Daemon) -> None:
    """A connection that always has half a request under way, but each soon whole, goes on."""
    half = len(GET) // 2
    statuses = []
    deadline = time.monotonic() + 2 * ARRIVAL_SECONDS + 1
    with connect((quick.host, quick.port)) as sock:
        sock.sendall(GET[:half])
        begun = time.monotonic()
        while time.monotonic() < deadline:
            time.sleep(0.02)
            took = time.monotonic() - begun
            if took >= ARRIVAL_SECONDS:
                # The machine stood still meanwhile, and the request was slow in truth.
                return
            sock.sendall(GET[half:] + GET[:half])
            begun = time.monotonic()
            received = b""
            while not (answers := parse_answers(received)):
                received += sock.recv(65536) or pytest.fail(f"closed after {took} s")
            statuses.append(answers[0].status_code)

    assert {200} == set(statuses)


def test_a_peer_that_reads_nothing_is_ended(quick: Daemon) -> None:
    """Who asks and asks but never reads is cut off, and leaves no open file behind."""
    before = open_files(quick)
    asked = request_bytes("GET", "/openapi.json") * 100
    with connect((quick.host, quick.port)) as sock:
        sock.settimeout(0.1)
        deadline = time.monotonic() + TIMEOUT_SECONDS
        with pytest.raises((BrokenPipeError, ConnectionResetError)):  # noqa: PT012
            while time.monotonic() < deadline:
                with contextlib.suppress(TimeoutError):
                    sock.send(asked)
    wait_for(lambda: open_files(quick) <= before, "the connection to be forgotten")

    assert quick.get("nobody").status_code == 404


def test_beyond_the_limit_busy_connections_are_kept_and_others_refused(tmp_path: Path) -> None:
    """One connection too many gets 503 with Retry-After; when there is room again, it is served.

    Meanwhile the unix socket is as free as ever.
    """
    with contextlib.ExitStack() as stack:
        unix = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="coild-"))) / "socket"
        flags = ("--max-connections", "8", "--socket", str(unix))
        daemon = stack.enter_context(impatient(tmp_path / "data", *flags, times=(60, 60, 60)))
        busy = [stack.enter_context(connect((daemon.host, daemon.port))) for _ in range(8)]
        for sock in busy:
            start_post(sock)
        refusals = []
        for _ in range(20):
            refusals += daemon.send(GET)
            # Each time, it is looked anew whether one of them is idle by now.
            time.sleep(0.02)
        (beside,) = exchange(unix, GET)
        with connect((daemon.host, daemon.port)) as sock:
            # Who is refused and says nothing is hung up on.
            said = b""
            while more := sock.recv(65536):
                said += more
            assert parse_answers(said)[0].status_code == 503
        for sock in busy[1:]:
            sock.close()
        # The closed ones are forgotten in the server's own time.
        wait_for(lambda: daemon.send(GET)[0].status_code == 200, "room")
        busy[0].sendall(POST[-10:])
        (answer,) = parse_answers(busy[0].recv(65536))
        told = daemon.log.count("--max-connections")

    for refusal in refusals:
        CONTRACT.check("GET", "/status", refusal)
        error_of(refusal, 503)
    assert beside.status_code == 200
    assert {"1"} == {refusal.headers["retry-after"] for refusal in refusals}
    assert address_of(answer)
    assert told == 1


def test_beyond_the_limit_idle_connections_make_room(tmp_path: Path) -> None:
    """Of idle connections those idle the longest are closed, none that has a request."""
    with (
        impatient(tmp_path / "data", "--max-connections", "8", times=(60, 60, 60)) as daemon,
        contextlib.ExitStack() as stack,
    ):
        socks = [stack.enter_context(connect((daemon.host, daemon.port))) for _ in range(8)]
        start_post(socks[0])
        for sock in socks[1:]:
            # One by one, so that their order is known.
            sock.sendall(GET)
            parse_answers(sock.recv(65536))
        statuses = [daemon.send(GET)[0].status_code for _ in range(3)]
        socks[0].sendall(POST[-10:])
        (answer,) = parse_answers(socks[0].recv(65536))
        ended = [sock.recv(1) == b"" for sock in socks[1:2]]
        socks[7].sendall(GET)
        (last,) = parse_answers(socks[7].recv(65536))

    assert [200] * 3 == statuses
    assert address_of(answer)
    assert [True] == ended
    assert last.status_code == 200


@pytest.mark.parametrize("connections_max", [None, 12_000], ids=["the default limit", "all held"])
def test_ten_thousand_idle_connections(tmp_path: Path, connections_max: int | None) -> None:
    """With 10,000 connections that ask nothing, others are served; when they go, all is as was.

    By default there are not so many: the older ones are closed for the newer.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 10_000 if connections_max or LONG else 6_000
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard - 2_000)
    # A campaign must not say that it tried what it did not.
    assert wanted == 10_000 or not LONG, f"only {hard} files may be open: raise ulimit -Hn"
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted + 1_000, hard))
    arguments = ("--max-connections", str(connections_max)) if connections_max else ()
    try:
        with (
            impatient(tmp_path / "data", *arguments, times=(60, 60, 600)) as daemon,
            contextlib.ExitStack() as stack,
        ):
            before = open_files(daemon)
            for n in range(wanted):
                sock = stack.enter_context(socket.socket())
                sock.settimeout(TIMEOUT_SECONDS)
                sock.connect((daemon.host, daemon.port))
                if n % 1_000 == 0:
                    assert address_of(daemon.allocate(f"during-{n}"))
                    assert len(daemon.send(GET)) == 1
            held = min(wanted, connections_max or 1_000)
            # They wait to be accepted until the daemon comes to it.
            wait_for(lambda: open_files(daemon) >= held, "the connections to be accepted")
            assert address_of(daemon.release("during-0"))
            stack.close()
            wait_for(lambda: open_files(daemon) <= before + 2, "the connections to be forgotten")

            assert address_of(daemon.allocate("after"))
            assert daemon.stop() == 0
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    most = connections_max or "the default"
    report("idle connections", wanted, wanted, f"at most {most} at once, others served beside them")
    assert "ERROR" not in daemon.log


@pytest.mark.parametrize("busy", [None, "unread", "unwritten", "incomplete", "at work"])
def test_what_is_closed_for_others_is_idle(busy: str | None) -> None:
    """A connection with anything under way is not one of those that make room."""
    connection = Connection.__new__(Connection)
    connection.recv_buffer = bytearray(b"GET" if busy == "unread" else b"")
    connection._can_write = asyncio.Event()
    if busy != "unwritten":
        connection._can_write.set()
    connection._http = SimpleNamespace(
        stage=Stage.HANDLER if busy == "at work" else Stage.IDLE,
        request_body=b"more" if busy == "incomplete" else None,
    )

    assert (busy is None) == connection.is_idle


def test_connections_leave_files_for_the_journal(tmp_path: Path) -> None:
    """Where few files may be open, connections are fewer, and there are files for a compaction."""
    stop = threading.Event()

    def flood(address: tuple[str, int]) -> None:
        while not stop.is_set():
            with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
                for _ in range(600):
                    stack.enter_context(connect(address))

    with impatient(tmp_path / "data", times=(60, 60, 60), files=700) as daemon:
        thread = threading.Thread(target=flood, args=((daemon.host, daemon.port),))
        thread.start()
        try:
            for n in range(3):
                (allocated,) = daemon.send(request_bytes("POST", "/ip", allocate_body(f"{n}", "p")))
                # It starts a process, seals a segment, makes another, a snapshot and an archive.
                order = b'{"order": "%s"}' % give_order(daemon.data_dir / "journal", None).encode()
                (compacted,) = daemon.send(request_bytes("POST", "/compact", order))

                assert address_of(allocated)
                assert compacted.status_code == 200, compacted.text
        finally:
            stop.set()
            thread.join()

        assert daemon.stop() == 0

    assert "(ulimit -n) allows 350 connections" in daemon.log
    assert "ERROR" not in daemon.log
