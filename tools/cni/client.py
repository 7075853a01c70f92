"""One request to coild, and its answer, over TCP or a unix socket, before a deadline."""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, AF_UNIX, SOCK_STREAM, socket
from time import monotonic, sleep

from tools.cni.addresses import version_of
from tools.cni.codec import decode, encode
from tools.cni.errors import NoAnswerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_CHUNK = 65536
#: No answer is longer: a garbage collection's names some 200,000 addresses at most.
_ANSWER_BYTES_MAX = 64 * 1024 * 1024
#: A unix socket whose queue is full says so at once, rather than let one wait.
_RETRY_SECONDS = 0.01
#: What a path takes as it is (RFC 3986, section 2.3); all else is percent-encoded.
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class Coild:
    """Where coild is, and until when an answer is waited for."""

    def __init__(self, where: str, family: int, address: Any, host: str, deadline: float) -> None:
        """`address` is what connect() takes in this family; `deadline` is of time.monotonic()."""
        self.where = where
        self.deadline = deadline
        self._family = family
        self._address = address
        self._host = host

    def until(self, deadline: float) -> Coild:
        """The same with another deadline, if that is sooner."""
        sooner = min(deadline, self.deadline)
        return Coild(self.where, self._family, self._address, self._host, sooner)

    def remaining(self) -> float:
        """Seconds until the deadline. Raises NoAnswerError if it is over."""
        left = self.deadline - monotonic()
        if left <= 0:
            raise NoAnswerError(f"no answer from coild at {self.where} in time")
        return left

    def ask(self, method: str, target: str, body: Any = None) -> tuple[int, dict[str, Any]]:
        """The status and the body of the answer, which is a JSON object. Raises NoAnswerError."""
        content = b"" if body is None else encode(body).encode()
        head = (
            f"{method} {target} HTTP/1.1\r\nHost: {self._host}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        sock = socket(self._family, SOCK_STREAM)
        try:
            self._connect(sock)
            sock.settimeout(self.remaining())
            sock.sendall(head.encode() + content)
            return self._answer(sock)
        except OSError as error:
            # A time-out is one, without a number.
            reason = error.strerror or "no answer in time"
            raise NoAnswerError(f"no answer from coild at {self.where}: {reason}") from None
        finally:
            sock.close()

    def _connect(self, sock: socket) -> None:
        while True:
            sock.settimeout(self.remaining())
            try:
                sock.connect(self._address)
            except BlockingIOError:
                sleep(_RETRY_SECONDS)
            else:
                return

    def _receive(self, sock: socket) -> bytes:
        sock.settimeout(self.remaining())
        return sock.recv(_CHUNK)

    def _answer(self, sock: socket) -> tuple[int, dict[str, Any]]:
        received = b""
        while b"\r\n\r\n" not in received:
            more = self._receive(sock)
            if not more or len(received) > _CHUNK:
                raise self._strange("it is no HTTP answer")
            received += more
        head, _, rest = received.partition(b"\r\n\r\n")
        first, *fields = head.split(b"\r\n")
        words = first.split(b" ", 2)
        if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
            raise self._strange("it is no HTTP answer")
        length = _length(fields)
        if length is None or length > _ANSWER_BYTES_MAX:
            raise self._strange("it does not say its length")
        parts = [rest]
        missing = length - len(rest)
        while missing > 0:
            more = self._receive(sock)
            if not more:
                raise self._strange("it ends too soon")
            parts.append(more)
            missing -= len(more)
        try:
            body = decode(b"".join(parts)[:length])
        except ValueError as error:
            raise self._strange(f"it is no JSON: {error}") from None
        if not isinstance(body, dict):
            raise self._strange("it is no JSON object")
        return int(words[1]), body

    def _strange(self, what: str) -> NoAnswerError:
        return NoAnswerError(f"the answer from {self.where} is not coild's: {what}")


def _length(fields: list[bytes]) -> int | None:
    """The value of Content-Length."""
    for field in fields:
        name, _, value = field.partition(b":")
        if name.lower() == b"content-length" and value.strip().isdigit():
            return int(value)
    return None


def locate(text: str, deadline: float) -> Coild:
    """Coild at `http://HOST:PORT` or `unix:/PATH`. Raises ValueError, with the rule."""
    if text.startswith("unix:/"):
        path = text[5:]
        if "\0" in path or len(path.encode(errors="replace")) > 107:
            raise ValueError(f"{text!r} is no path of a socket: at most 107 bytes, without NUL")
        return Coild(text, AF_UNIX, path, "localhost", deadline)
    rule = "an address like http://127.0.0.1:9383, http://[::1]:9383 or unix:/run/coild/coild.sock"
    host, colon, port = text.removesuffix("/").partition("http://")[2].rpartition(":")
    name = "127.0.0.1" if host == "localhost" else host
    bracketed = name.startswith("[") and name.endswith("]")
    version = version_of(name[1:-1] if bracketed else name)
    number = int(port) if port.isascii() and port.isdigit() and len(port) < 6 else 0
    known = text.startswith("http://") and colon and version == (6 if bracketed else 4)
    if not known or not 0 < number < 65536:
        raise ValueError(f"{text!r} must be {rule}: an IP address or localhost, and a port")
    if bracketed:
        return Coild(text, AF_INET6, (name[1:-1], number), f"{host}:{port}", deadline)
    return Coild(text, AF_INET, (name, number), f"{host}:{port}", deadline)


def holder_path(namespace: str, pod: str, key: str) -> str:
    """The path of GET and DELETE for one container of a pod."""
    return f"/ip/{_quoted(namespace)}/{_quoted(pod)}/{_quoted(key)}"


def _quoted(text: str) -> str:
    if text in {".", ".."}:
        # Some servers take them for steps in the path.
        return text.replace(".", "%2E")
    data = text.encode()
    return "".join([chr(byte) if byte in _UNRESERVED else f"%{byte:02X}" for byte in data])
