"""The JSON bodies of answers, as types."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from coild.http.bodies import IpAddress
from coild.routing.announcer import RouteHealth
from coild.upkeep.compaction_plan import CompactionPlan
from coild.upkeep.compactor import Compaction


class Failure(msgspec.Struct, frozen=True):
    """The body of every failure: the status of the answer, and what is wrong, for people."""

    status: int
    error: str


class AddressAnswer(msgspec.Struct, frozen=True):
    """The body of an answer that tells the address of a container."""

    address: IpAddress
    status: Literal[200] = 200


class PlacedAnswer(AddressAnswer, frozen=True, kw_only=True):
    """The same and, on request, where it lies; empty: of no pool any more, or no gateway."""

    gateway: str | msgspec.UnsetType = msgspec.UNSET
    pool: str | msgspec.UnsetType = msgspec.UNSET
    subnet: str | msgspec.UnsetType = msgspec.UNSET


#: The fields of answers that are there on request only.
ON_REQUEST = frozenset({"dry-run", "gateway", "pool", "subnet", "unknown"})


class ReleaseAnswer(msgspec.Struct, frozen=True):
    """The address that was released; empty if there was none."""

    address: Annotated[
        str,
        msgspec.Meta(
            extra_json_schema={"anyOf": [{"format": "ipv4"}, {"format": "ipv6"}, {"const": ""}]}
        ),
    ]
    status: Literal[200] = 200


class StatusAnswer(msgspec.Struct, frozen=True, rename="kebab"):
    """The blocks of the node by pool, and the addresses of its containers by container ID."""

    address_blocks: dict[str, list[str]]
    pods: dict[str, str]
    status: Literal[200] = 200


class Health(msgspec.Struct, frozen=True):
    """How the daemon is: whether it can allocate, and whether the blocks' routes are exported."""

    writable: bool
    routes: RouteHealth


class HealthAnswer(Health, frozen=True):
    """How the daemon is, and the sequence of the journal's last durable event."""

    sequence: int
    status: Literal[200] = 200


class LiveAnswer(msgspec.Struct, frozen=True):
    """The loop turns, and the daemon does not end by a failure."""

    status: Literal[200] = 200


class CheckAnswer(msgspec.Struct, frozen=True):
    """How a check came out: whether it is well and, if not, what is wrong."""

    name: str
    ok: bool
    reason: str


class ReadyAnswer(msgspec.Struct, frozen=True):
    """Addresses can be had; some of the checks may tell something all the same."""

    checks: list[CheckAnswer]
    status: Literal[200] = 200


class Released(msgspec.Struct, frozen=True, rename="kebab"):
    """An address that was released, and who had it."""

    address: str
    container_id: str
    pod_name: str
    pod_namespace: str


class ContainerAnswer(Released, frozen=True, rename="kebab"):
    """The address of a container, whose it is, and the CNI network that it is for, if any."""

    network: str
    status: Literal[200] = 200


class ReleasesAnswer(msgspec.Struct, frozen=True):
    """What was released of the containers that were named."""

    released: list[Released]
    status: Literal[200] = 200


class CollectionAnswer(msgspec.Struct, rename="kebab", frozen=True):
    """What a garbage collection released, and which valid containers hold nothing, if any.

    With `dry_run`, nothing was released: `released` is what would be.
    """

    released: list[Released]
    unknown: list[str] | msgspec.UnsetType = msgspec.UNSET
    dry_run: bool | msgspec.UnsetType = msgspec.UNSET
    status: Literal[200] = 200


class CompactionAnswer(Compaction, frozen=True, rename="kebab"):
    """What a compaction did; sizes are in bytes."""

    status: Literal[200] = 200


class CompactionPlanAnswer(CompactionPlan, frozen=True, rename="kebab", kw_only=True):
    """What a compaction would do; sizes are in bytes, those in the archive estimates."""

    status: Literal[200] = 200
