"""A client for one request to coild, over TCP or a unix socket, with a deadline."""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, AF_UNIX, SO_PEERCRED, SOCK_STREAM, SOL_SOCKET, socket
from posix import geteuid, readlink, stat
from sys import byteorder
from time import monotonic, sleep

from tools.cni.addresses import version_of
from tools.cni.codec import decode, encode
from tools.cni.errors import NoAnswerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_CHUNK = 65536
#: The longest answer is that of a GC, which names some 200,000 addresses at most.
_ANSWER_BYTES_MAX = 64 * 1024 * 1024
#: Python refuses to parse numbers of thousands of digits.
_LENGTH_DIGITS_MAX = 10
#: A unix socket whose queue is full fails at once instead of waiting.
_RETRY_SECONDS = 0.01
#: Characters that a path has as they are (RFC 3986, section 2.3); others are percent-encoded.
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


_JOURNAL_DIGITS = 32
_HEXADECIMAL = frozenset(b"0123456789abcdef")


class Coild:
    """The address of coild, and the deadline for its answers.

    `journal` is the ID of its journal, which each answer has: empty before the first.
    """

    def __init__(
        self, where: str, places: tuple[tuple[int, Any], ...], host: str, deadline: float
    ) -> None:
        """`places` are families, each with what connect() takes in it; they are tried in turn.

        `deadline` is of time.monotonic().
        """
        self.where = where
        self.deadline = deadline
        self.journal = ""
        self._places = places
        self._host = host

    def until(self, deadline: float) -> Coild:
        """A copy with this deadline, if it is sooner."""
        sooner = min(deadline, self.deadline)
        same = Coild(self.where, self._places, self._host, sooner)
        same.journal = self.journal
        return same

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
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
            # What is read after it is not carried out: by then the runtime has sent DEL.
            f"Coild-Deadline: {int(self.deadline * 1e9)}{_clock_name()}\r\n\r\n"
        )
        sock = self._connected()
        try:
            sock.settimeout(self.remaining())
            sock.sendall(head.encode() + content)
            return self._answer(sock)
        except OSError as error:
            raise NoAnswerError(f"no answer from coild at {self.where}: {_reason(error)}") from None
        finally:
            sock.close()

    def _connected(self) -> socket:
        """A connection to the first place that accepts one. Raises NoAnswerError.

        From then on only that place is asked: another coild may listen at another place.
        """
        reasons = []
        for place in self._places:
            try:
                sock = self._connect(*place)
            except OSError as error:
                reasons.append(_reason(error))
            else:
                self._places = (place,)
                return sock
        told = " and ".join(dict.fromkeys(reasons))
        raise NoAnswerError(f"no answer from coild at {self.where}: {told}")

    def _connect(self, family: int, address: Any) -> socket:
        sock = socket(family, SOCK_STREAM)
        try:
            while True:
                sock.settimeout(self.remaining())
                try:
                    sock.connect(address)
                except BlockingIOError:
                    sleep(_RETRY_SECONDS)
                else:
                    break
            if family == AF_UNIX:
                self._check_peer(sock, address)
        except (OSError, NoAnswerError):
            sock.close()
            raise
        return sock

    def _check_peer(self, sock: socket, path: str) -> None:
        """The listening process must be of root, this user, or the directory's owner."""
        peer = int.from_bytes(sock.getsockopt(SOL_SOCKET, SO_PEERCRED, 12)[4:8], byteorder)
        if peer in {0, geteuid()}:
            return
        directory = stat(path.rpartition("/")[0] or "/")
        if peer != directory.st_uid or directory.st_mode & 0o022:
            raise NoAnswerError(
                f"{self.where} is not coild's: user {peer} listens there, who is neither root nor "
                "the owner of a directory that nobody else can write"
            )

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
        if (
            len(words) < 2
            or not words[0].startswith(b"HTTP/1.")
            or not words[1].isdigit()
            or len(words[1]) != 3
        ):
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
        journal = _field(fields, b"coild-journal")
        if len(journal) != _JOURNAL_DIGITS or not _HEXADECIMAL.issuperset(journal):
            raise self._strange("it has no header Coild-Journal (or coild is older than this)")
        self.journal = journal.decode()
        return int(words[1]), body

    def _strange(self, what: str) -> NoAnswerError:
        return NoAnswerError(f"the answer from {self.where} is not coild's: {what}")


def _reason(error: OSError) -> str:
    # A time-out is an OSError without a number.
    return error.strerror or "no answer in time"


def _length(fields: list[bytes]) -> int | None:
    """The value of Content-Length."""
    value = _field(fields, b"content-length")
    return int(value) if value.isdigit() and len(value) <= _LENGTH_DIGITS_MAX else None


def _field(fields: list[bytes], wanted: bytes) -> bytes:
    """The value of a header; empty if there is none."""
    for field in fields:
        name, _, value = field.partition(b":")
        if name.lower() == wanted:
            return value.strip()
    return b""


def _clock_name() -> str:
    """The name of the clock of time.monotonic(): boot ID and time namespace, after a space.

    Empty if it is not known. The same as in `coild.allocation.deadline`, which imports more.
    """
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:  # noqa: PTH123 - pathlib takes longer than this
            boot = file.read(64).decode().strip()
        try:
            namespace = readlink("/proc/self/ns/time")
        except FileNotFoundError:
            namespace = "time:[]"  # a kernel before 5.6 has one clock
    except (OSError, ValueError):
        return " unknown"
    return f" {boot}/{namespace}"


def is_encodable(text: str) -> bool:
    """Whether the text can be encoded: JSON can write half of a character (a lone surrogate)."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def locate(text: str, deadline: float) -> Coild:
    """Coild at `http://HOST:PORT` or `unix:/PATH`. Raises ValueError, with the rule."""
    if text.startswith("unix:/"):
        path = text[5:]
        if "\0" in path or not is_encodable(path) or len(path.encode()) > 107:
            raise ValueError(f"{text!r} is no path of a socket: at most 107 bytes, without NUL")
        return Coild(text, ((AF_UNIX, path),), "localhost", deadline)
    rule = "an address like http://127.0.0.1:9383, http://[::1]:9383 or unix:/run/coild/coild.sock"
    host, colon, port = text.removesuffix("/").partition("http://")[2].rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    address = host[1:-1] if bracketed else host
    number = int(port) if port.isascii() and port.isdigit() and len(port) < 6 else 0
    known = host == "localhost" or version_of(address) == (6 if bracketed else 4)
    if not (text.startswith("http://") and colon and known and 0 < number < 65536):
        raise ValueError(f"{text!r} must be {rule}: an IP address or localhost, and a port")
    places: tuple[tuple[int, Any], ...] = ((AF_INET6 if bracketed else AF_INET, (address, number)),)
    if host == "localhost":
        # As in coild: both families, but not every machine has both.
        places = (AF_INET, ("127.0.0.1", number)), (AF_INET6, ("::1", number))
    return Coild(text, places, f"{host}:{port}", deadline)


def container_path(key: str) -> str:
    """The path of GET for one container, whatever its pod."""
    return f"/containers/{quoted(key)}"


def holder_path(namespace: str, pod: str, key: str) -> str:
    """The path of GET and DELETE for one container of a pod."""
    return f"/ip/{quoted(namespace)}/{quoted(pod)}/{quoted(key)}"


def quoted(text: str) -> str:
    """The text as one part of a path."""
    if text in {".", ".."}:
        # Some servers interpret them as relative path segments.
        return text.replace(".", "%2E")
    data = text.encode()
    return "".join([chr(byte) if byte in _UNRESERVED else f"%{byte:02X}" for byte in data])
