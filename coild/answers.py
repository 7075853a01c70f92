"""Every answer there is: JSON bodies, and what an error becomes on its way out."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

import msgspec
from sanic import HTTPResponse, Request
from sanic.exceptions import (
    BadRequest,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    SanicException,
)

from coild.allocator import NoPoolError
from coild.compactor import Compaction
from coild.guard import ForbiddenError
from coild.limits import BODY_BYTES_MAX, HEADER_BYTES_MAX
from coild.orders import OrderError
from coild.service import ConflictError, NoAddressError
from journal import CompactionRunsError, JournalError, JournalFullError

logger = logging.getLogger(__name__)

_JSON = b"application/json"
COMPACT_PATH = "/compact"
_ROUTES = (
    "GET /status, POST /ip, GET and DELETE /ip/<namespace>/<pod>/<container-id>, POST /compact"
)
#: The methods of each path, as it comes in the request, still percent-encoded.
_METHODS = (
    (re.compile("/status"), "GET"),
    (re.compile("/ip"), "POST"),
    (re.compile(COMPACT_PATH), "POST"),
    (re.compile("/ip(/[^/]+){3}"), "GET, DELETE"),
)


class BadRequestError(Exception):
    """What the client sent is not what the API takes."""


class UnassignedError(Exception):
    """The pod has no address under this container ID."""


#: The status of each error that is meant for clients; any other is a bug, and 500.
_STATUS: dict[type[Exception], int] = {
    BadRequestError: 400,
    ForbiddenError: 403,
    UnassignedError: 404,
    ConflictError: 409,
    CompactionRunsError: 409,
    OrderError: 400,
    NoAddressError: 503,
    NoPoolError: 500,
}


class Answer(HTTPResponse):
    """A JSON response whose few headers are made without a header dictionary's work."""

    __slots__ = ()

    def __init__(self, body: bytes, status: int = 200, allow: str = "") -> None:
        """`allow` is the value of the Allow header of a 405."""
        super().__init__(body, status)
        self.content_type = "application/json"
        if allow:
            self.headers["allow"] = allow

    @property
    def processed_headers(self) -> Iterator[tuple[bytes, bytes]]:
        """What Sanic sends: it has just set content-length and connection."""
        headers = self.headers
        yield b"content-type", _JSON
        yield b"content-length", b"%d" % headers["content-length"]
        yield b"connection", headers["connection"].encode()
        if "allow" in headers:
            yield b"allow", headers["allow"].encode()


def address_answer(address: str) -> Answer:
    """200 with an address, which needs no escaping."""
    return Answer(f'{{"address":"{address}","status":200}}'.encode())


def compaction_answer(compaction: Compaction) -> Answer:
    """200 with what a compaction did."""
    return Answer(msgspec.json.encode({**msgspec.to_builtins(compaction), "status": 200}))


def failure(status: int, error: str, allow: str = "") -> Answer:
    """The failure response of the API."""
    return Answer(msgspec.json.encode({"status": status, "error": error}), status, allow)


def answer_error(request: Request, error: Exception) -> Answer:
    """The answer to a request that ended in `error`, which is logged as it deserves."""
    asked = f"{request.method} {request.path}"
    if isinstance(error, JournalFullError):
        text = f"{error}; DELETE and GET go on, POST will when there is"
        logger.error("refused %s: %s", asked, text)
        return failure(500, text)
    if isinstance(error, JournalError) and type(error) not in _STATUS:
        logger.error("failed %s: %s", asked, error)
        return failure(500, str(error))
    status = _STATUS.get(type(error))
    if status is not None:
        logger.info("refused %s: %d %s", asked, status, _one_line(str(error)))
        return failure(status, str(error))
    if isinstance(error, NotFound | MethodNotAllowed):
        return _answer_no_route(request)
    if isinstance(error, SanicException):
        return failure(error.status_code, _words(error))
    logger.error("bug: %s", asked, exc_info=error)
    return failure(
        500, f"internal error, please report it: {type(error).__name__}; the log has the details"
    )


def _one_line(text: str) -> str:
    """`text` as it can stand in a log: names come from clients, decoded, line breaks and all."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def _answer_no_route(request: Request) -> Answer:
    """404 or 405. Sanic's router confuses them at a final slash, and may not know what to allow."""
    for path, methods in _METHODS:
        if path.fullmatch(request.path):
            text = f"{request.method} is not allowed for {request.path}; there are {_ROUTES}"
            return failure(405, text, allow=methods)
    return failure(404, f"there is no {request.path}; there are {_ROUTES}")


def _words(error: SanicException) -> str:
    """What Sanic found wrong, in the words of this API."""
    match error:
        case BadRequest() if str(error) == "Bad Request":
            return "this is no HTTP/1.1: the request line or a header is malformed or is repeated"
        case PayloadTooLarge():
            return (
                f"the request is too large: {BODY_BYTES_MAX} bytes of body and "
                f"{HEADER_BYTES_MAX} of header at most"
            )
    return str(error) or type(error).__name__
