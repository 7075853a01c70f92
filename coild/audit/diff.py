"""The changes between two moments, as records that lead from the one to the other.

A view is what `/status` says of a state, with the pools, with each address's pod, block and CNI
network, and with the node's boot.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from coild.rules.addresses import Pool, Subnet, address_text
from coild.rules.events import (
    AddressAllocated,
    AddressReleased,
    BlockAcquired,
    BlockReleased,
    NodeBooted,
    PoolsChanged,
)
from coild.rules.projection import Projection

_OPPOSITE: dict[str, Literal["gained", "lost"]] = {"gained": "lost", "lost": "gained"}


class PoolView(msgspec.Struct, frozen=True, rename="kebab"):
    """A pool as people write it."""

    subnets: tuple[str, ...]
    block_size: int


class Held(msgspec.Struct, frozen=True, rename="kebab"):
    """An address, where it comes from, and the pod that has it."""

    address: str
    block: str
    pool: str
    pod_namespace: str
    pod_name: str
    #: The CNI network that it is for; empty if none was named.
    network: str = ""


class View(msgspec.Struct, frozen=True, rename="kebab"):
    """A state: pools by name, blocks by pool in the order they were acquired, pods by container."""

    pools: dict[str, PoolView]
    address_blocks: dict[str, list[str]]
    pods: dict[str, Held]
    #: Of the boot that the addresses are held since, as the kernel names it; empty if not known.
    boot_id: str = ""


class PoolChange(msgspec.Struct, frozen=True, rename="kebab", tag_field="kind", tag="pool"):
    """A pool came, went or is another now. What it was before is null if it was not there."""

    change: Literal["gained", "lost", "changed"]
    pool: str
    before: PoolView | None
    after: PoolView | None


class BlockChange(msgspec.Struct, frozen=True, rename="kebab", tag_field="kind", tag="block"):
    """The node holds a block, or holds it no more."""

    change: Literal["gained", "lost"]
    pool: str
    block: str


class AddressChange(msgspec.Struct, frozen=True, rename="kebab", tag_field="kind", tag="address"):
    """A container holds an address, or holds it no more, or its pod holds another one now.

    `former` is what it held before it moved, null if it did not.
    """

    change: Literal["gained", "lost", "moved"]
    container_id: str
    address: str
    pool: str
    block: str
    pod_namespace: str
    pod_name: str
    former: Held | None = None
    network: str = ""

    @property
    def held(self) -> Held:
        """The address that is held, or was until it was lost."""
        return Held(*(getattr(self, field) for field in Held.__struct_fields__))


class BootChange(msgspec.Struct, frozen=True, rename="kebab", tag_field="kind", tag="boot"):
    """The node was booted: the kernel's name for its boot is another. Empty if it is not known."""

    change: Literal["changed"]
    before: str
    after: str


Change = PoolChange | BlockChange | AddressChange | BootChange


def view(state: Projection) -> View:
    """The view of a state."""
    blocks: dict[str, list[str]] = {}
    names: dict[bytes, str] = {}
    for key, block in state.blocks.items():
        names[key] = str(block.subnet)
        blocks.setdefault(block.pool, []).append(names[key])
    return View(
        pools=_pools(state.pools),
        address_blocks=blocks,
        pods={
            container_id: Held(
                held.address,
                names[held.block.key],
                held.block.pool,
                held.pod_namespace,
                held.pod_name,
                held.network,
            )
            for container_id, held in state.holdings.items()
        },
        boot_id=state.boot_id,
    )


def difference(before: View, after: View) -> list[Change]:
    """The changes from `before` to `after`: pools, blocks, addresses, then the boot."""
    return [
        *_pool_changes(before.pools, after.pools),
        *_block_changes(before.address_blocks, after.address_blocks),
        *_address_changes(before.pods, after.pods),
        *_boot_changes(before.boot_id, after.boot_id),
    ]


