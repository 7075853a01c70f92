"""HTTP byte by byte: what a client library would refuse to send, and clients without one."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import httpx
import msgspec

#: No answer takes so long; a test that waits this long for a byte fails.
TIMEOUT_SECONDS = 20.0


def request_bytes(
    method: str, target: str, body: bytes | None = None, *, headers: tuple[str, ...] = ()
) -> bytes:
    """A request as it goes over the wire; Host is localhost unless `headers` has another."""
    lines = [f"{method} {target} HTTP/1.1", *headers]
    if not any(line.lower().startswith("host:") for line in headers):
        lines.append("Host: localhost")
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


def allocate_body(container_id: str, pod: str, namespace: str = "default", **more: Any) -> bytes:
    """The body of POST /ip."""
    return msgspec.json.encode(
        {"pod-namespace": namespace, "pod-name": pod, "container-id": container_id, **more}
    )


def target_of(container_id: str, pod: str, namespace: str = "default") -> str:
    """The target of GET and DELETE /ip/…, with all escaped that may be."""
    return f"/ip/{quote(namespace, safe='')}/{quote(pod, safe='')}/{quote(container_id, safe='')}"


def connect(address: tuple[str, int] | Path) -> socket.socket:
    """A connection to a TCP address or a unix socket."""
    if isinstance(address, Path):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(TIMEOUT_SECONDS)
        sock.connect(str(address))
        return sock
    sock = socket.create_connection(address, TIMEOUT_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def exchange(
    address: tuple[str, int] | Path,
    data: bytes,
    *,
    answers: int = 1,
    piece: int | None = None,
    hang_up: bool = False,
) -> list[httpx.Response]:
    """Send `data`, and read so many answers, fewer if the server closes the connection first.

    With `piece`, send so many bytes at a time. With `hang_up`, shut down the sending side after
    that. Raises TimeoutError if the server neither answers nor closes.
    """
    received = b""
    with connect(address) as sock:
        # A server may answer and close while it is still being sent to.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for start in range(0, len(data), piece or len(data) or 1):
                sock.sendall(data[start : start + (piece or len(data))])
        if hang_up:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while len(parse_answers(received)) < answers and (more := sock.recv(65536)):
                received += more
    return parse_answers(received)


def parse_answers(data: bytes) -> list[httpx.Response]:
    """The complete answers at the start of `data`."""
    return split_answers(data)[0]


def split_answers(data: bytes) -> tuple[list[httpx.Response], bytes]:
    """The complete answers at the start of `data`, none of them to HEAD, and what follows."""
    found: list[httpx.Response] = []
    while b"\r\n\r\n" in data:
        head, _, rest = data.partition(b"\r\n\r\n")
        status_line, *lines = head.decode("latin-1").split("\r\n")
        version, status, _reason = status_line.split(" ", 2)
        assert version == "HTTP/1.1"
        headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
        if int(status) == 100:
            data = rest
            continue
        size = int(dict(headers)["content-length"])
        if len(rest) < size:
            break
        found.append(httpx.Response(int(status), headers=headers, content=rest[:size]))
        data = rest[size:]
    return found, data


def error_of(response: httpx.Response, status: int) -> str:
    """The text of a failure, after checking that it has the form of the API and this status."""
    assert status == response.status_code, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert {"status", "error"} == set(body)
    assert status == body["status"]
    text = body["error"]
    assert isinstance(text, str)
    assert text
    return text


def address_of(response: httpx.Response) -> str:
    """The address in an answer, after checking that it is a success in the form of the API."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert {"address", "status"} == set(body)
    assert body["status"] == 200
    address = body["address"]
    assert isinstance(address, str)
    return address


class AsyncConnection:
    """A keep-alive connection of one client among many."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, address: tuple[str, int]) -> Self:
        """Connect."""
        return cls(*await asyncio.open_connection(*address))

    async def ask(self, data: bytes) -> tuple[int, dict[str, Any]]:
        """Send a request, and read its answer. Raises OSError and EOFError if there is none."""
        self.writer.write(data)
        async with asyncio.timeout(TIMEOUT_SECONDS):
            head = await self._reader.readuntil(b"\r\n\r\n")
            size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            body = await self._reader.readexactly(size)
        return int(head.split(b" ", 2)[1]), msgspec.json.decode(body)

    def drop(self, *, reset: bool = False) -> None:
        """Close the connection; with `reset`, by a reset."""
        if reset:
            self.writer.transport.abort()
        else:
            self.writer.close()
