"""Malformed HTTP: what comes back is a failure in the form of the API, or nothing.

Never a hang, never a change, and the next client is served.
"""

from __future__ import annotations

import hashlib
import re

import pytest

from tests.kits.daemon.process import Daemon, wait_for
from tests.kits.daemon.wire import allocate_body, error_of, request_bytes

HOST = b"Host: localhost\r\n"
BODY = allocate_body("cid", "web-0")
SIZE = len(BODY)
GET = b"GET /status HTTP/1.1\r\n" + HOST
POST = b"POST /ip HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
CHUNK = b"%x\r\n%b\r\n" % (SIZE, BODY)


def noise(size: int) -> bytes:
    """Bytes without order, the same ones in each run."""
    return hashlib.shake_128(b"noise").digest(size)


#: What is sent, and the status of the answer.
ANSWERED: dict[str, tuple[bytes, int]] = {
    "no version": (b"GET /status\r\n\r\n", 400),
    "method only": (b"GET\r\n\r\n", 400),
    "empty lines": (b"\r\n\r\n\r\n", 400),
    "blank request line": (b" \r\n\r\n", 400),
    "two spaces": (b"GET  /status HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "tabs for spaces": (b"GET\t/status\tHTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a space in the URL": (b"GET /sta tus HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "four words": (b"GET /status HTTP/1.1 x\r\n" + HOST + b"\r\n", 400),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "HTTP/1.2": (b"GET /status HTTP/1.2\r\n" + HOST + b"\r\n", 400),
    "HTTP/0.9 with a version": (b"GET /status HTTP/0.9\r\n\r\n", 400),
    "http/1.1": (b"GET /status http/1.1\r\n" + HOST + b"\r\n", 400),
    "another protocol": (b"SIP/2.0 200 OK\r\nVia: x\r\n\r\n", 400),
    "an answer": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 400),
    "lower-case method": (b"get /status HTTP/1.1\r\n" + HOST + b"\r\n", 405),
    "unknown method": (b"BREW /status HTTP/1.1\r\n" + HOST + b"\r\n", 405),
    "bytes above 127 in the method": (b"\x80GET /status HTTP/1.1\r\n" + HOST + b"\r\n", 405),
    "a line break in the method": (b"GET\nX /status HTTP/1.1\r\n" + HOST + b"\r\n", 405),
    "long method": (b"A" * 10_000 + b" /status HTTP/1.1\r\n" + HOST + b"\r\n", 405),
    "Sanic's own method": (b"NONE /nowhere HTTP/1.1\r\n" + HOST + b"\r\n", 404),
    "relative URL": (b"GET status HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "CONNECT": (b"CONNECT localhost:80 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "NUL in the URL": (b"GET /sta\0tus HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "bytes above 127 in the URL": (b"GET /ip/a/b/\xff\xfe HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "UTF-8 in the URL": ("DELETE /ip/a/b/ü HTTP/1.1\r\n".encode() + HOST + b"\r\n", 400),
    "long URL": (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 413),
    "URL of 70,000 bytes": (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 413),
    "header without a colon": (GET + b"nocolon\r\n\r\n", 400),
    "folded header": (GET + b"X: a\r\n b\r\n\r\n", 400),
    "space before the colon": (b"GET /status HTTP/1.1\r\nHost : localhost\r\n\r\n", 400),
    "tab before the colon": (GET + b"X\t: a\r\n\r\n", 400),
    "length with a space before the colon": (
        POST + b"Content-Length : %d\r\n\r\n" % SIZE + BODY,
        400,
    ),
    "length with a tab before the colon": (
        POST + b"Content-Length\t: %d\r\n\r\n" % SIZE + BODY,
        400,
    ),
    "chunks with a space before the colon": (
        POST + b"Transfer-Encoding : chunked\r\n\r\n" + CHUNK + b"0\r\n\r\n",
        400,
    ),
    "a length of its own and one that hides": (
        POST + b"Content-Length: 0\r\nContent-Length : %d\r\n\r\n" % SIZE + BODY,
        400,
    ),
    "length in a folded header": (POST + b"X: a\r\n\tContent-Length: 5\r\n\r\n" + BODY, 400),
    "length behind a bare CR": (POST + b"X: a\rContent-Length: 5\r\n\r\n" + BODY, 400),
    "length behind a bare LF": (POST + b"X: a\nContent-Length: 5\r\n\r\n" + BODY, 400),
    "NUL in a header": (GET + b"X: a\0b\r\n\r\n", 400),
    "NUL in the length": (POST + b"Content-Length: %d\0\r\n\r\n" % SIZE + BODY, 400),
    "vertical tab before the length": (POST + b"Content-Length:\v%d\r\n\r\n" % SIZE + BODY, 400),
    "no-break space before the length": (
        POST + b"Content-Length: \xc2\xa0%d\r\n\r\n" % SIZE + BODY,
        400,
    ),
    "wide digits": (POST + "Content-Length: \uff15\r\n\r\n".encode() + BODY, 400),
    "no name": (GET + b": a\r\n\r\n", 400),
    "parentheses in a name": (GET + b"X(y): a\r\n\r\n", 400),
    "bytes above 127 in a name": (GET + b"X\xe4: a\r\n\r\n", 400),
    "65 headers": (GET + b"X: a\r\n" * 64 + b"\r\n", 413),
    "a fragment in the URL": (b"GET /status#x HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "the URL of another host": (
        b"GET http://evil.example/status HTTP/1.1\r\n" + HOST + b"\r\n",
        400,
    ),
    "the URL of another port": (
        b"GET http://localhost:1/status HTTP/1.1\r\n" + HOST + b"\r\n",
        400,
    ),
    "the URL of a user": (b"GET http://localhost@x/status HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "the URL of another scheme": (
        b"GET https://localhost/status HTTP/1.1\r\n" + HOST + b"\r\n",
        400,
    ),
    "a URL and no Host": (b"GET http://localhost/status HTTP/1.1\r\n\r\n", 400),
    "a URL and two Hosts": (
        b"GET http://localhost/status HTTP/1.1\r\nHost: evil.example\r\n" + HOST + b"\r\n",
        400,
    ),
    "chunks in HTTP/1.0": (CHUNKED.replace(b"/1.1", b"/1.0") + CHUNK + b"0\r\n\r\n", 400),
    "xchunked": (CHUNKED.replace(b"chunked", b"xchunked") + CHUNK + b"0\r\n\r\n", 400),
    "chunked, but for a vertical tab": (
        CHUNKED.replace(b"chunked", b"\vchunked") + CHUNK + b"0\r\n\r\n",
        400,
    ),
    "huge header": (GET + b"X: " + b"a" * 20_000 + b"\r\n\r\n", 413),
    "huge header without an end": (GET + b"X: " + b"a" * 20_000, 413),
    "many headers": (GET + b"X: a\r\n" * 5_000 + b"\r\n", 413),
    "binary": (bytes(range(256)) * 4 + b"\r\n\r\n", 400),
    "random bytes": (noise(4_000) + b"\r\n\r\n", 400),
    "much binary": (noise(100_000), 413),
    "length twice": (POST + b"Content-Length: %d\r\n" % SIZE * 2 + b"\r\n" + BODY, 400),
    "two lengths": (POST + b"Content-Length: %d\r\nContent-Length: 3\r\n\r\n" % SIZE + BODY, 400),
    "list of lengths": (POST + b"Content-Length: %d, %d\r\n\r\n" % (SIZE, SIZE) + BODY, 400),
    "negative length": (POST + b"Content-Length: -%d\r\n\r\n" % SIZE + BODY, 400),
    "length with a plus": (POST + b"Content-Length: +%d\r\n\r\n" % SIZE + BODY, 400),
    "length with an underscore": (POST + b"Content-Length: 6_4\r\n\r\n" + BODY, 400),
    "hexadecimal length": (POST + b"Content-Length: 0x40\r\n\r\n" + BODY, 400),
    "length that is a word": (POST + b"Content-Length: many\r\n\r\n" + BODY, 400),
    "empty length": (POST + b"Content-Length: \r\n\r\n" + BODY, 400),
    "length of 23 digits": (POST + b"Content-Length: " + b"9" * 23 + b"\r\n\r\n" + BODY, 413),
    "length of 5,000 digits": (POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", 400),
    "no length": (POST + b"\r\n" + BODY, 400),
    "length too short": (POST + b"Content-Length: %d\r\n\r\n" % (SIZE - 1) + BODY, 400),
    "length and chunks": (
        POST + b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n" % SIZE + CHUNK,
        400,
    ),
    "chunks and length": (
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: %d\r\n\r\n" % SIZE + BODY,
        400,
    ),
    "unknown transfer encoding": (POST + b"Transfer-Encoding: gzip\r\n\r\n" + BODY, 400),
    "two transfer encodings": (
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n" + CHUNK,
        400,
    ),
    "transfer encoding in a list": (
        POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + CHUNK + b"0\r\n\r\n",
        400,
    ),
    "chunk size that is a word": (CHUNKED + b"zz\r\n" + BODY + b"\r\n0\r\n\r\n", 400),
    "negative chunk size": (CHUNKED + b"-5\r\n" + BODY + b"\r\n0\r\n\r\n", 400),
    "chunk size with 0x": (CHUNKED + b"0x%x\r\n%b\r\n0\r\n\r\n" % (SIZE, BODY), 400),
    "chunk size with a plus": (CHUNKED + b"+%x\r\n%b\r\n0\r\n\r\n" % (SIZE, BODY), 400),
    "chunk size with a space": (CHUNKED + b"%x \r\n%b\r\n0\r\n\r\n" % (SIZE, BODY), 400),
    "chunk size behind a space": (CHUNKED + b" %x\r\n%b\r\n0\r\n\r\n" % (SIZE, BODY), 400),
    "chunk size with an underscore": (CHUNKED + b"0_%x\r\n%b\r\n0\r\n\r\n" % (SIZE, BODY), 400),
    "chunk size in wide digits": (
        CHUNKED + "\uff15\r\n".encode() + BODY[:5] + b"\r\n0\r\n\r\n",
        400,
    ),
    "no chunk size": (CHUNKED + b"\r\n%b\r\n0\r\n\r\n" % BODY, 400),
    "chunk size that is an extension": (CHUNKED + b";a\r\n%b\r\n0\r\n\r\n" % BODY, 400),
    "last chunk with 0x": (CHUNKED + CHUNK + b"0x0\r\n\r\n", 400),
    "a bare LF in an extension": (CHUNKED + b"%x;a\nb\r\n%b\r\n0\r\n\r\n" % (SIZE, BODY), 400),
    "a NUL in an extension": (CHUNKED + b"%x;\0\r\n%b\r\n0\r\n\r\n" % (SIZE, BODY), 400),
    "a long extension": (CHUNKED + b"%x;%b\r\n%b\r\n" % (SIZE, b"a" * 300, BODY), 400),
    "no CRLF after a chunk": (CHUNKED + CHUNK[:-2] + b"xx0\r\n\r\n", 400),
    "a bare LF after a chunk": (CHUNKED + CHUNK[:-2] + b"\n\n0\r\n\r\n", 400),
    "endless chunk size": (CHUNKED + b"0" * 100, 400),
    "chunk longer than it says": (CHUNKED + b"5\r\n" + BODY + b"\r\n0\r\n\r\n", 400),
    "huge chunk": (CHUNKED + b"f" * 20 + b"\r\n" + BODY, 413),
    "trailer": (CHUNKED + CHUNK + b"0\r\nX: a\r\n\r\n", 400),
    "a chunk above 64 KiB": (CHUNKED + b"10001\r\n" + b" " * 0x10001 + b"\r\n0\r\n\r\n", 413),
    "chunks above 64 KiB": (CHUNKED + (b"4000\r\n" + b" " * 0x4000 + b"\r\n") * 5, 413),
    "body above 64 KiB": (POST + b"Content-Length: 70000\r\n\r\n" + b" " * 70_000, 413),
    "body above 64 KiB that never comes": (POST + b"Content-Length: 70000\r\n\r\n", 413),
    "bytes above 127 in Expect": (POST + b"Expect: \xff\r\nContent-Length: 2\r\n\r\n{}", 417),
    "weird Expect": (POST + b"Expect: miracles\r\nContent-Length: %d\r\n\r\n" % SIZE + BODY, 417),
}

#: What a server has to wait after, until the client hangs up.
UNFINISHED: dict[str, bytes] = {
    "nothing": b"",
    "half a request line": b"GET /sta",
    "HTTP/0.9": b"GET /status\r\n",
    "half a header": GET + b"X: a",
    "bare line feeds": b"GET /status HTTP/1.1\nHost: localhost\n\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 500,
    "binary": bytes(range(256)),
    "half a body": POST + b"Content-Length: %d\r\n\r\n" % SIZE + BODY[: SIZE // 2],
    "no body": POST + b"Content-Length: %d\r\n\r\n" % SIZE,
    "all but a byte": POST + b"Content-Length: %d\r\n\r\n" % (SIZE + 1) + BODY,
    "half a chunk": CHUNKED + CHUNK[: SIZE // 2],
    "no last chunk": CHUNKED + CHUNK,
    "half a last chunk": CHUNKED + CHUNK + b"0\r\n",
    "no chunk": CHUNKED,
    "half of Expect": POST + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % SIZE,
}


def assert_unharmed(daemon: Daemon, before: list[tuple[int, object]]) -> None:
    """The next client is served, and the journal is what it was."""
    (answer,) = daemon.send(request_bytes("GET", "/status"))

    assert answer.status_code == 200
    assert before == daemon.events()


@pytest.mark.parametrize("name", ANSWERED)
def test_malformed_http_is_answered_in_form(shared_daemon: Daemon, name: str) -> None:
    """A request that cannot be read gets a failure of the API's form, 4xx, and changes nothing."""
    before = shared_daemon.events()
    data, status = ANSWERED[name]
    answers = shared_daemon.send(data)

    assert len(answers) == 1
    error_of(answers[0], status)
    assert_unharmed(shared_daemon, before)


@pytest.mark.parametrize("name", UNFINISHED)
def test_an_unfinished_request_is_dropped(shared_daemon: Daemon, name: str) -> None:
    """A client that hangs up before its request is whole gets nothing, and nothing happens."""
    before = shared_daemon.events()

    assert shared_daemon.send(UNFINISHED[name], hang_up=True) == []
    assert_unharmed(shared_daemon, before)


def test_nothing_behind_a_malformed_request_is_read(shared_daemon: Daemon) -> None:
    """After a request whose end nobody knows, the connection is closed, not read on from."""
    before = shared_daemon.events()
    smuggled = request_bytes("POST", "/ip", BODY)
    for name, (data, _) in ANSWERED.items():
        if "Content-Length" not in str(data) and "chunked" not in str(data):
            continue
        answers = shared_daemon.send(data + smuggled, answers=2)

        assert 200 not in [answer.status_code for answer in answers], name
    assert before == shared_daemon.events()


def test_pipelined_requests_in_front_of_malformed_ones_are_answered(shared_daemon: Daemon) -> None:
    """A malformed request takes nothing from those before it; those behind it are not read."""
    good = request_bytes("GET", "/status")
    answers = shared_daemon.send(good + good + b"x\r\n\r\n" + good, answers=4)

    assert [answer.status_code for answer in answers] == [200, 200, 400]


def test_a_body_where_none_belongs_is_skipped(shared_daemon: Daemon) -> None:
    """The body of a GET is not taken for the next request."""
    smuggled = request_bytes("POST", "/ip", BODY)
    first = request_bytes("GET", "/ip/default/web-0/cid", smuggled)
    answers = shared_daemon.send(first + request_bytes("GET", "/nowhere"), answers=2)

    assert [answer.status_code for answer in answers] == [404, 404]
    assert "nowhere" in error_of(answers[1], 404)


def test_expect_100_continue_is_met(shared_daemon: Daemon) -> None:
    """A client that asks before it sends its body is told to, and then served."""
    (answer,) = shared_daemon.send(
        POST + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % SIZE + BODY
    )
    shared_daemon.release("cid")

    assert answer.status_code == 200


def test_malformed_http_is_no_bug(shared_daemon: Daemon) -> None:
    """None of all that is logged as a fault of the daemon's own."""
    for data, _ in ANSWERED.values():
        shared_daemon.send(data)

    assert "Traceback" not in shared_daemon.log
    assert " ERROR " not in shared_daemon.log


@pytest.mark.parametrize("method", [b"X\nforged", b"X\r", b"\x80\xff", b"\x1b[2J"])
def test_no_method_reaches_the_log_as_it_is(shared_daemon: Daemon, method: bytes) -> None:
    """A refusal is logged in one printable line, with its time, whatever was asked for."""
    before = len(shared_daemon.log)
    (answer,) = shared_daemon.send(method + b" /status HTTP/1.1\r\nHost: evil.example\r\n\r\n")
    error_of(answer, 403)
    # What is refused again and again is a line a second.
    wait_for(lambda: shared_daemon.log[before:].endswith("\n"), "the line")
    # That of an earlier test may have come late.
    lines = shared_daemon.log[before:].removesuffix("\n").split("\n")

    assert all(line.isprintable() and re.match(r"20\d\d-\d\d-\d\d ", line) for line in lines)


@pytest.mark.parametrize(
    "data",
    [
        POST + b"Content-Length:%d\r\n\r\n" % SIZE + BODY,
        POST + b"content-length: \t %d \t\r\n\r\n" % SIZE + BODY,
        POST + b"X-Name: \xc3\xa4\r\nContent-Length: %d\r\n\r\n" % SIZE + BODY,
        b"POST http://LOCALHOST/ip HTTP/1.1\r\n"
        + HOST
        + b"Content-Length: %d\r\n\r\n" % SIZE
        + BODY,
        CHUNKED + b'00%X;a="b c"\r\n%b\r\n000\r\n\r\n' % (SIZE, BODY),
    ],
    ids=["no space", "white space", "a name", "a URL", "chunks"],
)
def test_what_the_rules_allow_is_taken(shared_daemon: Daemon, data: bytes) -> None:
    """Spellings of one request that mean the same to every program are all served."""
    # Twice: what was found good before is not looked at in full.
    for _ in range(2):
        (answer,) = shared_daemon.send(data)
        shared_daemon.release("cid")

        assert answer.status_code == 200, answer.text


def test_a_field_that_was_good_once_counts_again(shared_daemon: Daemon) -> None:
    """The number of fields is bounded, however well known each is."""
    shared_daemon.send(GET + b"X-Known: a\r\n\r\n")
    (answer,) = shared_daemon.send(GET + b"X-Known: a\r\n" * 64 + b"\r\n")

    assert "64 header fields" in error_of(answer, 413)
