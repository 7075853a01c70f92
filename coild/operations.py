"""What the API does: its operations, and the errors that each may answer with, as data."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
from sanic.exceptions import (
    BadRequest,
    ExpectationFailed,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    RequestTimeout,
    ServiceUnavailable,
)

from coild.ages import AgeUnknownError
from coild.allocator import NoPoolError
from coild.answers import (
    CheckAnswer,
    HealthAnswer,
    LiveAnswer,
    NotReadyError,
    PlacedAnswer,
    ReadyAnswer,
    ReleaseAnswer,
    StatusAnswer,
    TooManyConnectionsError,
    UnassignedError,
)
from coild.bodies import (
    AllocateRequest,
    BadRequestError,
    CollectRequest,
    CompactRequest,
    ReleaseRequest,
)
from coild.budget import BusyError
from coild.by_container import AnotherJournalError, UnknownContainerError
from coild.collection import StaleListError
from coild.compaction_answers import CompactionAnswer, CompactionPlanAnswer
from coild.compactor import TooSoonError
from coild.container_answers import CollectionAnswer, ContainerAnswer, Released, ReleasesAnswer
from coild.deadline import DeadlineError
from coild.framing import FramingError, TooManyFieldsError
from coild.guard import ForbiddenError, MissingHostError
from coild.limits import ARRIVAL_SECONDS, RESPONSE_SECONDS
from coild.orders import OrderError
from coild.routes import (
    ADDRESS,
    ADDRESSES,
    COLLECT,
    COMPACT,
    CONTAINER,
    DOCUMENT,
    HEALTH,
    LIVE,
    READY,
    RELEASE,
    STATUS,
)
from coild.service import ConflictError, NoAddressError
from journal import CompactionRunsError, JournalError, JournalFullError

IDS = {"pod-namespace": "default", "pod-name": "web-0", "container-id": "c1"}

#: When each error comes, and what it may say.
ERRORS: dict[type[Exception], tuple[str, str]] = {
    BadRequestError: ("The body or the path is not what the API takes.", "pod-name is missing"),
    MissingHostError: ("There is no Host, or more than one.", "there is no Host header"),
    FramingError: (
        "Where the request ends, or whom it is for, is not said in one way only (RFC 9112).",
        "a header has white space before its colon",
    ),
    TooManyFieldsError: ("The request has too many header fields.", "more than 64 header fields"),
    BadRequest: ("The request is no HTTP/1.1.", "this is no HTTP/1.1: a header is malformed"),
    OrderError: ("There is no such order.", "an order is named by 32 hexadecimal digits"),
    ForbiddenError: (
        "Host, Origin or Sec-Fetch-Site is foreign: a web page may be behind the request.",
        "Host is 'web.example', which is not this machine; allow it with --allowed-hosts",
    ),
    UnassignedError: (
        "The pod has no address under this container ID.",
        "pod default/web-0 has no address under container ID c1",
    ),
    UnknownContainerError: ("The container has no address.", "container c1 has no address"),
    AnotherJournalError: (
        "The release is for the daemon of another journal.",
        "the release is for the daemon of another journal: nothing was released",
    ),
    NotFound: ("There is no such path.", "there is no /nowhere"),
    MethodNotAllowed: (
        "The path has no such method; `Allow` names those it has.",
        "PUT is not allowed for /ip",
    ),
    RequestTimeout: (
        f"The request took longer than {ARRIVAL_SECONDS} s to arrive.",
        "the request did not arrive in time",
    ),
    ConflictError: ("The container holds an address already.", "container c1 holds 10.64.0.0"),
    CompactionRunsError: ("Another compaction is at work.", "another compaction is at work"),
    AgeUnknownError: (
        "The order is to lose old history, and the clocks differ by more than a day.",
        "how old history is cannot be told: the system's clock says 2026-11-28T07:00:00.000000000Z",
    ),
    TooSoonError: (
        "Another one was asked for, without an order, within a minute; see `Retry-After`.",
        "a compaction was asked for less than 60 s ago; the next may be in 48 s",
    ),
    StaleListError: (
        "The sequence is too old to say what was allocated after it, or is not of this journal.",
        "the list of what is valid was taken at sequence 3; ask for the sequence again",
    ),
    PayloadTooLarge: ("The request is too large.", "the request is too large"),
    ExpectationFailed: ("Expect is not 100-continue.", "Unknown Expect: miracles"),
    NoPoolError: ("No pool is configured for the namespace.", "there is no pool 'default'"),
    JournalFullError: (
        "There is no space for the journal; GET goes on, and DELETE in what is reserved for it.",
        "no space for the journal",
    ),
    JournalError: ("The journal failed.", "cannot write to the journal: Input/output error"),
    Exception: ("A bug of the daemon.", "internal error, please report it: KeyError"),
    NoAddressError: ("The pool has no free address of the family.", "pool default is exhausted"),
    BusyError: (
        "Too many long requests and answers are in flight; the answer has `Retry-After`.",
        "the requests and answers in flight take all the memory that they may; try again",
    ),
    DeadlineError: (
        "The request's deadline is over, so its client has given up; nothing was changed.",
        "the request's deadline was 0.2 s ago, so its client has given up: nothing was changed",
    ),
    ServiceUnavailable: (
        f"There was no answer within {RESPONSE_SECONDS} s.",
        "there was no answer in time; ask again, or see the log",
    ),
    NotReadyError: (
        "The daemon cannot do its work now: it says why.",
        "journal: no space for the journal: No space left on device",
    ),
    TooManyConnectionsError: (
        "There are too many connections; the answer has `Retry-After`, in seconds.",
        "there are too many connections",
    ),
}
#: What any request may be answered with.
ANY: tuple[type[Exception], ...] = (
    BadRequest,
    FramingError,
    TooManyFieldsError,
    MissingHostError,
    ForbiddenError,
    RequestTimeout,
    PayloadTooLarge,
    ExpectationFailed,
    Exception,
    BusyError,
    ServiceUnavailable,
    TooManyConnectionsError,
)
#: The headers of answers with this status.
HEADERS: dict[int, dict[str, Any]] = {
    405: {"Allow": {"required": True, "schema": {"type": "string"}}},
    429: {"Retry-After": {"required": True, "schema": {"type": "integer", "minimum": 1}}},
    503: {"Retry-After": {"schema": {"type": "integer", "minimum": 0}}},
}


class Operation(NamedTuple):
    """A method of a path: what it takes, what it answers, and how it may fail."""

    method: str
    path: str
    name: str
    summary: str
    answer: Any
    example: Any
    errors: tuple[type[Exception], ...]
    body: type[msgspec.Struct] | None = None
    body_example: Any = None
    #: The answer as text, for `?verbose`.
    verbose: str = ""
    #: The other answer that it has, as an example of its type, and when that comes.
    other: Any = None
    other_when: str = ""


#: Every operation, as the router has them.
OPERATIONS = (
    Operation(
        "GET",
        STATUS,
        "getStatus",
        "The address blocks of this node and the addresses that are held.",
        StatusAnswer,
        StatusAnswer({"default": ["10.64.0.0/27"]}, {"c1": "10.64.0.0"}),
        (JournalError,),
    ),
    Operation(
        "POST",
        ADDRESSES,
        "allocateAddress",
        "Give a container an address, from the pool named like its namespace or from `default`; "
        "with `details`, the answer says where it lies, too.",
        PlacedAnswer,
        PlacedAnswer("10.64.0.0"),
        (
            BadRequestError,
            ConflictError,
            NoAddressError,
            NoPoolError,
            DeadlineError,
            JournalFullError,
            JournalError,
        ),
        AllocateRequest,
        IDS,
    ),
    Operation(
        "GET",
        ADDRESS,
        "getAddress",
        "The address of a container; with the query `details=true`, where it lies, too.",
        PlacedAnswer,
        PlacedAnswer("10.64.0.0"),
        (BadRequestError, UnassignedError, JournalError),
    ),
    Operation(
        "DELETE",
        ADDRESS,
        "releaseAddress",
        "Release the address of a container; 200 as well if there is none.",
        ReleaseAnswer,
        ReleaseAnswer("10.64.0.0"),
        (BadRequestError, DeadlineError, JournalFullError, JournalError),
    ),
    Operation(
        "GET",
        CONTAINER,
        "getContainer",
        "The address of a container, whichever pod it is of, and whose it is.",
        ContainerAnswer,
        ContainerAnswer("10.64.0.0", "c1", "web-0", "default", "pods"),
        (BadRequestError, UnknownContainerError, JournalError),
    ),
    Operation(
        "POST",
        RELEASE,
        "releaseContainers",
        "Release what containers hold, whichever pods they are of; the answer says what that was.",
        ReleasesAnswer,
        ReleasesAnswer([Released("10.64.0.0", "c1", "web-0", "default")]),
        (BadRequestError, AnotherJournalError, DeadlineError, JournalFullError, JournalError),
        ReleaseRequest,
        {"container-ids": ["c1", "c1/eth0/ipv6"]},
    ),
    Operation(
        "POST",
        COMPACT,
        "compact",
        "Take a snapshot, archive the journal before it; answered when that is done, or at once if "
        "nothing has happened since the last one: then nothing is written. With `dry-run`, say "
        "what would be done, and do nothing.",
        CompactionAnswer,
        CompactionAnswer(5, "6e5fb58a5f2641c0b1a30dccd19877d8", 199, 1, 16777216, 7680),
        (
            BadRequestError,
            OrderError,
            AgeUnknownError,
            CompactionRunsError,
            TooSoonError,
            DeadlineError,
            JournalFullError,
            JournalError,
        ),
        CompactRequest,
        {},
        other=CompactionPlanAnswer(
            segments=1, segment_bytes=16777216, archive_bytes=7680, archive_bytes_now=0
        ),
        other_when="dry-run",
    ),
    Operation(
        "POST",
        COLLECT,
        "collectGarbage",
        "Release the addresses of a network whose containers are not in the list, but for those "
        "allocated after `sequence`: take it from /health before you list what is valid. With "
        "`dry-run`, say what would be released, and release nothing.",
        CollectionAnswer,
        CollectionAnswer([Released("10.64.0.0", "c1", "web-0", "default")]),
        (BadRequestError, StaleListError, DeadlineError, JournalFullError, JournalError),
        CollectRequest,
        {"sequence": 5, "valid": ["c2"], "network": "pods"},
    ),
    Operation(
        "GET",
        HEALTH,
        "getHealth",
        "Whether addresses can be allocated and the routes of blocks are exported to the kernel.",
        HealthAnswer,
        HealthAnswer(writable=True, routes="exported", sequence=5),
        (JournalError,),
    ),
    Operation(
        "GET",
        LIVE,
        "getLiveness",
        "Whether the daemon turns and does not end by a failure: if not, it is to be restarted.",
        LiveAnswer,
        LiveAnswer(),
        (NotReadyError,),
    ),
    Operation(
        "GET",
        READY,
        "getReadiness",
        "Whether addresses can be had, and what else is to be told: an exhausted pool, for one.",
        ReadyAnswer,
        ReadyAnswer(
            [
                CheckAnswer("journal", ok=True, reason=""),
                CheckAnswer("pools", ok=False, reason="pool 'web' has no free IPv4 address"),
            ]
        ),
        (NotReadyError,),
        verbose="[+]journal ok\n[!]pools told: pool 'web' has no free IPv4 address\n"
        "readyz check passed\n",
    ),
    Operation(
        "GET",
        DOCUMENT,
        "getDocument",
        "This document.",
        dict[str, Any],
        {"openapi": "3.1.0"},
        (),
    ),
)
