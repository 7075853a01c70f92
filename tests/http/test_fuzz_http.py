"""Whatever is sent: every answer is one that the OpenAPI document describes, and none is a hang.

The requests come from the document (schemathesis), from whole requests in any pieces, and from
whole requests that were damaged in every way we can think of. One daemon takes them all; in the end
it stops as it should, its log has no fault of its own, and its journal is whole.
"""

from __future__ import annotations

import contextlib
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from schemathesis.checks import CheckContext
from schemathesis.specs.openapi.checks import (
    negative_data_rejection,
    positive_data_acceptance,
)

from coild.http.openapi import document
from tests.crash.scale import LONG, report
from tests.http.test_malformed import ANSWERED, UNFINISHED
from tests.kits.daemon.openapi import Contract
from tests.kits.daemon.process import Daemon
from tests.kits.daemon.wire import (
    TIMEOUT_SECONDS,
    allocate_body,
    connect,
    request_bytes,
    split_answers,
    target_of,
)
from tools.verify import cli as verify

Check = Callable[[CheckContext, schemathesis.Response, schemathesis.Case[Any]], bool | None]
#: How many inputs there were of each kind.
TRIED = Counter[str]()
CONTRACT = Contract(document())
SCHEMA = schemathesis.openapi.from_dict(document())


#: The long campaign takes a minute or two for one of them.
pytestmark = pytest.mark.timeout(1_200 if LONG else 120)


def bounded(short: int, long: int) -> settings:
    """So many examples here and in the long campaign, on the daemon that all share."""
    return settings(
        max_examples=long if LONG else short,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def fuzzed(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Daemon]:
    """One coild; after all tests it must end well and leave a whole journal."""
    data_dir = tmp_path_factory.mktemp("fuzzed") / "data"
    with Daemon(data_dir, "--segment-size", "1MiB") as running:
        yield running
        assert running.process.poll() is None
        assert running.status()["status"] == 200
        assert running.stop(signal.SIGTERM) == 0
        assert "Traceback" not in running.log
        assert "bug:" not in running.log
        assert verify.main(["--data-dir", str(data_dir), "--deep"]) == 0
    # Which of them failed is not known here: then nothing is said of any.
    for name, count in TRIED.items() if not request.session.testsfailed else ():
        report(
            f"HTTP fuzzing: {name}", count, count, "then a good stop, and a journal that is whole"
        )


@SCHEMA.parametrize()
@bounded(short=20, long=300)
def test_what_the_document_describes(case: schemathesis.Case[Any], fuzzed: Daemon) -> None:
    """Bodies and parameters that the document allows are taken, others refused, as it says."""
    TRIED["by the document"] += 1
    excluded: dict[str, list[Check]] = {
        # Whether there is such an order, no document can know.
        "POST /compact": [positive_data_acceptance],
        # What cannot have been assigned is not assigned: 200, and the address is empty.
        "DELETE /ip/{namespace}/{pod}/{container}": [negative_data_rejection],
    }
    case.call_and_validate(
        base_url=f"http://{fuzzed.address}",
        excluded_checks=excluded.get(case.operation.label, []),
        timeout=TIMEOUT_SECONDS,
    )


def talk(daemon: Daemon, pieces: list[bytes], *, hang_up: bool = True) -> list[httpx.Response]:
    """Send all that, and read until the server hangs up: only whole answers, all as described.

    With `hang_up`, tell it that nothing follows: what is under way by then may stay unanswered.
    Raises TimeoutError if the server does not hang up.
    """
    received = b""
    with connect((daemon.host, daemon.port)) as sock:
        # A server may answer and close while it is still being sent to.
        with contextlib.suppress(OSError):
            for piece in pieces:
                sock.sendall(piece)
            if hang_up:
                sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while more := sock.recv(65536):
                received += more
    answers, rest = split_answers(received)
    # Only the answer to HEAD may seem to be cut short.
    assert not rest or b"HEAD" in b"".join(pieces), rest
    for answer in answers:
        CONTRACT.check_any(answer)
        assert answer.status_code < 500, answer.text
    return answers


CONTAINERS = ("c1", "c/2", "ü 3")
METHODS = ("POST", "GET", "DELETE")


def chunked(request: bytes, sizes: list[int]) -> bytes:
    """The same request, its body in chunks of these sizes and the rest in one."""
    head, _, body = request.partition(b"\r\n\r\n")
    head = b"\r\n".join(line for line in head.split(b"\r\n") if b"ength" not in line)
    data = head + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
    for size in [*sizes, len(body)]:
        chunk, body = body[:size], body[size:]
        data += b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunk else b""
    return data + b"0\r\n\r\n"


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """`data` in pieces that end at these places."""
    ends = sorted({place % (len(data) + 1) for place in places} | {len(data)})
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@bounded(short=60, long=2_000)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(METHODS),
            st.sampled_from(CONTAINERS),
            st.none() | st.lists(st.integers(1, 40), max_size=4),
        ),
        max_size=12,
    ),
    # Each byte alone, too.
    places=st.lists(st.integers(0, 5_000), max_size=8) | st.just(list(range(5_000))),
)
def test_pipelined_requests_in_any_pieces(
    fuzzed: Daemon, steps: list[tuple[str, str, list[int] | None]], places: list[int]
) -> None:
    """Requests in a row, cut anywhere, in chunks or not, are answered one by one, in order."""
    TRIED["pipelined requests"] += 1
    held: set[str] = set()
    data, expected = b"", []
    for method, container, sizes in steps:
        if method == "POST":
            request = request_bytes("POST", "/ip", allocate_body(container, "fuzz"))
            expected.append(409 if container in held else 200)
            held.add(container)
        else:
            request = request_bytes(method, target_of(container, "fuzz"))
            expected.append(404 if method == "GET" and container not in held else 200)
        if method == "DELETE":
            held.discard(container)
        data += request if sizes is None or method != "POST" else chunked(request, sizes)
    data += request_bytes("GET", "/nowhere", headers=("Connection: close",))
    expected.append(404)
    answers = talk(fuzzed, cut(data, places), hang_up=False)
    for container in held:
        fuzzed.ask("DELETE", target_of(container, "fuzz"))

    assert expected == [answer.status_code for answer in answers]