def effect(state: Projection, event: Any) -> list[Change]:
    """The changes that an event makes to the state before it, without a look at all of that."""
    match event:
        case AddressAllocated() | AddressReleased():
            block = Subnet.from_key(event.block)
            held = state.holdings.get(event.container_id)
            return [
                _address(
                    "gained" if isinstance(event, AddressAllocated) else "lost",
                    event.container_id,
                    Held(
                        address_text(block.version, block.base + event.offset),
                        str(block),
                        event.pool,
                        event.pod_namespace,
                        event.pod_name,
                        getattr(event, "network", "") if held is None else held.network,
                    ),
                )
            ]
        case BlockAcquired():
            return [BlockChange("gained", event.pool, str(Subnet.from_key(event.block)))]
        case BlockReleased():
            return [BlockChange("lost", event.pool, str(Subnet.from_key(event.block)))]
        case PoolsChanged():
            after = {
                name: PoolView(
                    tuple(str(Subnet.from_key(key)) for key in spec.subnets), spec.block_size
                )
                for name, spec in event.pools.items()
            }
            return list(_pool_changes(_pools(state.pools), after))
        case NodeBooted():
            return list(_boot_changes(state.boot_id, event.boot_id))
        case _:
            return []


def undone(changes: Sequence[Change]) -> list[Change]:
    """The changes that lead back."""
    return [_undone(change) for change in reversed(changes)]


def _undone(change: Change) -> Change:
    if isinstance(change, AddressChange) and change.former is not None:
        return _address("moved", change.container_id, change.former, change.held)
    if isinstance(change, BootChange):
        return BootChange("changed", change.after, change.before)
    if isinstance(change, PoolChange):
        return PoolChange(
            _OPPOSITE.get(change.change, "changed"), change.pool, change.after, change.before
        )
    return msgspec.structs.replace(change, change=_OPPOSITE[change.change])


def _pools(pools: Mapping[str, Pool]) -> dict[str, PoolView]:
    return {
        name: PoolView(tuple(map(str, pool.subnets)), pool.block_size)
        for name, pool in pools.items()
    }


def _pool_changes(
    before: Mapping[str, PoolView], after: Mapping[str, PoolView]
) -> Iterable[PoolChange]:
    for name in {**before, **after}:
        was, now = before.get(name), after.get(name)
        if was != now:
            yield PoolChange(
                "changed" if was and now else "gained" if now else "lost", name, was, now
            )


def _boot_changes(before: str, after: str) -> Iterable[BootChange]:
    if before != after:
        yield BootChange("changed", before, after)


def _block_changes(
    before: Mapping[str, list[str]], after: Mapping[str, list[str]]
) -> Iterable[BlockChange]:
    kept = {pool: _kept(names, after.get(pool, ())) for pool, names in before.items()}
    for pool, names in before.items():
        stayed = set(after.get(pool, ())[: kept[pool]])
        yield from (BlockChange("lost", pool, name) for name in names if name not in stayed)
    for pool, names in after.items():
        yield from (BlockChange("gained", pool, name) for name in names[kept.get(pool, 0) :])


def _kept(before: Sequence[str], after: Sequence[str]) -> int:
    """How many of `after` stand in `before` in this order.

    The blocks behind them were acquired since, even if the node had held one of them before.
    """
    rest = iter(before)
    count = 0
    while count < len(after) and after[count] in rest:
        count += 1
    return count


def _address_changes(
    before: Mapping[str, Held], after: Mapping[str, Held]
) -> Iterable[AddressChange]:
    for container_id in {**before, **after}:
        was, now = before.get(container_id), after.get(container_id)
        if was == now:
            continue
        if was and now and _moved(was, now):
            yield _address("moved", container_id, now, was)
            continue
        if was:
            yield _address("lost", container_id, was)
        if now:
            yield _address("gained", container_id, now)


def _moved(was: Held, now: Held) -> bool:
    """Whether the same pod has another address."""
    return (
        was.address != now.address
        and was.pod_namespace == now.pod_namespace
        and was.pod_name == now.pod_name
        and was.network == now.network
    )


def _address(
    change: Literal["gained", "lost", "moved"],
    container_id: str,
    held: Held,
    former: Held | None = None,
) -> AddressChange:
    return AddressChange(
        change=change, container_id=container_id, former=former, **msgspec.structs.asdict(held)
    )
