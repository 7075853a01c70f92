"""The OpenAPI 3.1 document of the API, built from the types of bodies and answers and of errors."""

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

from coild import __version__
from coild.allocator import NoPoolError
from coild.answers import (
    AddressAnswer,
    CompactionAnswer,
    Failure,
    ReleaseAnswer,
    StatusAnswer,
    TooManyConnectionsError,
    UnassignedError,
    status_of,
)
from coild.bodies import AllocateRequest, BadRequestError, CompactRequest
from coild.guard import ForbiddenError, MissingHostError
from coild.limits import (
    ARRIVAL_SECONDS,
    BODY_BYTES_MAX,
    CONTAINER_ID_SCHEMA,
    HEADER_BYTES_MAX,
    NAME_SCHEMA,
    RESPONSE_SECONDS,
)
from coild.orders import OrderError
from coild.routes import ADDRESS, ADDRESSES, COMPACT, DOCUMENT, STATUS
from coild.service import ConflictError, NoAddressError
from journal import CompactionRunsError, JournalError, JournalFullError

_JSON = "application/json"
_REFERENCE = "#/components/schemas/{name}"
_DESCRIPTION = (
    "Gives pods their IP addresses. An answer never shows an event that a crash could still undo. "
    f"A request has {BODY_BYTES_MAX} bytes of body and {HEADER_BYTES_MAX} of header at most. "
    "Every failure, that of a path or a method that is not here included, is JSON with its status "
    "and what is wrong. A request that is no HTTP, or one too many, has its connection closed "
    "after the answer."
)
_IDS = {"pod-namespace": "default", "pod-name": "web-0", "container-id": "c1"}

#: When each error comes, and what it may say.
ERRORS: dict[type[Exception], tuple[str, str]] = {
    BadRequestError: ("The body or the path is not what the API takes.", "pod-name is missing"),
    MissingHostError: ("There is no Host, or more than one.", "there is no Host header"),
    BadRequest: ("The request is no HTTP/1.1.", "this is no HTTP/1.1: a header is malformed"),
    OrderError: ("There is no such order.", "an order is named by 32 hexadecimal digits"),
    ForbiddenError: (
        "Host or Origin is foreign: a web page may be behind the request.",
        "Host is 'web.example', which is not this machine; allow it with --allowed-hosts",
    ),
    UnassignedError: (
        "The pod has no address under this container ID.",
        "pod default/web-0 has no address under container ID c1",
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
    PayloadTooLarge: ("The request is too large.", "the request is too large"),
    ExpectationFailed: ("Expect is not 100-continue.", "Unknown Expect: miracles"),
    NoPoolError: ("No pool is configured for the namespace.", "there is no pool 'default'"),
    JournalFullError: (
        "There is no space for the journal; DELETE and GET go on.",
        "no space for the journal",
    ),
    JournalError: ("The journal failed.", "cannot write to the journal: Input/output error"),
    Exception: ("A bug of the daemon.", "internal error, please report it: KeyError"),
    NoAddressError: ("The pool has no free address of the family.", "pool default is exhausted"),
    ServiceUnavailable: (
        f"There was no answer within {RESPONSE_SECONDS} s.",
        "there was no answer in time; ask again, or see the log",
    ),
    TooManyConnectionsError: (
        "There are too many connections; the answer has `Retry-After`, in seconds.",
        "there are too many connections",
    ),
}
#: What any request may be answered with.
_ANY: tuple[type[Exception], ...] = (
    BadRequest,
    MissingHostError,
    ForbiddenError,
    RequestTimeout,
    PayloadTooLarge,
    ExpectationFailed,
    Exception,
    ServiceUnavailable,
    TooManyConnectionsError,
)
_HEADERS: dict[int, dict[str, Any]] = {
    405: {"Allow": {"required": True, "schema": {"type": "string"}}},
    503: {"Retry-After": {"schema": {"type": "integer", "minimum": 0}}},
}


class _Operation(NamedTuple):
    method: str
    path: str
    name: str
    summary: str
    answer: Any
    example: Any
    errors: tuple[type[Exception], ...]
    body: type[msgspec.Struct] | None = None
    body_example: Any = None


_OPERATIONS = (
    _Operation(
        "GET",
        STATUS,
        "getStatus",
        "The address blocks of this node and the addresses that are held.",
        StatusAnswer,
        StatusAnswer({"default": ["10.64.0.0/27"]}, {"c1": "10.64.0.0"}),
        (JournalError,),
    ),
    _Operation(
        "POST",
        ADDRESSES,
        "allocateAddress",
        "Give a container an address, from the pool named like its namespace or from `default`.",
        AddressAnswer,
        AddressAnswer("10.64.0.0"),
        (
            BadRequestError,
            ConflictError,
            NoAddressError,
            NoPoolError,
            JournalFullError,
            JournalError,
        ),
        AllocateRequest,
        _IDS,
    ),
    _Operation(
        "GET",
        ADDRESS,
        "getAddress",
        "The address of a container.",
        AddressAnswer,
        AddressAnswer("10.64.0.0"),
        (BadRequestError, UnassignedError, JournalError),
    ),
    _Operation(
        "DELETE",
        ADDRESS,
        "releaseAddress",
        "Release the address of a container; 200 as well if there is none.",
        ReleaseAnswer,
        ReleaseAnswer("10.64.0.0"),
        (BadRequestError, JournalError),
    ),
    _Operation(
        "POST",
        COMPACT,
        "compact",
        "Take a snapshot, archive the journal before it; answered when that is done.",
        CompactionAnswer,
        CompactionAnswer(5, "6e5fb58a5f2641c0b1a30dccd19877d8", 199, 1, 16777216, 7680),
        (BadRequestError, OrderError, CompactionRunsError, JournalFullError, JournalError),
        CompactRequest,
        {},
    ),
    _Operation(
        "GET",
        DOCUMENT,
        "getDocument",
        "This document.",
        dict[str, Any],
        {"openapi": "3.1.0"},
        (),
    ),
)
#: The parts of a path, and the fields of the allocation that they name.
_PARAMETERS = {"namespace": "pod-namespace", "pod": "pod-name", "container": "container-id"}
_TEXTS = {
    "pod-namespace": NAME_SCHEMA,
    "pod-name": NAME_SCHEMA,
    "container-id": CONTAINER_ID_SCHEMA,
}


def document() -> dict[str, Any]:
    """The document, as what JSON can hold."""
    _, answers = msgspec.json.schema_components(
        [Failure, *(operation.answer for operation in _OPERATIONS)], ref_template=_REFERENCE
    )
    for schema in answers.values():
        # Nothing is left out of an answer, whatever it is by default.
        schema |= {"required": list(schema["properties"]), "additionalProperties": False}
    _, bodies = msgspec.json.schema_components(
        [operation.body for operation in _OPERATIONS if operation.body], ref_template=_REFERENCE
    )
    # The patterns are Python's, those of the document everybody's.
    bodies[AllocateRequest.__name__]["properties"] |= _TEXTS
    paths: dict[str, dict[str, Any]] = {}
    for operation in _OPERATIONS:
        path = operation.path.replace("<", "{").replace(">", "}")
        paths.setdefault(path, {})[operation.method.lower()] = _describe(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "coild",
            "version": __version__,
            "license": {"name": "MIT", "identifier": "MIT"},
            "description": _DESCRIPTION,
        },
        "paths": paths,
        "components": {
            "schemas": answers | bodies,
            "parameters": {name: _parameter(name) for name in _PARAMETERS},
            # Answers to what is not described above, so no operation has them.
            "responses": {
                "NoSuchPath": _failure(404, (NotFound,)),
                "NoSuchMethod": _failure(405, (MethodNotAllowed,)),
            },
        },
    }


