"""HTTP in, HTTP out: the routes of the REST API. No rule about addresses lives here."""

from __future__ import annotations

import asyncio
import re
from typing import Annotated, Any, Literal
from urllib.parse import unquote_to_bytes

import msgspec
from sanic import Request, Sanic
from sanic.config import Config as SanicConfig

from coild.answers import (
    COMPACT_PATH,
    Answer,
    BadRequestError,
    UnassignedError,
    address_answer,
    answer_error,
    compaction_answer,
)
from coild.compactor import Compactor
from coild.guard import ForbiddenError, Guard
from coild.limits import (
    BODY_BYTES_MAX,
    CONTAINER_ID_PATTERN,
    CONTAINER_ID_RULE,
    HEADER_BYTES_MAX,
    NAME_PATTERN,
    NAME_RULE,
)
from coild.service import Service, Status

#: A request's header or body that has not arrived by then is given up.
REQUEST_SECONDS = 30
#: An answer waits for a flush and, rarely, for a block: longer than this, something hangs.
RESPONSE_SECONDS = 30
#: /status formats so many addresses at a time, then lets other requests go first.
_STATUS_SLICE = 1000

_Name = Annotated[str, msgspec.Meta(pattern=NAME_PATTERN)]
_ContainerId = Annotated[str, msgspec.Meta(pattern=CONTAINER_ID_PATTERN)]


class AllocateRequest(msgspec.Struct, rename="kebab", frozen=True, gc=False):
    """The body of POST /ip."""

    pod_namespace: _Name
    pod_name: _Name
    container_id: _ContainerId
    address_type: Literal["ipv4", "ipv6"] = "ipv4"


_RULES = {
    "pod-namespace": NAME_RULE,
    "pod-name": NAME_RULE,
    "container-id": CONTAINER_ID_RULE,
    "address-type": "'ipv4' or 'ipv6'",
}
_VERSIONS = {"ipv4": 4, "ipv6": 6}
_decode = msgspec.json.Decoder(AllocateRequest).decode


def decode_allocate(body: bytes) -> AllocateRequest:
    """Read the body of POST /ip. Raises BadRequestError, naming the field."""
    if not body:
        raise BadRequestError(
            "the body is empty: it must be a JSON object with pod-namespace, pod-name, container-id"
        )
    try:
        return _decode(body)
    except msgspec.ValidationError as error:
        raise BadRequestError(_explain(str(error))) from None
    except RecursionError:
        raise BadRequestError("the body is nested too deeply") from None
    except ValueError as error:
        # Invalid UTF-8 is a UnicodeDecodeError, which msgspec does not wrap.
        raise BadRequestError(f"the body is not valid JSON: {error}") from None


class CompactRequest(msgspec.Struct, frozen=True):
    """The body of POST /compact, which may be empty. `order` is the token of an order to prune."""

    order: str = ""


def decode_compact(body: bytes) -> str:
    """The order that POST /compact names, or the empty string. Raises BadRequestError."""
    if not body:
        return ""
    try:
        return msgspec.json.decode(body, type=CompactRequest).order
    except (ValueError, RecursionError) as error:
        raise BadRequestError(f"the body must be empty or name an order: {error}") from None


def _explain(text: str) -> str:
    """Msgspec's message with the rule of the field it names."""
    found = re.search(r"`\$\.([a-z-]+)`", text) or re.search(r"required field `([a-z-]+)`", text)
    if found is None or found[1] not in _RULES:
        return f"the body must be a JSON object: {text}"
    field = found[1]
    if "required" in text:
        return f"{field} is missing: it must be {_RULES[field]}"
    if "regex" in text:
        return f"{field} must be {_RULES[field]}"
    return f"{field} must be {_RULES[field]}: {text.partition(' - at')[0]}"


def _part(name: str, text: str) -> str:
    """A part of the path, percent-decoded once. Raises BadRequestError."""
    if "%" not in text:
        return text
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        # Not replaced: what stands in for the bad bytes might be another container's ID.
        raise BadRequestError(f"the {name} in the path is not UTF-8: {text}") from None


def build_app(service: Service, compactor: Compactor, guard: Guard) -> Sanic[Any, Any]:
    """The HTTP application over `service`."""

    async def post_ip(request: Request) -> Answer:
        guard.check(request)
        wanted = decode_allocate(request.body)
        return address_answer(
            await service.allocate(
                wanted.pod_namespace,
                wanted.pod_name,
                wanted.container_id,
                _VERSIONS[wanted.address_type],
            )
        )

    async def get_ip(request: Request, namespace: str, pod: str, container: str) -> Answer:
        guard.check(request)
        parts = _parts(namespace, pod, container)
        address = await service.address(*parts)
        if address is None:
            raise UnassignedError("pod {}/{} has no address under container ID {}".format(*parts))
        return address_answer(address)

    async def delete_ip(request: Request, namespace: str, pod: str, container: str) -> Answer:
        guard.check(request)
        return address_answer(await service.release(*_parts(namespace, pod, container)))

    async def get_status(request: Request) -> Answer:
        guard.check(request)
        return Answer(await _encode_status(await service.status()))

    async def post_compact(request: Request) -> Answer:
        guard.check(request)
        return compaction_answer(await compactor.compact(order=decode_compact(request.body)))

    def on_error(request: Request, error: Exception) -> Answer:
        # An unknown path is answered here, and it must not tell a web page anything either.
        try:
            if not isinstance(error, ForbiddenError) and request.method != "NONE":
                guard.check(request)
        except ForbiddenError as forbidden:
            error = forbidden
        return answer_error(request, error)

    app = Sanic("coild", config=sanic_config(), configure_logging=False)
    address = "/ip/<namespace>/<pod>/<container>"
    app.add_route(get_status, "/status", methods=["GET"], strict_slashes=True)
    app.add_route(post_compact, COMPACT_PATH, methods=["POST"], strict_slashes=True)
    app.add_route(post_ip, "/ip", methods=["POST"], strict_slashes=True)
    app.add_route(get_ip, address, methods=["GET"], strict_slashes=True)
    app.add_route(delete_ip, address, methods=["DELETE"], strict_slashes=True)
    app.exception(Exception)(on_error)
    return app


def _parts(namespace: str, pod: str, container: str) -> tuple[str, str, str]:
    return _part("namespace", namespace), _part("pod", pod), _part("container ID", container)


async def _encode_status(status: Status) -> bytes:
    """The body of GET /status, made in slices: 200,000 addresses are a tenth of a second's work."""
    pods: dict[str, str] = {}
    for start in range(0, len(status.pods), _STATUS_SLICE):
        for container_id, held in status.pods[start : start + _STATUS_SLICE]:
            pods[container_id] = held.address
        await asyncio.sleep(0)
    return msgspec.json.encode(
        {"address-blocks": status.address_blocks, "pods": pods, "status": 200}
    )


def sanic_config() -> SanicConfig:
    """The limits of this API, and nothing from SANIC_… variables."""
    config = SanicConfig(env_prefix=None)
    config.update(
        {
            "ACCESS_LOG": False,
            "AUTO_EXTEND": False,
            "FALLBACK_ERROR_FORMAT": "json",
            "KEEP_ALIVE_TIMEOUT": 120,
            "MOTD": False,
            "REQUEST_MAX_HEADER_SIZE": HEADER_BYTES_MAX,
            "REQUEST_MAX_SIZE": BODY_BYTES_MAX,
            "REQUEST_TIMEOUT": REQUEST_SECONDS,
            "RESPONSE_TIMEOUT": RESPONSE_SECONDS,
        }
    )
    return config
