"""Every answer there is: JSON bodies, and what an error becomes on its way out."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
from sanic import HTTPResponse, Request
from sanic.exceptions import (
    BadRequest,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    RequestTimeout,
    SanicException,
    ServiceUnavailable,
)

from coild.ages import AgeUnknownError
from coild.allocator import NoPoolError, Place
from coild.announcer import RouteHealth
from coild.bodies import BadRequestError
from coild.budget import BusyError, Shared
from coild.by_container import AnotherJournalError, UnknownContainerError
from coild.collection import StaleListError
from coild.compactor import TooSoonError
from coild.deadline import DeadlineError
from coild.framing import FramingError, TooManyFieldsError
from coild.guard import ForbiddenError, MissingHostError
from coild.limits import (
    ARRIVAL_SECONDS,
    BODY_BYTES_MAX,
    COLLECT_BYTES_MAX,
    FREE_BYTES,
    HEADER_BYTES_MAX,
    RESPONSE_SECONDS,
)
from coild.log_limit import LogLimit
from coild.orders import OrderError
from coild.printable import printable
from coild.readiness import Check, failing, verbose
from coild.routes import COLLECT, METHODS
from coild.service import ConflictError, NoAddressError
from journal import CompactionRunsError, JournalError, JournalFullError

logger = logging.getLogger(__name__)

_JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
#: In one piece: each field that Sanic formats costs 1%. No other site may read it, or guess types.
_SAME = b"\r\ncross-origin-resource-policy: same-origin\r\nx-content-type-options: nosniff"
_TYPES = {kind: kind.encode() + _SAME for kind in (_JSON, TEXT)}
_ROUTES = ", ".join(f"{' and '.join(methods)} {path}" for path, methods in METHODS.items())
#: By path, as it is in the request, still percent-encoded.
_ALLOWED = tuple(
    (re.compile(re.sub("<[a-z]+>", "[^/]+", re.escape(path))), ", ".join(methods))
    for path, methods in METHODS.items()
)


class TooManyConnectionsError(Exception):
    """No further connection is served now. It is never raised: the server answers so by itself."""


class NotReadyError(Exception):
    """The daemon cannot do its work now. It is never raised: /livez and /readyz answer so."""


class UnassignedError(Exception):
    """The pod has no address under this container ID."""


#: The status of each error that is meant for clients; any other is a bug, and 500.
STATUS: dict[type[Exception], int] = {
    BadRequestError: 400,
    FramingError: 400,
    TooManyFieldsError: 413,
    MissingHostError: 400,
    ForbiddenError: 403,
    UnassignedError: 404,
    UnknownContainerError: 404,
    AnotherJournalError: 409,
    ConflictError: 409,
    CompactionRunsError: 409,
    StaleListError: 409,
    OrderError: 400,
    AgeUnknownError: 409,
    TooSoonError: 429,
    NoAddressError: 503,
    BusyError: 503,
    DeadlineError: 503,
    TooManyConnectionsError: 503,
    NotReadyError: 503,
    NoPoolError: 500,
}
#: After how many seconds to try again, of errors that say so.
RETRY: dict[type[Exception], int] = {BusyError: 1}


class Failure(msgspec.Struct, frozen=True):
    """The body of every failure: the status of the answer, and what is wrong, for people."""

    status: int
    error: str


class AddressAnswer(msgspec.Struct, frozen=True):
    """The body of an answer that tells the address of a container."""

    address: Annotated[
        str, msgspec.Meta(extra_json_schema={"anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]})
    ]
    status: Literal[200] = 200


class PlacedAnswer(AddressAnswer, frozen=True, kw_only=True):
    """The same and, for who asks, where it lies; empty: of no pool any more, or no gateway."""

    gateway: str | msgspec.UnsetType = msgspec.UNSET
    pool: str | msgspec.UnsetType = msgspec.UNSET
    subnet: str | msgspec.UnsetType = msgspec.UNSET


#: The fields of an answer that are there for who asks for them.
ON_REQUEST = frozenset({"dry-run", "gateway", "pool", "subnet", "unknown"})


class ReleaseAnswer(msgspec.Struct, frozen=True):
    """The address that was released; empty if there was none."""

    address: Annotated[
        str,
        msgspec.Meta(
            extra_json_schema={"anyOf": [{"format": "ipv4"}, {"format": "ipv6"}, {"const": ""}]}
        ),
    ]
    status: Literal[200] = 200


class StatusAnswer(msgspec.Struct, frozen=True, rename="kebab"):
    """The blocks of the node by pool, and the addresses of its containers by container ID."""

    address_blocks: dict[str, list[str]]
    pods: dict[str, str]
    status: Literal[200] = 200


class Health(msgspec.Struct, frozen=True):
    """How the daemon is: whether it can allocate, and whether the blocks' routes are exported."""

    writable: bool
    routes: RouteHealth