WHOLE = [
    request_bytes("GET", "/status"),
    request_bytes("GET", "/openapi.json"),
    request_bytes("POST", "/ip", allocate_body("fuzz", "fuzz")),
    request_bytes("GET", target_of("fuzz", "fuzz")),
    request_bytes("DELETE", target_of("fuzz", "fuzz")),
    chunked(request_bytes("POST", "/ip", allocate_body("fuzz", "fuzz")), [1, 7]),
    request_bytes("POST", "/ip", b"{}", headers=("Expect: 100-continue",)),
    request_bytes("DELETE", "/ip/%ff/%00/%2F"),
    request_bytes("GET", "/compact"),
    request_bytes("PUT", "/nowhere", b"x" * 100),
    *(data for data, _ in ANSWERED.values() if len(data) < 2_000),
    *(data for data in UNFINISHED.values() if data),
]
TOKENS = [
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b":",
    b"0\r\n\r\n",
    b"ffffffffffffffff\r\n",
    b"\r\nTransfer-Encoding: chunked",
    b"\r\nContent-Length: 0",
    b"\r\nContent-Length: 18446744073709551616",
    b"\r\nHost: evil.example",
    b"\r\nConnection: close",
    b"\r\nConnection: upgrade\r\nUpgrade: websocket",
    b"\r\nExpect: 100-continue",
    b"HTTP/1.0",
    b"HTTP/2",
    b"HEAD ",
    b"%00",
    b"%",
    b"\xff\xfe",
    b"{" * 2_000,
    b"A" * 20_000,
    b"A" * 70_000,
]
damages = st.lists(
    st.tuples(
        st.sampled_from(["insert", "replace", "remove", "repeat", "truncate"]),
        st.integers(0, 5_000),
        st.integers(0, 50),
        st.sampled_from(TOKENS) | st.binary(max_size=8),
    ),
    max_size=4,
)


def damage(data: bytes, how: list[tuple[str, int, int, bytes]]) -> bytes:
    """`data` after these accidents."""
    for kind, place, length, token in how:
        start = place % (len(data) + 1)
        end = start + length
        middle = {
            "insert": token + data[start:end],
            "replace": token,
            "remove": b"",
            "repeat": data[start:end] * 2,
            "truncate": b"",
        }[kind]
        data = data[:start] + middle + (b"" if kind == "truncate" else data[end:])
    return data


@bounded(short=500, long=10_000)
@given(
    wholes=st.lists(st.sampled_from(WHOLE), max_size=4),
    how=damages,
    places=st.lists(st.integers(0, 100_000), max_size=4),
)
@example(wholes=[], how=[], places=[])
def test_damaged_requests(
    fuzzed: Daemon,
    wholes: list[bytes],
    how: list[tuple[str, int, int, bytes]],
    places: list[int],
) -> None:
    """Damaged requests are answered in form or not at all, and the next client is served."""
    TRIED["damaged requests"] += 1
    talk(fuzzed, cut(damage(b"".join(wholes), how), places))
    (answer,) = fuzzed.send(request_bytes("DELETE", target_of("fuzz", "fuzz")))

    assert answer.status_code == 200


@bounded(short=200, long=5_000)
@given(data=st.binary(max_size=300), end=st.sampled_from(TOKENS))
def test_arbitrary_bytes(fuzzed: Daemon, data: bytes, end: bytes) -> None:
    """Bytes that are no request at all are answered in form or not at all."""
    TRIED["arbitrary bytes"] += 1
    assert all(answer.status_code >= 400 for answer in talk(fuzzed, [data + end]))
    (answer,) = fuzzed.send(request_bytes("GET", target_of("nobody", "fuzz")))

    assert answer.status_code == 404
