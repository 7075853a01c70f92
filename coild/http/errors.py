"""Every error that a request may end in: its status, when it comes, and what it may say.

One table: the answers, the log and the OpenAPI document go by it.
"""

from __future__ import annotations

from typing import NamedTuple

from sanic.exceptions import (
    BadRequest,
    ExpectationFailed,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    RequestTimeout,
    SanicException,
    ServiceUnavailable,
)

from coild.allocation.deadline import DeadlineError
from coild.allocation.recent_allocations import StaleListError
from coild.allocation.service import ConflictError, NoAddressError
from coild.http.bodies import BadRequestError
from coild.http.budget import BusyError
from coild.http.framing import FramingError, TooManyFieldsError
from coild.http.guard import ForbiddenError, MissingHostError
from coild.rules.allocator import NoPoolError
from coild.rules.limits import ARRIVAL_SECONDS, RESPONSE_SECONDS
from coild.upkeep.ages import AgeUnknownError
from coild.upkeep.compactor import TooSoonError
from coild.upkeep.prune_orders import OrderError
from journal import CompactionRunsError, JournalError, JournalFullError


class TooManyConnectionsError(Exception):
    """No further connection is served now. It is never raised: the server answers so by itself."""


class NotReadyError(Exception):
    """The daemon cannot do its work now. It is never raised: /livez and /readyz answer so."""


class UnassignedError(Exception):
    """The pod has no address under this container ID."""


class UnknownContainerError(Exception):
    """The container has no address."""


class AnotherJournalError(Exception):
    """The release is for the daemon of another journal."""


class Kind(NamedTuple):
    """A kind of error, as clients see it."""

    status: int
    #: When it comes, for the document.
    when: str
    #: What its text may be, for the document.
    example: str
    #: After how many seconds to try again; 0 if that is not known.
    retry_seconds: int = 0


#: An error that is not here, nor Sanic's, is a bug: 500, as Exception.
ERRORS: dict[type[Exception], Kind] = {
    BadRequestError: Kind(
        400, "The body or the path is not what the API takes.", "pod-name is missing"
    ),
    MissingHostError: Kind(400, "There is no Host, or more than one.", "there is no Host header"),
    FramingError: Kind(
        400,
        "Where the request ends, or whom it is for, is not said in one way only (RFC 9112).",
        "a header has white space before its colon",
    ),
    TooManyFieldsError: Kind(
        413, "The request has too many header fields.", "more than 64 header fields"
    ),
    BadRequest: Kind(
        BadRequest.status_code,
        "The request is no HTTP/1.1.",
        "this is no HTTP/1.1: a header is malformed",
    ),
    OrderError: Kind(400, "There is no such order.", "an order is named by 32 hexadecimal digits"),
    ForbiddenError: Kind(
        403,
        "Host, Origin or Sec-Fetch-Site is foreign: a web page may be behind the request.",
        "Host is 'web.example', which is not this machine; allow it with --allowed-hosts",
    ),
    UnassignedError: Kind(
        404,
        "The pod has no address under this container ID.",
        "pod default/web-0 has no address under container ID c1",
    ),
    UnknownContainerError: Kind(
        404, "The container has no address.", "container c1 has no address"
    ),
    AnotherJournalError: Kind(
        409,
        "The release is for the daemon of another journal.",
        "the release is for the daemon of another journal: nothing was released",
    ),
    NotFound: Kind(NotFound.status_code, "There is no such path.", "there is no /nowhere"),
    MethodNotAllowed: Kind(
        MethodNotAllowed.status_code,
        "The path has no such method; `Allow` names those it has.",
        "PUT is not allowed for /ip",
    ),
    RequestTimeout: Kind(
        RequestTimeout.status_code,
        f"The request took longer than {ARRIVAL_SECONDS} s to arrive.",
        "the request did not arrive in time",
    ),
    ConflictError: Kind(
        409, "The container holds an address already.", "container c1 holds 10.64.0.0"
    ),
    CompactionRunsError: Kind(
        409, "Another compaction is at work.", "another compaction is at work"
    ),
    AgeUnknownError: Kind(
        409,
        "The order is to lose old history, and the clocks differ by more than a day.",
        "how old history is cannot be told: the system's clock says 2026-11-28T07:00:00.000000000Z",
    ),
    TooSoonError: Kind(
        429,
        "Another one was asked for, without an order, within a minute; see `Retry-After`.",
        "a compaction was asked for less than 60 s ago; the next may be in 48 s",
    ),
    StaleListError: Kind(
        409,
        "The sequence is too old to say what was allocated after it, or is not of this journal.",
        "the list of what is valid was taken at sequence 3; ask for the sequence again",
    ),
    PayloadTooLarge: Kind(
        PayloadTooLarge.status_code, "The request is too large.", "the request is too large"
    ),
    ExpectationFailed: Kind(
        ExpectationFailed.status_code, "Expect is not 100-continue.", "Unknown Expect: miracles"
    ),
    NoPoolError: Kind(
        500, "No pool is configured for the namespace.", "there is no pool 'default'"
    ),
    JournalFullError: Kind(
        500,
        "There is no space for the journal; GET goes on, and DELETE in what is reserved for it.",
        "no space for the journal",
    ),
    JournalError: Kind(
        500, "The journal failed.", "cannot write to the journal: Input/output error"
    ),
    Exception: Kind(500, "A bug of the daemon.", "internal error, please report it: KeyError"),
    NoAddressError: Kind(
        503, "The pool has no free address of the family.", "pool default is exhausted"
    ),
    BusyError: Kind(
        503,
        "Too many long requests and answers are in flight; the answer has `Retry-After`.",
        "the requests and answers in flight take all the memory that they may; try again",
        retry_seconds=1,
    ),
    DeadlineError: Kind(
        503,
        "The request's deadline is over, so its client has given up; nothing was changed.",
        "the request's deadline was 0.2 s ago, so its client has given up: nothing was changed",
    ),
    ServiceUnavailable: Kind(
        ServiceUnavailable.status_code,
        f"There was no answer within {RESPONSE_SECONDS} s.",
        "there was no answer in time; ask again, or see the log",
    ),
    NotReadyError: Kind(
        503,
        "The daemon cannot do its work now: it says why.",
        "journal: no space for the journal: No space left on device",
    ),
    TooManyConnectionsError: Kind(
        503,
        "There are too many connections; the answer has `Retry-After`, in seconds.",
        "there are too many connections",
    ),
}


def status_of(error: type[Exception]) -> int:
    """The status that an error of this type is answered with."""
    if issubclass(error, SanicException):
        return error.status_code
    return ERRORS[error].status if error in ERRORS else ERRORS[Exception].status
