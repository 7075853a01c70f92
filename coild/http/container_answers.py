"""Answers about containers by their IDs: what they hold, and what was released."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from coild.http.answers import Answer, json_answer
from coild.http.budget import Budget
from coild.http.messages import CollectionAnswer, ContainerAnswer, Released, ReleasesAnswer
from coild.http.slices import encode_inside
from coild.rules.holding import Holding
from coild.rules.limits import FREE_BYTES

#: What a Released takes at least.
_BYTES_MIN = 80


def releases_answer(released: Iterable[tuple[str, Holding]]) -> Answer:
    """200 with the containers and what they held."""
    return json_answer(ReleasesAnswer(_released(released)))


def container_answer(container_id: str, held: Holding) -> Answer:
    """200 with what the container holds."""
    names = held.pod_name, held.pod_namespace, held.network
    return json_answer(ContainerAnswer(held.address, container_id, *names))


def check_room(released: Sequence[tuple[str, Holding]], budget: Budget) -> None:
    """Raises BusyError if the answer that names these has surely no room now."""
    size = _BYTES_MIN * len(released)
    if size > FREE_BYTES:
        budget.check(min(size, budget.bytes_max))


async def collection_body(
    released: Sequence[tuple[str, Holding]], unknown: list[str], *, dry_run: bool
) -> bytes:
    """The JSON of a CollectionAnswer."""
    begin = b'{"released":['
    # The rest of the object is that of an answer in which nothing was released.
    rest = msgspec.json.encode(
        CollectionAnswer([], unknown or msgspec.UNSET, dry_run or msgspec.UNSET)
    )
    return b"".join((begin, await encode_inside(released, _released), rest.removeprefix(begin)))


def _released(released: Iterable[tuple[str, Holding]]) -> list[Released]:
    return [
        Released(held.address, container_id, held.pod_name, held.pod_namespace)
        for container_id, held in released
    ]
