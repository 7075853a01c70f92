"""The OpenAPI document: it is valid, and says of the API all that is so and nothing else."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import Mock

import jsonschema
import msgspec
import openapi_spec_validator
import pytest
import sanic.exceptions
from hypothesis import given
from hypothesis import strategies as st
from sanic import Sanic
from sanic.http import http1
from sanic.server.protocols import http_protocol

from coild.http import bodies
from coild.http.api import Handlers, build_app
from coild.http.errors import ERRORS, status_of
from coild.http.openapi import document
from coild.http.operations import OPERATIONS, PARTS, parts_of
from coild.rules import limits
from tests.kits.daemon.openapi import Contract, pointer
from tests.kits.daemon.process import Daemon
from tests.kits.daemon.wire import allocate_body, request_bytes

CONTRACT = Contract(document())
ALL_RESPONSES = [
    where for operation in sorted(CONTRACT.operations) for where in CONTRACT.of(*operation).values()
] + [("components", "responses", name) for name in CONTRACT.document["components"]["responses"]]
#: Sent by nobody: the connection is lost by then, or it is the base of the others.
NEVER_SENT = {"RequestCancelled", "SanicException"}


def application() -> Sanic[Any, Any]:
    """The real application, over nothing: only its routes are looked at."""
    Sanic._app_registry.clear()
    nothing: Any = Mock()
    return build_app(Handlers(nothing, nothing, nothing, nothing, nothing, nothing))


def raised_in(module: Any) -> set[str]:
    """The errors that a module of Sanic's makes."""
    calls = (n for n in ast.walk(ast.parse(inspect.getsource(module))) if isinstance(n, ast.Call))
    names = {call.func.id for call in calls if isinstance(call.func, ast.Name)}
    return {name for name in names if hasattr(sanic.exceptions, name)}


def test_the_document_is_valid() -> None:
    """It is an OpenAPI 3.1 document, in the eyes of the specification's own schema."""
    openapi_spec_validator.validate(document())

    assert document()["openapi"].startswith("3.1")


def test_every_route_is_described_and_nothing_else() -> None:
    """What Sanic routes and what the document describes are the same paths and methods."""
    routed = {
        ("/" + re.sub("<([a-z]+)(:[a-z]+)?>", r"{\1}", route.path), method.lower())
        for route in application().router.routes
        for method in route.methods
    }

    assert routed == CONTRACT.operations


def test_every_part_of_a_path_is_described() -> None:
    """What stands in <> has its schema and its example, and nothing else has."""
    parts = {part for operation in OPERATIONS for part in parts_of(operation.path)}

    assert parts == PARTS.keys(), "describe it in PARTS of coild/http/operations.py"


def test_every_error_is_described() -> None:
    """Each error of ours, and each that Sanic raises, is in the document."""
    ours = {error for error in ERRORS if not issubclass(error, sanic.exceptions.SanicException)}
    theirs = {
        getattr(sanic.exceptions, name) for name in raised_in(http1) | raised_in(http_protocol)
    }
    theirs = {error for error in theirs if error.__name__ not in NEVER_SENT}
    missing = {
        error
        for error in ours | theirs
        if error not in ERRORS and status_of(error) != status_of(Exception)
    }
    declared = {where[-1] for where in ALL_RESPONSES}

    assert theirs
    assert not missing
    assert {str(status_of(error)) for error in ours | theirs} <= declared


@pytest.mark.parametrize("where", ALL_RESPONSES, ids="/".join)
def test_every_failure_may_have_the_examples_it_shows(where: tuple[str, ...]) -> None:
    """Each example is an instance of the schema beside it and, of a failure, of that status."""
    media = CONTRACT.look_up(*where)["content"]["application/json"]
    validator = CONTRACT.validator(*where, "content", "application/json", "schema")

    assert media["examples"]
    for name, example in media["examples"].items():
        validator.validate(example["value"])
        if name in {error.__name__ for error in ERRORS}:
            (error,) = (error for error in ERRORS if error.__name__ == name)
            assert status_of(error) == example["value"]["status"]


def test_no_error_is_described_that_is_never_declared() -> None:
    """What is told of errors is told of those that some answer has."""
    declared = {
        name
        for where in ALL_RESPONSES
        for name in CONTRACT.look_up(*where, "content", "application/json", "examples")
    }

    assert {error.__name__ for error in ERRORS} == declared - {"answer", "dry-run"}


def test_every_body_example_is_taken() -> None:
    """The examples of bodies are what the daemon's own decoders take, and their schemas allow."""
    for operation in OPERATIONS:
        if operation.body is None:
            continue
        decode: Callable[[bytes], object] = partial(bodies.decode_body, operation.body)
        if operation.body is bodies.CompactRequest:
            decode = bodies.decode_compact
        method = operation.method.lower()
        where = ("paths", operation.path, method, "requestBody", "content", "application/json")
        for example in CONTRACT.look_up(*where)["examples"].values():
            CONTRACT.validator(*where, "schema").validate(example["value"])
            decode(msgspec.json.encode(example["value"]))

    assert CONTRACT.look_up("paths", "/ip", "post", "requestBody", "required")
    assert not CONTRACT.look_up("paths", "/compact", "post", "requestBody", "required")