class HealthAnswer(Health, frozen=True):
    """How the daemon is, and the sequence of the journal's last durable event."""

    sequence: int
    status: Literal[200] = 200


class LiveAnswer(msgspec.Struct, frozen=True):
    """The loop turns, and the daemon does not end by a failure."""

    status: Literal[200] = 200


class CheckAnswer(msgspec.Struct, frozen=True):
    """How a check came out: whether it is well and, if not, what is wrong."""

    name: str
    ok: bool
    reason: str


class ReadyAnswer(msgspec.Struct, frozen=True):
    """Addresses can be had; some of the checks may tell something all the same."""

    checks: list[CheckAnswer]
    status: Literal[200] = 200


class Answer(HTTPResponse):
    """A response whose few headers are made without a header dictionary's work."""

    __slots__ = ()
    #: What comes after the value of content-type in all answers: the header with the journal's ID.
    common = b""

    @classmethod
    def identify(cls, journal_id: str) -> None:
        """Have all answers of this process tell whose they are: the ID of its one journal."""
        cls.common = b"\r\ncoild-journal: " + journal_id.encode()

    def __init__(self, body: bytes, status: int = 200, content_type: str = _JSON) -> None:
        super().__init__(body, status)
        self.content_type = content_type

    @property
    def processed_headers(self) -> Iterator[tuple[bytes, bytes]]:
        """What Sanic sends: it has just set content-length and connection."""
        headers = self.headers
        yield b"content-type", _TYPES[self.content_type or _JSON] + self.common
        yield b"content-length", b"%d" % headers["content-length"]
        yield b"connection", headers["connection"].encode()


class Refusal(Answer):
    """A failure that says what would be allowed, or when to try again."""

    __slots__ = ("_more",)

    def __init__(self, body: bytes, status: int, more: tuple[tuple[bytes, bytes], ...]) -> None:
        """`more` are headers."""
        super().__init__(body, status)
        self._more = more

    @property
    def processed_headers(self) -> Iterator[tuple[bytes, bytes]]:
        """Those of any answer, and more."""
        yield from super().processed_headers
        yield from self._more


class SharedAnswer(Answer):
    """200 with a long body, which is not copied for each who asks."""

    __slots__ = ("shared",)

    def __init__(self, shared: Shared) -> None:
        # A short one goes with the headers, as in any answer.
        super().__init__(shared.body if len(shared.body) <= FREE_BYTES else b"")
        self.shared = shared

    async def send(
        self,
        data: Any = None,
        end_stream: bool | None = None,  # noqa: FBT001 - Sanic's
    ) -> None:
        """Send the headers, then the body by itself."""
        if self.body:
            await super().send(data, end_stream)
            return
        stream: Any = self.stream
        body = self.shared.body
        self.headers["content-length"] = len(body)
        # All there is of an answer to HEAD.
        whole = bool(stream.head_only)
        await stream.send(b"", end_stream=whole)
        if not whole:
            stream.protocol.unread = self.shared
            await stream.send(body, end_stream=True)


def address_answer(address: str) -> Answer:
    """200 with an address, which needs no escaping: an AddressAnswer or a ReleaseAnswer."""
    return Answer(f'{{"address":"{address}","status":200}}'.encode())


def placed_answer(address: str, place: Place) -> Answer:
    """200 with an address and where it lies."""
    return Answer(
        msgspec.json.encode(
            PlacedAnswer(address, gateway=place.gateway, pool=place.pool, subnet=place.subnet)
        )
    )


def health_answer(health: Health, sequence: int) -> Answer:
    """200 with the daemon's health."""
    return Answer(msgspec.json.encode(HealthAnswer(health.writable, health.routes, sequence)))


def live_answer(failed: str) -> Answer:
    """200, or 503 with why the daemon ends."""
    if failed:
        return failure(STATUS[NotReadyError], failed)
    return Answer(msgspec.json.encode(LiveAnswer()))


