"""Answers on their way out: bodies and headers, and what an error becomes."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

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

from coild.http.budget import Budget, Shared
from coild.http.errors import ERRORS, NotReadyError, TooManyConnectionsError, status_of
from coild.http.messages import (
    CheckAnswer,
    CollectionAnswer,
    ContainerAnswer,
    Failure,
    LiveAnswer,
    ReadyAnswer,
    Released,
    ReleasesAnswer,
)
from coild.http.operations import COLLECT, ROUTES, allowed
from coild.http.readiness import Check, failing, verbose
from coild.http.slices import encode_inside
from coild.process.log_limit import LogLimit
from coild.rules.holding import Holding
from coild.rules.limits import (
    ARRIVAL_SECONDS,
    BODY_BYTES_MAX,
    COLLECT_BYTES_MAX,
    FREE_BYTES,
    HEADER_BYTES_MAX,
    RESPONSE_SECONDS,
)
from coild.rules.printable import printable
from journal import JournalError, JournalFullError

logger = logging.getLogger(__name__)

_JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
#: What a Released takes at least.
_RELEASED_BYTES_MIN = 80
#: In one piece: each field that Sanic formats costs 1%. No other site may read it, or guess types.
_SAME = b"\r\ncross-origin-resource-policy: same-origin\r\nx-content-type-options: nosniff"
_TYPES = {kind: kind.encode() + _SAME for kind in (_JSON, TEXT)}


class Answer(HTTPResponse):
    """A response whose few headers are made without a header dictionary's work."""

    __slots__ = ("_more",)
    #: What comes after the value of content-type in all answers: the header with the journal's ID.
    common = b""

    @classmethod
    def identify(cls, journal_id: str) -> None:
        """Have all answers of this process tell whose they are: the ID of its one journal."""
        cls.common = b"\r\ncoild-journal: " + journal_id.encode()

    def __init__(
        self,
        body: bytes,
        status: int = 200,
        content_type: str = _JSON,
        more: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        """`more` are headers, of a failure that says what is allowed, or when to try again."""
        super().__init__(body, status)
        self.content_type = content_type
        self._more = more

    @property
    def processed_headers(self) -> Iterator[tuple[bytes, bytes]]:
        """The headers that Sanic sends: it has just set content-length and connection."""
        headers = self.headers
        yield b"content-type", _TYPES[self.content_type or _JSON] + self.common
        yield b"content-length", b"%d" % headers["content-length"]
        yield b"connection", headers["connection"].encode()
        yield from self._more


class SharedAnswer(Answer):
    """200 with a long body, which is not copied for each request."""

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


def json_answer(body: msgspec.Struct) -> Answer:
    """200 with a body."""
    return Answer(msgspec.json.encode(body))


def releases_answer(released: Iterable[tuple[str, Holding]]) -> Answer:
    """200 with the containers and what they held."""
    return json_answer(ReleasesAnswer(_released(released)))


def container_answer(container_id: str, held: Holding) -> Answer:
    """200 with what the container holds."""
    names = held.pod_name, held.pod_namespace, held.network
    return json_answer(ContainerAnswer(held.address, container_id, *names))


def check_room(released: Sequence[tuple[str, Holding]], budget: Budget) -> None:
    """Raises BusyError if the answer that names these has surely no room now."""
    size = _RELEASED_BYTES_MIN * len(released)
    if size > FREE_BYTES:
        budget.check(min(size, budget.bytes_max))


async def collection_body(
    released: Sequence[tuple[str, Holding]], unknown: list[str], *, dry_run: bool
) -> bytes:
    """The JSON of a CollectionAnswer."""
    begin = b'{"released":['
    # The rest of the object is that of an answer in which nothing was released.
    rest = msgspec.json.encode(
        CollectionAnswer([], unknown or msgspec.UNSET, dry_run or msgspec.UNSET)
    )
    return b"".join((begin, await encode_inside(released, _released), rest.removeprefix(begin)))


def _released(released: Iterable[tuple[str, Holding]]) -> list[Released]:
    return [
        Released(held.address, container_id, held.pod_name, held.pod_namespace)
        for container_id, held in released
    ]


def live_answer(failed: str) -> Answer:
    """200, or 503 with why the daemon ends."""
    if failed:
        return failure(status_of(NotReadyError), failed)
    return json_answer(LiveAnswer())


def ready_answer(checks: list[Check], *, as_text: bool) -> Answer:
    """200, or 503 with what keeps the daemon from its work; as text, a line for each check."""
    failed = failing(checks)
    status = status_of(NotReadyError) if failed else 200
    if as_text:
        text = verbose(checks).encode(errors="backslashreplace")
        return Answer(text, status, content_type=TEXT)
    if failed:
        return failure(status, failed)
    told = [CheckAnswer(each.name, not each.reason, each.reason) for each in checks]
    return json_answer(ReadyAnswer(told))


def failure(status: int, error: str, allow: str = "", retry_seconds: int = 0) -> Answer:
    """The failure response of the API; with `allow`, or with `retry_seconds`, it says so."""
    # A quoted header may have bytes that are not text, which Sanic makes surrogates of.
    error = error.encode(errors="backslashreplace").decode()
    body = msgspec.json.encode(Failure(status, error))
    if allow:
        return Answer(body, status, more=((b"allow", allow.encode()),))
    if retry_seconds:
        return Answer(body, status, more=((b"retry-after", b"%d" % retry_seconds),))
    return Answer(body, status)


def too_many_connections() -> bytes:
    """The whole answer to a connection that is one too many."""
    body = msgspec.json.encode(
        Failure(status_of(TooManyConnectionsError), "there are too many connections; try again")
    )
    return (
        b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n"
        b"content-type: %b\r\ncontent-length: %d\r\n\r\n%b"
        % (_TYPES[_JSON] + Answer.common, len(body), body)
    )


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
    kind = ERRORS.get(type(error))
    if isinstance(error, JournalError) and (kind is None or type(error) is JournalError):
        tell(logging.ERROR, f"failed {asked}: {error}")
        return failure(500, str(error))
    if (kind is None or type(error) is Exception) and not isinstance(error, SanicException):
        tell(logging.ERROR, f"bug: {asked}", error)
        what = f"{type(error).__name__}; the log has the details"
        return failure(500, f"internal error, please report it: {what}")
    answer, text = _refusal(request, error)
    tell(logging.INFO, f"refused {asked}: {answer.status} {printable(text)}")
    return answer


def _refusal(request: Request, error: Exception) -> tuple[Answer, str]:
    """The answer to a request that is the client's to mend, or to repeat, and why it is that."""
    if isinstance(error, NotFound | MethodNotAllowed):
        return _answer_no_route(request), "there is no such route"
    if not isinstance(error, SanicException):
        kind = ERRORS[type(error)]
        seconds = getattr(error, "retry_seconds", 0) or kind.retry_seconds
        return failure(kind.status, str(error), retry_seconds=seconds), str(error)
    text = _words(error)
    return failure(status_of(type(error)), text), text


def _answer_no_route(request: Request) -> Answer:
    """404 or 405. Sanic's router confuses them at a final slash, and may not know what to allow."""
    if methods := allowed(request.path):
        text = f"{request.method} is not allowed for {request.path}; there are {ROUTES}"
        return failure(405, text, allow=methods)
    return failure(404, f"there is no {request.path}; there are {ROUTES}")


def _words(error: Exception) -> str:
    """An error that Sanic found, in the words of this API."""
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
