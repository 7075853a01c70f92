"""The text of `coild-replay` for events, changes and states."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from coild.audit.diff import AddressChange, BlockChange, BootChange, Change, PoolChange, PoolView
from coild.audit.times import format_local, format_utc
from coild.rules.addresses import Subnet
from coild.rules.events import PoolSpec
from coild.rules.printable import printable
from coild.rules.projection import Projection
from tools.output import Table

_MARKS = {"gained": "+", "lost": "-", "moved": "~", "changed": "~"}


def when(state: Projection) -> str:
    """A state's time as text; the empty state has none."""
    return format_local(state.time) if state.sequence else "before the first event"


def summary(state: Projection) -> Iterator[str]:
    """The lines that summarize a state."""
    yield f"state after event {state.sequence}, {when(state)}"
    yield f"digest {state.digest()}"
    for name, pool in state.pools.items():
        subnets = ", ".join(map(str, pool.subnets))
        yield printable(f"pool {name}: {subnets}, blocks of {1 << pool.block_size}")
    yield f"{len(state.blocks)} blocks, {len(state.holdings)} addresses held"
    if state.blocks:
        yield ""
        yield from Table(("POOL", "BLOCK", "HELD", "OF")).lines(
            (block.pool, str(block.subnet), str(block.held), str(block.size))
            for block in state.blocks.values()
        )
    if state.holdings:
        yield ""
        yield from Table(("ADDRESS", "POD", "CONTAINER")).lines(
            (held.address, f"{held.pod_namespace}/{held.pod_name}", container_id)
            for container_id, held in state.holdings.items()
        )


def change_text(change: Change) -> str:
    """A change as one line."""
    mark = _MARKS[change.change]
    match change:
        case PoolChange():
            was, now = (_pool_text(pool) for pool in (change.before, change.after))
            text = f"{mark} pool {change.pool}: " + (
                f"{was}, now {now}" if was and now else was or now
            )
        case BlockChange():
            text = f"{mark} block {change.block} of pool {change.pool}"
        case AddressChange():
            former = f" (was {change.former.address})" if change.former else ""
            text = (
                f"{mark} address {change.address}{former} of block {change.block} of pool "
                f"{change.pool}, pod {change.pod_namespace}/{change.pod_name}, "
                f"container {change.container_id}"
            )
            text += f", network {change.network}" if change.network else ""
        case BootChange():
            text = f"{mark} boot {change.after or 'unknown'} (was {change.before or 'unknown'})"
    return printable(text)


def event_record(event: Any) -> dict[str, Any]:
    """An event for JSON: its type, and its fields by name."""
    fields = msgspec.structs.asdict(event)
    fields["time"] = format_utc(event.time)
    return {"type": type(event).__name__} | {
        name.replace("_", "-"): _plain(name, value) for name, value in fields.items()
    }


def event_text(event: Any) -> str:
    """An event without its time, as one line."""
    record = event_record(event)
    kind = record.pop("type")
    del record["time"]
    return printable(" ".join([kind, *(f"{name}={value}" for name, value in record.items())]))


def _pool_text(pool: PoolView | None) -> str:
    return f"{', '.join(pool.subnets)} in blocks of {1 << pool.block_size}" if pool else ""


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, bytes):
        return _subnet_text(value) if name == "block" else value.hex()
    if isinstance(value, dict):
        return {key: _plain(key, part) for key, part in value.items()}
    if isinstance(value, PoolSpec):
        return {
            "subnets": [_subnet_text(key) for key in value.subnets],
            "block-size": value.block_size,
        }
    return value


def _subnet_text(key: bytes) -> str:
    """A subnet as text; invalid bytes as they are."""
    try:
        subnet = Subnet.from_key(key)
        return str(subnet) if subnet.size else key.hex()
    except ValueError:
        return key.hex()
