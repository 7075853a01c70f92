"""What clients cause again and again is a line a second, and its counts add up."""

# expected == actual

from __future__ import annotations

import logging
import re
import socket
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import msgspec
import pytest

from coild.process.log_limit import INTERVAL_SECONDS, LogLimit
from tests.kits.daemon.process import Daemon, wait_for
from tests.kits.daemon.wire import request_bytes

_OTHERS = re.compile(r"\(and (\d+) more like it, which are not shown\)")
_REFUSALS = 2000


class _Time:
    """A clock that tests set, and what is to be called later."""

    def __init__(self) -> None:
        self.now = 100.0
        self._calls: list[tuple[float, Callable[[], object]]] = []

    def later(self, seconds: float, call: Callable[[], object]) -> None:
        """Have something called."""
        self._calls.append((self.now + seconds, call))

    def go(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        due = [call for moment, call in self._calls if moment <= self.now]
        self._calls = [each for each in self._calls if each[0] > self.now]
        for call in due:
            call()


@pytest.fixture
def time() -> _Time:
    """A clock that stands."""
    return _Time()


@pytest.fixture
def limit(time: _Time, caplog: pytest.LogCaptureFixture) -> LogLimit:
    """A limit by that clock, whose lines are kept."""
    caplog.set_level(logging.INFO)
    return LogLimit(lambda: time.now, time.later)


def _counted(lines: list[str]) -> int:
    """How many things happened by these lines."""
    return sum(1 + int(found[1] if (found := _OTHERS.search(line)) else 0) for line in lines)


def _say(limit: LogLimit, kind: str, text: str) -> None:
    limit.log(kind, logging.getLogger("said"), logging.INFO, text)


def test_the_first_is_shown_at_once_and_the_last_with_the_count_of_the_others(
    time: _Time, limit: LogLimit, caplog: pytest.LogCaptureFixture
) -> None:
    """A burst is two lines: its first, and a second later its last with how many were between."""
    for number in range(10):
        _say(limit, "full", f"refused {number}")
    at_once = list(caplog.messages)
    time.go(INTERVAL_SECONDS)
    time.go(10 * INTERVAL_SECONDS)

    assert at_once == ["refused 0"]
    assert caplog.messages == [
        "refused 0",
        "refused 9 (and 8 more like it, which are not shown)",
    ]


def test_kinds_do_not_hide_each_other(limit: LogLimit, caplog: pytest.LogCaptureFixture) -> None:
    """A flood of one kind keeps no line of another kind back."""
    for _ in range(5):
        _say(limit, "full", "full")
    _say(limit, "conflict", "conflict")

    assert caplog.messages == ["full", "conflict"]


def test_lines_and_counts_add_up_however_it_goes_on(
    time: _Time, limit: LogLimit, caplog: pytest.LogCaptureFixture
) -> None:
    """Over a minute of floods and pauses there is a line a second at most, and none is lost."""
    said = 0
    for step in range(600):
        for _ in range(step % 7 if step % 100 < 60 else 0):
            said += 1
            _say(limit, "full", "full")
        time.go(0.1)
    limit.flush()

    assert len(caplog.messages) <= 61
    assert said == _counted(caplog.messages)


def test_a_stop_shows_what_waits(limit: LogLimit, caplog: pytest.LogCaptureFixture) -> None:
    """What the second was not over for is told when nothing more is to come, and once."""
    for _ in range(3):
        _say(limit, "full", "full")
    limit.flush()
    limit.flush()

    assert caplog.messages == ["full", "full (and 1 more like it, which are not shown)"]


def test_a_line_without_a_loop_that_tells_later_is_not_lost(
    time: _Time, caplog: pytest.LogCaptureFixture
) -> None:
    """What waits when nothing is called any more comes with the next line of its kind."""
    caplog.set_level(logging.INFO)
    limit = LogLimit(lambda: time.now, lambda _seconds, _call: None)
    for _ in range(3):
        _say(limit, "full", "full")
    time.go(INTERVAL_SECONDS)
    _say(limit, "full", "last")

    assert caplog.messages == ["full", "last (and 2 more like it, which are not shown)"]


def test_what_the_level_hides_is_not_counted(
    limit: LogLimit, caplog: pytest.LogCaptureFixture
) -> None:
    """A line below the level of the log is no line, and keeps none back."""
    limit.log("full", logging.getLogger("said"), logging.DEBUG, "hidden")
    _say(limit, "full", "shown")

    assert caplog.messages == ["shown"]


@pytest.fixture
def full(tmp_path: Path) -> Daemon:
    """A daemon whose one pool has a single address, which is taken."""
    daemon = Daemon(tmp_path / "data", "--pool", "tiny=10.7.0.0/32", "--block-size", "0")
    assert daemon.allocate("holder", namespace="tiny").status_code == 200
    return daemon


def _refused(log: str, marks: str) -> list[str]:
    return [line for line in log.splitlines() if "refused" in line and marks in line]


def _has(daemon: Daemon, marks: str, count: int) -> bool:
    return _counted(_refused(daemon.log, marks)) >= count


def test_two_thousand_refusals_at_exhaustion_are_a_few_lines(full: Daemon) -> None:
    """Each names pool, namespace, pod and container, and the counts add up to all of them."""
    body = {"pod-namespace": "tiny", "pod-name": "web-7"}

    def ask(first: int) -> list[int]:
        with full.new_client() as client:
            return [
                client.post("/ip", json={**body, "container-id": f"c{first + index}"}).status_code
                for index in range(_REFUSALS // 4)
            ]

    with full, ThreadPoolExecutor(4) as pool:
        answers = Counter(
            status for each in pool.map(ask, range(0, _REFUSALS, _REFUSALS // 4)) for status in each
        )
        wait_for(
            lambda: _counted(_refused(full.log, "no free IPv4")) >= _REFUSALS, "all to be counted"
        )
        lines = _refused(full.log, "no free IPv4")
        seconds = Counter(line[:19] for line in lines)
    named = [
        all(
            word in line
            for word in (
                "POST /ip",
                "pool 'tiny'",
                "namespace 'tiny'",
                "pod 'web-7'",
                "container 'c",
            )
        )
        for line in lines
    ]

    assert answers == {503: _REFUSALS}
    assert _counted(lines) == _REFUSALS
    # A line that is late may come to lie in a second with the next one.
    assert max(seconds.values()) <= 2
    assert len(lines) < _REFUSALS / 20
    assert all(named)


def test_every_kind_of_refusal_is_limited_and_counted(full: Daemon) -> None:
    """Conflict, no pool, foreign host, deadline, bad body, long body, unknown path: two lines."""
    good = {"pod-namespace": "tiny", "pod-name": "p", "container-id": "holder"}
    bodies = {
        "409 container holder holds": request_bytes("POST", "/ip", msgspec.json.encode(good)),
        "500 there is no address pool": request_bytes(
            "POST", "/ip", msgspec.json.encode({**good, "pod-namespace": "x", "container-id": "d"})
        ),
        "403 requests from web pages": request_bytes(
            "POST", "/ip", msgspec.json.encode(good), headers=("Origin: http://evil.example",)
        ),
        "503 the request's deadline": request_bytes(
            "POST", "/ip", msgspec.json.encode(good), headers=("Coild-Deadline: 1",)
        ),
        "400 the body is not valid JSON": request_bytes("POST", "/ip", b"{"),
        "413 the request is too large": request_bytes("POST", "/ip", b" " * 100_000),
        "404 there is no such route": request_bytes("GET", "/nowhere"),
        "404 pod tiny/p has no address": request_bytes("GET", "/ip/tiny/p/gone"),
    }
    with full:
        for data in bodies.values():
            for _ in range(20):
                full.send(data)
        for text in bodies:
            wait_for(partial(_has, full, text, 20), text)
        found = {text: _refused(full.log, text) for text in bodies}
    counts = {text: _counted(lines) for text, lines in found.items()}
    most = max(map(len, found.values()))
    named = ("namespace 'tiny'", "pod 'p'", "container")

    assert counts == dict.fromkeys(bodies, 20)
    assert most < 10
    assert all(word in found["409 container holder holds"][0] for word in named)
    assert all(word in found["503 the request's deadline"][0] for word in named)
    assert all(word in found["404 pod tiny/p has no address"][0] for word in named)
    assert "no pool, namespace 'x'" in found["500 there is no address pool"][0]


def test_refused_connections_are_counted(tmp_path: Path) -> None:
    """Connections beyond the limit are a line a second, with how many others there were."""
    with Daemon(tmp_path / "data", "--max-connections", "2") as daemon:
        # Half of a request: they are not idle.
        busy = [socket.create_connection((daemon.host, daemon.port)) for _ in range(2)]
        for each in busy:
            each.sendall(b"GET /status HTTP/1.1\r\n")
        refused = 0
        while refused < 50:
            with socket.create_connection((daemon.host, daemon.port)) as one_more:
                refused += one_more.recv(100).startswith(b"HTTP/1.1 503")
        text = "are open and busy"
        wait_for(lambda: _counted(_refused(daemon.log, text)) >= refused, "all to be counted")
        lines = _refused(daemon.log, text)
        for each in busy:
            each.close()

    assert _counted(lines) == refused
    assert len(lines) < 10


def test_a_stop_tells_of_refusals_that_were_not_shown(full: Daemon) -> None:
    """A daemon that ends within the second shows the count before its last word."""
    with full:
        for index in range(5):
            assert full.allocate(f"c{index}", namespace="tiny").status_code == 503
        status = full.stop()
        lines = _refused(full.log, "no free IPv4")

    assert status == 0
    assert _counted(lines) == 5
