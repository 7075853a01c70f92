"""The operations of the API, and the errors that each may answer with, as data.

The router, the errors about paths and methods, and the OpenAPI document go by this table.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import msgspec
from sanic.exceptions import (
    BadRequest,
    ExpectationFailed,
    PayloadTooLarge,
    RequestTimeout,
    ServiceUnavailable,
)

from coild.allocation.deadline import DeadlineError
from coild.allocation.recent_allocations import StaleListError
from coild.allocation.service import ConflictError, NoAddressError
from coild.http.bodies import (
    AllocateRequest,
    BadRequestError,
    CollectRequest,
    CompactRequest,
    ReleaseRequest,
)
from coild.http.budget import BusyError
from coild.http.errors import (
    AnotherJournalError,
    NotReadyError,
    TooManyConnectionsError,
    UnassignedError,
    UnknownContainerError,
)
from coild.http.framing import FramingError, TooManyFieldsError
from coild.http.guard import ForbiddenError, MissingHostError
from coild.http.messages import (
    CheckAnswer,
    CollectionAnswer,
    CompactionAnswer,
    CompactionPlanAnswer,
    ContainerAnswer,
    HealthAnswer,
    LiveAnswer,
    PlacedAnswer,
    ReadyAnswer,
    ReleaseAnswer,
    Released,
    ReleasesAnswer,
    StatusAnswer,
)
from coild.rules.allocator import NoPoolError
from coild.rules.limits import CONTAINER_ID_SCHEMA, NAME_SCHEMA
from coild.upkeep.ages import AgeUnknownError
from coild.upkeep.compactor import TooSoonError
from coild.upkeep.prune_orders import OrderError
from journal import CompactionRunsError, JournalError, JournalFullError

#: Paths that are treated in a way of their own.
COMPACT = "/compact"
COLLECT = "/gc"

IDS = {"pod-namespace": "default", "pod-name": "web-0", "container-id": "c1"}


class Part(NamedTuple):
    """A part of a path that is the caller's, as the document describes it."""

    description: str
    schema: dict[str, Any]
    example: str


#: What stands in <> in the paths.
PARTS = {
    "namespace": Part("The pod-namespace of the allocation", NAME_SCHEMA, IDS["pod-namespace"]),
    "pod": Part("The pod-name of the allocation", NAME_SCHEMA, IDS["pod-name"]),
    "container": Part(
        "The container-id of the allocation", CONTAINER_ID_SCHEMA, IDS["container-id"]
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
#: What a request to change anything may be answered with, too.
CHANGE: tuple[type[Exception], ...] = (DeadlineError, JournalFullError, JournalError)
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
    #: Its handler reads the body itself, which may be longer than others.
    streams: bool = False

    @property
    def methods(self) -> tuple[str, ...]:
        """The method, and HEAD, which is answered as GET is, without the body."""
        return ("GET", "HEAD") if self.method == "GET" else (self.method,)


#: Every operation, as the router has them.
OPERATIONS = (
    Operation(
        "GET",
        "/status",
        "getStatus",
        "The address blocks of this node and the addresses that are held.",
        StatusAnswer,
        StatusAnswer({"default": ["10.64.0.0/27"]}, {"c1": "10.64.0.0"}),
        (JournalError,),
    ),
    Operation(
        "POST",
        "/ip",
        "allocateAddress",
        "Give a container an address, from the pool named like its namespace or from `default`; "
        "with `details`, the answer says where it lies, too.",
        PlacedAnswer,
        PlacedAnswer("10.64.0.0"),
        (BadRequestError, ConflictError, NoAddressError, NoPoolError, *CHANGE),
        AllocateRequest,
        IDS,
    ),
    Operation(
        "GET",
        "/ip/<namespace>/<pod>/<container>",
        "getAddress",
        "The address of a container; with the query `details=true`, where it lies, too.",
        PlacedAnswer,
        PlacedAnswer("10.64.0.0"),
        (BadRequestError, UnassignedError, JournalError),
    ),
    Operation(
        "DELETE",
        "/ip/<namespace>/<pod>/<container>",
        "releaseAddress",
        "Release the address of a container; 200 as well if there is none.",
        ReleaseAnswer,
        ReleaseAnswer("10.64.0.0"),
        (BadRequestError, *CHANGE),
    ),
    Operation(
        "GET",
        "/containers/<container>",
        "getContainer",
        "The address of a container, whichever pod it is of, and whose it is.",
        ContainerAnswer,
        ContainerAnswer("10.64.0.0", "c1", "web-0", "default", "pods"),
        (BadRequestError, UnknownContainerError, JournalError),
    ),
    Operation(
        "POST",
        "/release",
        "releaseContainers",
        "Release what containers hold, whichever pods they are of; the answer says what that was.",
        ReleasesAnswer,
        ReleasesAnswer([Released("10.64.0.0", "c1", "web-0", "default")]),
        (BadRequestError, AnotherJournalError, *CHANGE),
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
            *CHANGE,
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
        (BadRequestError, StaleListError, *CHANGE),
        CollectRequest,
        {"sequence": 5, "valid": ["c2"], "network": "pods"},
        streams=True,
    ),
    Operation(
        "GET",
        "/health",
        "getHealth",
        "Whether addresses can be allocated and the routes of blocks are exported to the kernel.",
        HealthAnswer,
        HealthAnswer(writable=True, routes="exported", sequence=5),
        (JournalError,),
    ),
    Operation(
        "GET",
        "/livez",
        "getLiveness",
        "Whether the daemon turns and does not end by a failure: if not, it is to be restarted.",
        LiveAnswer,
        LiveAnswer(),
        (NotReadyError,),
    ),
    Operation(
        "GET",
        "/readyz",
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
        "/openapi.json",
        "getDocument",
        "This document.",
        dict[str, Any],
        {"openapi": "3.1.0"},
        (),
    ),
)

#: The methods of each path.
METHODS: dict[str, tuple[str, ...]] = {}
for _operation in OPERATIONS:
    METHODS[_operation.path] = (*METHODS.get(_operation.path, ()), *_operation.methods)

#: All of them, for people.
ROUTES = ", ".join(f"{' and '.join(methods)} {path}" for path, methods in METHODS.items())
#: By path, as it is in the request, still percent-encoded.
_ALLOWED = tuple(
    (re.compile(re.sub("<[a-z]+>", "[^/]+", re.escape(path))), ", ".join(methods))
    for path, methods in METHODS.items()
)


def parts_of(path: str) -> list[str]:
    """The names of a path's parts, in the order of the path."""
    return re.findall("<([a-z]+)>", path)


def allowed(path: str) -> str:
    """The methods that the path of a request has, as in `Allow`; empty if there is no such path."""
    return next((methods for pattern, methods in _ALLOWED if pattern.fullmatch(path)), "")