def ready_answer(checks: list[Check], *, as_text: bool) -> Answer:
    """200, or 503 with what keeps the daemon from its work; as text, a line for each check."""
    failed = failing(checks)
    status = STATUS[NotReadyError] if failed else 200
    if as_text:
        text = verbose(checks).encode(errors="backslashreplace")
        return Answer(text, status, content_type=TEXT)
    if failed:
        return failure(status, failed)
    told = [CheckAnswer(each.name, not each.reason, each.reason) for each in checks]
    return Answer(msgspec.json.encode(ReadyAnswer(told)))


def failure(status: int, error: str, allow: str = "", retry_seconds: int = 0) -> Answer:
    """The failure response of the API; with `allow`, or with `retry_seconds`, it says so."""
    # What is quoted from a header may be bytes that are no text, which Sanic makes surrogates of.
    error = error.encode(errors="backslashreplace").decode()
    body = msgspec.json.encode(Failure(status, error))
    if allow:
        return Refusal(body, status, ((b"allow", allow.encode()),))
    if retry_seconds:
        return Refusal(body, status, ((b"retry-after", b"%d" % retry_seconds),))
    return Answer(body, status)


def too_many_connections() -> bytes:
    """The whole answer to a connection that is one too many."""
    body = msgspec.json.encode(
        Failure(STATUS[TooManyConnectionsError], "there are too many connections; try again")
    )
    return (
        b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n"
        b"content-type: %b\r\ncontent-length: %d\r\n\r\n%b"
        % (_TYPES[_JSON] + Answer.common, len(body), body)
    )


def status_of(error: type[Exception]) -> int:
    """The status that an error of this type is answered with."""
    if issubclass(error, SanicException):
        return error.status_code
    return STATUS.get(error, 500)


def answer_error(request: Request, error: Exception, about: str, log: LogLimit) -> Answer:
    """The answer to a request that ended in `error`, which is logged as it deserves.

    `about` names whom the request is for.
    """
    asked = f"{request.method} {request.path}" if request.method != "NONE" else "a request"
    asked = printable(f"{asked} for {about}" if about else asked)
    tell = partial(log.log, type(error).__name__, logger)
    if isinstance(error, JournalFullError):
        go_on = "GET goes on, all else" if error.used_up else "DELETE and GET go on, POST"
        text = f"{error}; {go_on} will when there is"
        tell(logging.ERROR, f"refused {asked}: {text}")
        return failure(500, text)
    if isinstance(error, JournalError) and type(error) not in STATUS:
        tell(logging.ERROR, f"failed {asked}: {error}")
        return failure(500, str(error))
    if type(error) not in STATUS and not isinstance(error, SanicException):
        tell(logging.ERROR, f"bug: {asked}", error)
        what = f"{type(error).__name__}; the log has the details"
        return failure(500, f"internal error, please report it: {what}")
    answer, text = _refusal(request, error)
    tell(logging.INFO, f"refused {asked}: {answer.status} {printable(text)}")
    return answer


def _refusal(request: Request, error: Exception) -> tuple[Answer, str]:
    """The answer to a request that is the client's to mend, or to repeat, and why it is that."""
    if type(error) in STATUS:
        text, status = str(error), STATUS[type(error)]
        seconds = getattr(error, "retry_seconds", 0) or RETRY.get(type(error), 0)
        return failure(status, text, retry_seconds=seconds), text
    if isinstance(error, NotFound | MethodNotAllowed):
        return _answer_no_route(request), "there is no such route"
    text = _words(error)
    return failure(status_of(type(error)), text), text


def _answer_no_route(request: Request) -> Answer:
    """404 or 405. Sanic's router confuses them at a final slash, and may not know what to allow."""
    for path, methods in _ALLOWED:
        if path.fullmatch(request.path):
            text = f"{request.method} is not allowed for {request.path}; there are {_ROUTES}"
            return failure(405, text, allow=methods)
    return failure(404, f"there is no {request.path}; there are {_ROUTES}")


def _words(error: Exception) -> str:
    """What Sanic found wrong, in the words of this API."""
    match error:
        case BadRequest() if str(error) == "Bad Request":
            return "this is no HTTP/1.1: the request line or a header is malformed or is repeated"
        case PayloadTooLarge():
            return (
                f"the request is too large: {BODY_BYTES_MAX} bytes of body (for {COLLECT} "
                f"{COLLECT_BYTES_MAX}) and {HEADER_BYTES_MAX} of header at most"
            )
        case RequestTimeout():
            return f"the request did not arrive within {ARRIVAL_SECONDS} s; send it again"
        case ServiceUnavailable():
            return f"there was no answer within {RESPONSE_SECONDS} s; ask again, or see the log"
    return str(error) or type(error).__name__