texts = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
    st.text(st.sampled_from("a/\n\0\x7f\x85\x9f\xa0 "), max_size=4),
    st.integers(250, 260).map(lambda size: "ü" * size),
    st.integers(250, 260).map(lambda size: "\N{LINEAR B SYLLABLE B008 A}" * size),
)


@given(text=texts)
def test_the_documents_patterns_are_those_of_the_daemon(text: str) -> None:
    """The document takes exactly the names and container IDs that the daemon takes."""
    pairs = (
        (limits.NAME_PATTERN, limits.NAME_SCHEMA),
        (limits.CONTAINER_ID_PATTERN, limits.CONTAINER_ID_SCHEMA),
    )
    for pattern, schema in pairs:
        # Python's `$` has one more meaning than that of JSON Schema.
        strict = {**schema, "pattern": str(schema["pattern"]).removesuffix("$") + r"\Z"}
        taken = jsonschema.Draft202012Validator(strict).is_valid(text)

        assert bool(re.search(pattern, text)) == taken


def test_the_fields_of_the_document_have_these_patterns() -> None:
    """Body and path describe the three names alike."""
    fields = CONTRACT.look_up("components", "schemas", "AllocateRequest", "properties")
    parameters = CONTRACT.look_up("components", "parameters")

    assert fields["pod-namespace"] == limits.NAME_SCHEMA == parameters["namespace"]["schema"]
    assert fields["pod-name"] == limits.NAME_SCHEMA == parameters["pod"]["schema"]
    assert fields["container-id"] == limits.CONTAINER_ID_SCHEMA
    assert fields["container-id"] == parameters["container"]["schema"]
    assert bodies.AllocateRequest.__struct_encode_fields__ == tuple(fields)


def test_the_daemon_serves_the_document(shared_daemon: Daemon) -> None:
    """GET /openapi.json is the document, guarded as everything is."""
    answer = shared_daemon.ask("GET", "/openapi.json")

    assert document() == answer.json()
    CONTRACT.check("GET", "/openapi.json", answer)
    for headers, status in ((("Host: evil.example",), 403), (("Origin: null",), 403)):
        refusal = shared_daemon.ask("GET", "/openapi.json", headers=headers)

        assert status == refusal.status_code


def test_the_judge_refuses_what_is_not_described(shared_daemon: Daemon) -> None:
    """An answer with another status, another body or without its header is not let through."""
    good = shared_daemon.ask("GET", "/status")
    CONTRACT.check("GET", "/status", good)
    wrong = shared_daemon.ask("PUT", "/ip")
    CONTRACT.check("PUT", "/ip", wrong)

    with pytest.raises(AssertionError):
        CONTRACT.check("GET", "/status", wrong)
    with pytest.raises(jsonschema.ValidationError):
        CONTRACT.check("GET", "/ip/a/b/c", good)
    del wrong.headers["allow"]
    with pytest.raises(AssertionError):
        CONTRACT.check("PUT", "/ip", wrong)


def test_a_journey_through_the_api_is_as_described(shared_daemon: Daemon) -> None:
    """Every operation's success, and the failures on the way, are answers of the document."""
    target = "/ip/default/web-0/journey"
    body = allocate_body("journey", "web-0")
    steps = [
        ("POST", "/ip", body, 200),
        ("POST", "/ip", body, 409),
        ("POST", "/ip", b"{}", 400),
        ("GET", target, None, 200),
        ("GET", "/status", None, 200),
        ("GET", "/livez", None, 200),
        ("GET", "/readyz", None, 200),
        ("GET", "/readyz?verbose", None, 200),
        ("POST", "/compact", b'{"dry-run": true}', 200),
        ("POST", "/compact", b"", 200),
        ("POST", "/compact", b'{"dry-run": true}', 200),
        ("POST", "/compact", b'{"dry-run": 1}', 400),
        ("POST", "/compact", b'{"order": "0"}', 400),
        ("DELETE", target, None, 200),
        ("DELETE", target, None, 200),
        ("GET", target, None, 404),
        ("GET", "/ip/a/b/%ff", None, 400),
        ("GET", "/nowhere", None, 404),
        ("POST", "/ip", b" " * 70_000, 413),
    ]
    for method, path, content, status in steps:
        (answer,) = shared_daemon.send(request_bytes(method, path, content))

        assert status == answer.status_code, (method, path, answer.text)
        CONTRACT.check(method, path, answer)


def test_a_reference_is_escaped() -> None:
    """A path in a reference keeps its slashes."""
    assert "#/paths/~1ip/post" == pointer("paths", "/ip", "post")
