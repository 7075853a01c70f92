"""The OpenAPI 3.1 document of the API, built from the types of bodies and answers and of errors."""

from __future__ import annotations

from typing import Any

import msgspec
from sanic.exceptions import MethodNotAllowed, NotFound

from coild import __version__
from coild.http.answers import TEXT
from coild.http.bodies import AllocateRequest, CollectRequest, ReleaseRequest
from coild.http.errors import ERRORS, NotReadyError, status_of
from coild.http.messages import ON_REQUEST, Failure
from coild.http.operations import (
    ANY,
    COLLECT,
    HEADERS,
    OPERATIONS,
    PARTS,
    Operation,
    Part,
    parts_of,
)
from coild.rules.limits import (
    BODY_BYTES_MAX,
    COLLECT_BYTES_MAX,
    CONTAINER_ID_SCHEMA,
    HEADER_BYTES_MAX,
    NAME_SCHEMA,
    NETWORK_SCHEMA,
)

_JSON = "application/json"
_REFERENCE = "#/components/schemas/{name}"
_DESCRIPTION = (
    "Gives pods their IP addresses. An answer never shows an event that a crash could still undo. "
    f"A request has {BODY_BYTES_MAX} bytes of body ({COLLECT_BYTES_MAX} for {COLLECT}) and "
    f"{HEADER_BYTES_MAX} of header at most. "
    "Every failure, that of a path or a method that is not here included, is JSON with its status "
    "and what is wrong. A request that is no HTTP, or one too many, has its connection closed "
    "after the answer. Every answer has the header Coild-Journal, the ID of the journal; it proves "
    "nothing against a process that copies it. A request that changes anything may have the header "
    "Coild-Deadline: NANOSECONDS [CLOCK], by CLOCK_MONOTONIC; later it is answered 503, and "
    "changes nothing."
)

_TEXTS = {
    "pod-namespace": NAME_SCHEMA,
    "pod-name": NAME_SCHEMA,
    "container-id": CONTAINER_ID_SCHEMA,
}
_VERBOSE = {
    "name": "verbose",
    "in": "query",
    "description": "Whatever its value: the answer is text, a line for each check.",
    "allowEmptyValue": True,
    "schema": {"type": "string"},
}
_NETWORK = NETWORK_SCHEMA | {"default": ""}


def document() -> dict[str, Any]:
    """The document, as what JSON can hold."""
    _, answers = msgspec.json.schema_components(
        [
            Failure,
            *(operation.answer for operation in OPERATIONS),
            *(type(operation.other) for operation in OPERATIONS if operation.other is not None),
        ],
        ref_template=_REFERENCE,
    )
    for schema in answers.values():
        # Nothing else is left out of an answer, whatever it is by default.
        required = [name for name in schema["properties"] if name not in ON_REQUEST]
        schema |= {"required": required, "additionalProperties": False}
    _, bodies = msgspec.json.schema_components(
        [operation.body for operation in OPERATIONS if operation.body], ref_template=_REFERENCE
    )
    # The patterns are Python's, those of the document everybody's.
    bodies[AllocateRequest.__name__]["properties"] |= _TEXTS | {"network": _NETWORK}
    bodies[ReleaseRequest.__name__]["properties"]["container-ids"]["items"] = CONTAINER_ID_SCHEMA
    bodies[ReleaseRequest.__name__]["properties"]["journal"]["pattern"] = "^([0-9a-f]{32})?$"
    bodies[CollectRequest.__name__]["properties"] |= {
        "network": _NETWORK,
        "valid": {"type": "array", "items": CONTAINER_ID_SCHEMA},
    }
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        path = operation.path.replace("<", "{").replace(">", "}")
        described = paths.setdefault(path, {})
        described[operation.method.lower()] = _describe(operation)
        if "HEAD" in operation.methods:
            described["head"] = _describe(operation) | {
                "operationId": operation.name.replace("get", "head", 1),
                "summary": "As GET answers, without the body.",
            }
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
            "parameters": {name: _parameter(name, part) for name, part in PARTS.items()},
            # Answers to what is not described above, so no operation has them.
            "responses": {
                "NoSuchPath": _failure(404, (NotFound,)),
                "NoSuchMethod": _failure(405, (MethodNotAllowed,)),
            },
        },
    }


def _describe(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
    }
    named = parts_of(operation.path)
    if named:
        described["parameters"] = [{"$ref": f"#/components/parameters/{name}"} for name in named]
    if operation.verbose:
        described.setdefault("parameters", []).append(_VERBOSE)
    if operation.body is not None:
        # Nothing but a field without a default makes a body necessary.
        fields = msgspec.structs.fields(operation.body)
        described["requestBody"] = {
            "required": any(field.required for field in fields),
            "content": {_JSON: _media(operation.body, {"body": operation.body_example})},
        }
    errors: dict[int, list[type[Exception]]] = {}
    for error in (*ANY, *operation.errors):
        errors.setdefault(status_of(error), []).append(error)
    described["responses"] = {
        "200": {
            "description": "Done, and durable.",
            "headers": {
                "Coild-Journal": {
                    "description": "The ID of the journal.",
                    "required": True,
                    "schema": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
                }
            },
            "content": {_JSON: _answer(operation)},
        },
        **{str(status): _failure(status, tuple(errors[status])) for status in sorted(errors)},
    }
    if operation.verbose:
        text = {"schema": {"type": "string"}, "examples": {"answer": {"value": operation.verbose}}}
        for status in ("200", str(status_of(NotReadyError))):
            described["responses"][status]["content"][TEXT] = text
    return described


def _answer(operation: Operation) -> dict[str, Any]:
    media = _media(operation.answer, {"answer": operation.example})
    if operation.other is not None:
        other = _media(type(operation.other), {operation.other_when: operation.other})
        media["schema"] = {"anyOf": [media["schema"], other["schema"]]}
        media["examples"] |= other["examples"]
    return media


def _failure(status: int, errors: tuple[type[Exception], ...]) -> dict[str, Any]:
    examples = {error.__name__: Failure(status, ERRORS[error].example) for error in errors}
    media = _media(Failure, examples)
    media["schema"]["properties"] = {"status": {"const": status}}
    headers = {"headers": HEADERS[status]} if status in HEADERS else {}
    return {
        "description": " ".join(ERRORS[error].when for error in errors),
        **headers,
        "content": {_JSON: media},
    }


def _media(body: Any, examples: dict[str, Any]) -> dict[str, Any]:
    (schema,), _ = msgspec.json.schema_components([body], ref_template=_REFERENCE)
    values = {name: {"value": msgspec.to_builtins(value)} for name, value in examples.items()}
    return {"schema": schema, "examples": values}


def _parameter(name: str, part: Part) -> dict[str, Any]:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": f"{part.description}, percent-encoded as UTF-8, slashes too.",
        "schema": part.schema,
        "example": part.example,
    }
