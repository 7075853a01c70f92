"""Pools as events and snapshots have them, and back."""

from __future__ import annotations

from coild.rules.addresses import Pool, Span, Subnet
from coild.rules.events import ApartSpec, PoolsChanged, PoolSpec, ReservingPoolsChanged

_NOTHING_APART = ApartSpec([], reserve_edges=False, gateways=[], unusable=[])


def pools_of(specs: dict[str, PoolSpec], aparts: dict[str, ApartSpec]) -> dict[str, Pool]:
    """The pools of an event or a snapshot. Raises ValueError for bytes that are not a key."""
    pools = {}
    for name, spec in specs.items():
        apart = aparts.get(name, _NOTHING_APART)
        pools[name] = Pool(
            tuple(map(Subnet.from_key, spec.subnets)),
            spec.block_size,
            tuple(map(Span.from_key, apart.reserved)),
            apart.reserve_edges,
            tuple(map(Span.from_key, apart.gateways)),
            tuple(map(Span.from_key, apart.unusable)),
        )
    return pools


def specs_of(pools: dict[str, Pool]) -> dict[str, PoolSpec]:
    """The pools but for what they set apart."""
    return {
        name: PoolSpec([subnet.key for subnet in pool.subnets], pool.block_size)
        for name, pool in pools.items()
    }


def apart_of(pools: dict[str, Pool]) -> dict[str, ApartSpec]:
    """The addresses that are set apart, by pool; those that set none apart are left out."""
    found = {}
    for name, pool in pools.items():
        reserved, gateways, unusable = (
            [span.key for span in spans] for spans in (pool.reserved, pool.gateways, pool.unusable)
        )
        spec = ApartSpec(reserved, pool.reserve_edges, gateways, unusable)
        if spec != _NOTHING_APART:
            found[name] = spec
    return found


def pools_changed(time: int, pools: dict[str, Pool]) -> PoolsChanged:
    """The event that puts `pools` in force."""
    if apart := apart_of(pools):
        return ReservingPoolsChanged(time, specs_of(pools), apart)
    return PoolsChanged(time, specs_of(pools))
