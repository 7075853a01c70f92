"""Who may ask over TCP: no web page in a browser on this node. Black box."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kits.daemon.process import Daemon
from tests.kits.daemon.wire import address_of, allocate_body, error_of, exchange, request_bytes

REQUESTS = {
    "status": ("GET", "/status"),
    "post": ("POST", "/ip"),
    "get": ("GET", "/ip/default/web-0/cid"),
    "delete": ("DELETE", "/ip/default/web-0/cid"),
    "unknown path": ("GET", "/nowhere"),
    "wrong method": ("POST", "/status"),
    "preflight": ("OPTIONS", "/ip"),
}
EVERY_REQUEST = pytest.mark.parametrize("request_name", REQUESTS)

GOOD_HOSTS = [
    "localhost",
    "localhost:9383",
    "LOCALHOST",
    "localhost.",
    "127.0.0.1",
    "127.0.0.1:80",
    "127.1.2.3",
    "[::1]",
    "[::1]:9383",
    "[0:0::1]",
]
FOREIGN_HOSTS = [
    "evil.example",
    "evil.example:9383",
    "localhost.evil.example",
    "evillocalhost",
    "127.0.0.1.evil.example",
    "127.0.0.1evil",
    "evil.example#localhost",
    "evil.example/localhost",
    "localhost@evil.example",
    "10.0.0.1",
    "192.168.1.1:80",
    "[fe80::1]",
    "[2001:db8::1]:80",
    "0.0.0.0",
    "[::]",
    "[::1",
    "[::1]evil.example",
    "2130706433",
    "",
    ":80",
    "localhost, evil.example",
]


@pytest.fixture(scope="module")
def allowing_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A coild that answers to two more names."""
    data_dir = tmp_path_factory.mktemp("allowing") / "data"
    with Daemon(data_dir, "--allowed-hosts", "node.example,10.0.0.1") as running:
        yield running


