"""The bodies of requests, decoded and checked."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from coild.rules.limits import (
    CONTAINER_ID_PATTERN,
    CONTAINER_ID_RULE,
    NAME_PATTERN,
    NAME_RULE,
)

_T = TypeVar("_T")
#: The header `Coild-Journal` of an answer, or nothing.
JOURNAL_PATTERN = r"^([0-9a-f]{32})?$(?!\n)"


class BadRequestError(Exception):
    """The request is not as the API takes it."""


_Name = Annotated[str, msgspec.Meta(pattern=NAME_PATTERN)]
_ContainerId = Annotated[str, msgspec.Meta(pattern=CONTAINER_ID_PATTERN)]


_Network = Annotated[str, msgspec.Meta(pattern=f"^$(?!\\n)|{NAME_PATTERN}")]


#: So many may be unusable by one request: of each family a subnet's edges and a gateway.
UNUSABLE_MAX = 6
IpAddress = Annotated[
    str, msgspec.Meta(extra_json_schema={"anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]})
]


#: JSON has one kind of number: 5.0 is an integer, and some clients' encoders write it so.
_WholeNumber = Annotated[
    float, msgspec.Meta(ge=0, multiple_of=1, extra_json_schema={"type": "integer"})
]


class AllocateRequest(msgspec.Struct, rename="kebab", frozen=True, gc=False):
    """The body of POST /ip. Fields that are not known are ignored.

    `network` is the name of the CNI network that the address is for. The answer to `details` has
    the pool's subnet that the address is in, and its gateway; then the address is not an edge of
    that subnet. `unusable` are addresses that a pod of that network could not use.
    """

    pod_namespace: _Name
    pod_name: _Name
    container_id: _ContainerId
    address_type: Literal["ipv4", "ipv6"] = "ipv4"
    network: _Network = ""
    details: bool = False
    unusable: Annotated[list[IpAddress], msgspec.Meta(max_length=UNUSABLE_MAX)] = []


class ReleaseRequest(msgspec.Struct, rename="kebab", frozen=True):
    """The body of POST /release: the container IDs of one attachment or of several.

    `journal` is the ID of the journal that the release is for, if that is known.
    """

    container_ids: Annotated[list[_ContainerId], msgspec.Meta(min_length=1, max_length=100)]
    journal: Annotated[str, msgspec.Meta(pattern=JOURNAL_PATTERN)] = ""


class CollectRequest(msgspec.Struct, rename="kebab", frozen=True, forbid_unknown_fields=True):
    """The body of POST /gc: all containers of a network that there were at a sequence.

    `network` is empty for addresses that were allocated without one. With `dry_run`, it is only
    asked what would be released.
    """

    sequence: _WholeNumber
    valid: list[_ContainerId]
    network: _Network = ""
    dry_run: bool = False


class CompactRequest(msgspec.Struct, rename="kebab", frozen=True, forbid_unknown_fields=True):
    """The body of POST /compact, which may be empty. `order` is the token of an order to prune.

    With `dry_run`, it is only asked what would be done, without an order.
    """

    order: Annotated[str, msgspec.Meta(extra_json_schema={"pattern": "^([0-9a-f]{32})?$"})] = ""
    dry_run: bool = False


_RULES = {
    "pod-namespace": NAME_RULE,
    "pod-name": NAME_RULE,
    "container-id": CONTAINER_ID_RULE,
    "address-type": "'ipv4' or 'ipv6'",
    "network": f"empty, or {NAME_RULE}",
    "details": "true or false",
    "unusable": f"a list of {UNUSABLE_MAX} IP addresses at most",
    "container-ids": f"a list of 1 to 100 container IDs, each {CONTAINER_ID_RULE}",
    "journal": "the ID of a journal, 32 hexadecimal digits as Coild-Journal has them",
    "sequence": "the journal's, as GET /health told it before the containers were listed",
    "valid": f"a list of container IDs, each {CONTAINER_ID_RULE}",
}
#: By the type of the body: what decodes it, and the fields that it has to have.
_DECODERS: dict[type, tuple[Callable[[bytes | bytearray], Any], str]] = {
    kind: (msgspec.json.Decoder(kind).decode, fields)
    for kind, fields in (
        (AllocateRequest, "pod-namespace, pod-name, container-id"),
        (ReleaseRequest, "container-ids"),
        (CollectRequest, "sequence, valid and network"),
    )
}


def decode_body(kind: type[_T], body: bytes | bytearray) -> _T:
    """Read the body of POST /ip, /release or /gc. Raises BadRequestError, naming the field."""
    decode, fields = _DECODERS[kind]
    if not body:
        raise BadRequestError(f"the body is empty: it must be a JSON object with {fields}")
    try:
        found: _T = decode(body)
    except msgspec.ValidationError as error:
        raise BadRequestError(_explain(str(error))) from None
    except RecursionError:
        raise BadRequestError("the body is nested too deeply") from None
    except ValueError as error:
        # Invalid UTF-8 is a UnicodeDecodeError, which msgspec does not wrap.
        raise BadRequestError(f"the body is not valid JSON: {error}") from None
    return found


def unusable_of(request: AllocateRequest, version: int) -> list[int]:
    """The addresses of one family that the request cannot use. Raises BadRequestError."""
    try:
        parsed = [ipaddress.ip_address(text) for text in request.unusable]
    except ValueError as error:
        raise BadRequestError(f"unusable must be {_RULES['unusable']}: {error}") from None
    return [int(address) for address in parsed if address.version == version]


def decode_compact(body: bytes) -> CompactRequest:
    """Read the body of POST /compact. Raises BadRequestError."""
    if not body:
        return CompactRequest()
    try:
        wanted = msgspec.json.decode(body, type=CompactRequest)
    except (ValueError, RecursionError) as error:
        rule = "be empty, name an order or ask for a dry-run"
        raise BadRequestError(f"the body must {rule}: {error}") from None
    if wanted.dry_run and wanted.order:
        raise BadRequestError(
            "dry-run takes no order, which one request would use up: coild-compact --dry-run says "
            "what it would do"
        )
    return wanted


def _explain(text: str) -> str:
    """Msgspec's message with the rule of the field it names."""
    found = re.search(r"`\$\.([a-z-]+)(?:\[[0-9.]+\])?`", text) or re.search(
        r"required field `([a-z-]+)`", text
    )
    if found is None or found[1] not in _RULES:
        return f"the body must be a JSON object: {text}"
    field = found[1]
    if "required" in text:
        return f"{field} is missing: it must be {_RULES[field]}"
    if "regex" in text:
        return f"{field} must be {_RULES[field]}"
    return f"{field} must be {_RULES[field]}: {text.partition(' - at')[0]}"