def _describe(operation: _Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
    }
    named = [name for name in _PARAMETERS if f"<{name}>" in operation.path]
    if named:
        described["parameters"] = [{"$ref": f"#/components/parameters/{name}"} for name in named]
    if operation.body is not None:
        # Nothing but a field without a default makes a body necessary.
        fields = msgspec.structs.fields(operation.body)
        described["requestBody"] = {
            "required": any(field.required for field in fields),
            "content": {_JSON: _media(operation.body, {"body": operation.body_example})},
        }
    errors: dict[int, list[type[Exception]]] = {}
    for error in (*_ANY, *operation.errors):
        errors.setdefault(status_of(error), []).append(error)
    described["responses"] = {
        "200": {
            "description": "Done, and durable.",
            "content": {_JSON: _media(operation.answer, {"answer": operation.example})},
        },
        **{str(status): _failure(status, tuple(errors[status])) for status in sorted(errors)},
    }
    return described


def _failure(status: int, errors: tuple[type[Exception], ...]) -> dict[str, Any]:
    examples = {error.__name__: Failure(status, ERRORS[error][1]) for error in errors}
    media = _media(Failure, examples)
    media["schema"]["properties"] = {"status": {"const": status}}
    headers = {"headers": _HEADERS[status]} if status in _HEADERS else {}
    return {
        "description": " ".join(ERRORS[error][0] for error in errors),
        **headers,
        "content": {_JSON: media},
    }


def _media(body: Any, examples: dict[str, Any]) -> dict[str, Any]:
    (schema,), _ = msgspec.json.schema_components([body], ref_template=_REFERENCE)
    values = {name: {"value": msgspec.to_builtins(value)} for name, value in examples.items()}
    return {"schema": schema, "examples": values}


def _parameter(name: str) -> dict[str, Any]:
    field = _PARAMETERS[name]
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": f"The {field} of the allocation, percent-encoded as UTF-8, slashes too.",
        "schema": _TEXTS[field],
        "example": _IDS[field],
    }