@pytest.fixture(scope="module")
def unix_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The unix socket of a coild."""
    data_dir = tmp_path_factory.mktemp("unix") / "data"
    with tempfile.TemporaryDirectory(prefix="coild-") as directory:
        path = Path(directory) / "socket"
        with Daemon(data_dir, "--socket", str(path)):
            yield path


@pytest.mark.parametrize("host", GOOD_HOSTS)
def test_loopback_is_a_good_host(shared_daemon: Daemon, host: str) -> None:
    """A Host of this machine itself, with or without a port, is served."""
    answer = shared_daemon.ask("GET", "/status", headers=(f"Host: {host}",))

    assert answer.status_code == 200


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
def test_a_foreign_host_is_403(shared_daemon: Daemon, host: str) -> None:
    """A Host that is not this machine, however much it looks like it, is 403 and named."""
    answer = shared_daemon.ask("GET", "/status", headers=(f"Host: {host}",))

    assert "Host" in error_of(answer, 403)


@EVERY_REQUEST
@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("Host: evil.example", "evil.example"),
        ("Origin: http://evil.example", "Origin"),
        ("Origin: null", "Origin"),
        *(
            (f"Sec-Fetch-Site: {site}", "Sec-Fetch-Site")
            for site in ("cross-site", "same-site", "", "None", "none, cross-site")
        ),
    ],
)
def test_every_request_is_guarded(
    shared_daemon: Daemon, request_name: str, header: str, told: str
) -> None:
    """A foreign Host or Origin, or a page of another site without one, gets 403 on every path.

    One that is not there is included. Nothing is done, and nothing is allowed to pages.
    """
    before = shared_daemon.events()
    method, target = REQUESTS[request_name]
    body = allocate_body("cid", "web-0")
    answer = shared_daemon.ask(method, target, body, headers=(header,))

    assert told in error_of(answer, 403)
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert before == shared_daemon.events()


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "null",
        "http://evil.example",
        "https://localhost",
        "http://localhost:1",
        "http://localhost.evil.example",
        "http://127.0.0.1",
        "http://localhost/",
        "localhost",
        "file://",
        "chrome-extension://abcdef",
    ],
)
def test_an_origin_that_is_not_the_host_is_403(shared_daemon: Daemon, origin: str) -> None:
    """Anything in Origin but the very host that was asked is 403."""
    answer = shared_daemon.ask("GET", "/status", headers=("Host: localhost", f"Origin: {origin}"))

    assert "Origin" in error_of(answer, 403)


def test_a_page_cannot_tell_whether_a_container_exists(shared_daemon: Daemon) -> None:
    """To an object, an image or a frame of a page, all containers look the same."""
    shared_daemon.allocate("there")
    answers = [
        shared_daemon.ask(
            "GET",
            f"/ip/default/web-0/{container}",
            headers=("Sec-Fetch-Site: cross-site", f"Sec-Fetch-Dest: {kind}"),
        )
        for container in ("there", "none")
        for kind in ("object", "image", "iframe", "document")
    ]
    shared_daemon.release("there")

    assert 1 == len({(answer.status_code, answer.text) for answer in answers})


@pytest.mark.parametrize("site", ["none", "same-origin"])
def test_a_user_and_the_own_page_are_served(shared_daemon: Daemon, site: str) -> None:
    """What a user typed, or what a page of this origin asks for, is served."""
    headers = (f"Sec-Fetch-Site: {site}",)

    assert shared_daemon.ask("GET", "/status", headers=headers).status_code == 200


def test_two_sites_are_refused(shared_daemon: Daemon) -> None:
    """One good word beside a bad one does not make it good."""
    headers = ("Sec-Fetch-Site: none", "Sec-Fetch-Site: cross-site")

    assert "cross-site" in error_of(shared_daemon.ask("GET", "/status", headers=headers), 403)


@pytest.mark.parametrize(
    "data",
    [
        request_bytes("GET", "/status"),
        request_bytes("GET", "/health"),
        request_bytes("GET", "/openapi.json"),
        request_bytes("GET", "/ip/default/web-0/none"),
        request_bytes("GET", "/nowhere"),
        request_bytes("PUT", "/ip"),
        request_bytes("POST", "/ip", b"{}"),
        request_bytes("GET", "/status", headers=("Host: evil.example",)),
        request_bytes("POST", "/ip", b" " * 70_000),
        b"x\r\n\r\n",
    ],
)
def test_no_answer_may_be_read_by_another_site(shared_daemon: Daemon, data: bytes) -> None:
    """Every answer says so, errors too, and that its type is not to be guessed."""
    (answer,) = shared_daemon.send(data)

    assert "same-origin" == answer.headers["cross-origin-resource-policy"]
    assert "nosniff" == answer.headers["x-content-type-options"]
    assert "application/json" == answer.headers["content-type"]
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:9383", "[::1]:9383"])
def test_the_hosts_own_origin_is_served(shared_daemon: Daemon, host: str) -> None:
    """A page that this very daemon might have served may ask."""
    headers = (f"Host: {host}", f"Origin: http://{host}")

    assert shared_daemon.ask("GET", "/status", headers=headers).status_code == 200


@pytest.mark.parametrize("host", ["node.example", "NODE.example:80", "node.example.", "10.0.0.1:1"])
def test_an_allowed_host_is_served(allowing_daemon: Daemon, host: str) -> None:
    """The names of --allowed-hosts are as good as loopback."""
    answer = allowing_daemon.ask("GET", "/status", headers=(f"Host: {host}",))

    assert answer.status_code == 200


@pytest.mark.parametrize("host", ["a.node.example", "example", "10.0.0.2", "evil.example"])
def test_allowing_a_host_allows_no_other(allowing_daemon: Daemon, host: str) -> None:
    """A name that is not one of --allowed-hosts is 403 as before."""
    answer = allowing_daemon.ask("GET", "/status", headers=(f"Host: {host}",))

    assert host in error_of(answer, 403)


def test_an_allowed_host_is_no_allowed_origin(allowing_daemon: Daemon) -> None:
    """A page of an allowed host cannot ask by another name."""
    headers = ("Host: localhost", "Origin: http://node.example")

    error_of(allowing_daemon.ask("GET", "/status", headers=headers), 403)


@pytest.mark.parametrize("path", ["/status", "/nowhere"])
def test_no_host_is_400_in_http_1_1(shared_daemon: Daemon, path: str) -> None:
    """HTTP/1.1 requires Host (RFC 9112, section 3.2): without it, 400, whatever the path."""
    (answer,) = shared_daemon.send(f"GET {path} HTTP/1.1\r\n\r\n".encode())

    assert "Host" in error_of(answer, 400)


def test_no_host_is_served_in_http_1_0(shared_daemon: Daemon) -> None:
    """HTTP/1.0 has no Host, and no browser speaks it."""
    (answer,) = shared_daemon.send(b"GET /status HTTP/1.0\r\n\r\n")

    assert answer.status_code == 200


def test_a_foreign_host_is_403_in_http_1_0(shared_daemon: Daemon) -> None:
    """A Host that is there counts in HTTP/1.0 as well."""
    (answer,) = shared_daemon.send(b"GET /status HTTP/1.0\r\nHost: evil.example\r\n\r\n")

    assert "evil.example" in error_of(answer, 403)


@pytest.mark.parametrize(
    "hosts",
    [
        ("localhost", "evil.example"),
        ("evil.example", "localhost"),
        ("localhost", "localhost"),
        ("localhost", ""),
    ],
    ids=str,
)
def test_several_hosts_are_400(shared_daemon: Daemon, hosts: tuple[str, ...]) -> None:
    """Of several Host headers none is believed, in whichever order they come (RFC 9112, 3.2)."""
    answer = shared_daemon.ask("GET", "/status", headers=tuple(f"Host: {host}" for host in hosts))

    assert "Host" in error_of(answer, 400)


def test_a_refusal_is_not_forgotten(shared_daemon: Daemon) -> None:
    """On one connection, a good Host before and after a foreign one changes nothing for that."""
    good = request_bytes("GET", "/status")
    foreign = request_bytes("GET", "/status", headers=("Host: evil.example",))
    answers = shared_daemon.send(good + foreign + good + foreign, answers=4)

    assert [answer.status_code for answer in answers] == [200, 403, 200, 403]


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ("Host: evil.example",),
        ("Host: ",),
        ("Origin: http://evil.example",),
        ("Host: evil.example", "Origin: null"),
    ],
    ids=str,
)
def test_a_unix_socket_is_not_guarded(unix_daemon: Path, headers: tuple[str, ...]) -> None:
    """No page can talk to a unix socket: Host and Origin may be anything there."""
    data = request_bytes("GET", "/status", headers=headers)
    (answer,) = exchange(unix_daemon, data)

    assert answer.status_code == 200


def test_a_unix_socket_needs_no_host(unix_daemon: Path) -> None:
    """HTTP/1.1 without Host is served on a unix socket, on every path."""
    body = allocate_body("cid", "web-0")
    head = f"POST /ip HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    unknown = b"GET /nowhere HTTP/1.1\r\n\r\n"
    allocated, missing = exchange(unix_daemon, head + body + unknown, answers=2)

    address_of(allocated)
    error_of(missing, 404)
