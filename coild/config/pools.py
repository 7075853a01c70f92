"""The pools in force: from flags, environment or file, or the embedded ones."""

from __future__ import annotations

import itertools
import re

from coild.config.layers import ConfigError, Layers, PoolSettings, boolean
from coild.rules.addresses import BITS, BLOCK_SIZE_MAX, Pool, Subnet
from coild.rules.apart import gateways_of, reserved_of, why_no_unicast
from coild.rules.limits import NAME_PATTERN, NAME_RULE

#: A private and a unique local subnet that clusters seldom use, with the first address of each that
#: a host can have as the gateway. A pod without a CNI network can use the edges, too.
DEFAULT_POOL = PoolSettings(["10.64.0.0/16", "fd00:64::/64"], gateway=["10.64.0.1", "fd00:64::1"])


def pools_in_force(layers: Layers) -> tuple[dict[str, Pool], bool]:
    """The pools in force, and whether they are the embedded ones."""
    short_key, short = layers.find("pool")
    file_key, tables = layers.find("pools")
    embedded = short is None and tables is None
    if short is not None:
        named = _by_name(short_key, short)
        keys = dict.fromkeys(named, short_key)
    elif tables is not None:
        named = dict(tables)
        keys = {name: f"{file_key}.{name}" for name in named}
    else:
        named = {"default": DEFAULT_POOL}
        keys = {"default": "pools.default"}
    from_file = short is None and tables is not None
    labels = _spread(layers, named, from_file=from_file)
    pools: dict[str, Pool] = {}
    for name, settings in named.items():
        if not re.search(NAME_PATTERN, name):
            raise ConfigError(keys[name], f"{name!r} is no name for a pool: it must be {NAME_RULE}")
        here = {field: f"{keys[name]}: {field}" for field in ("block-size", "reserved", "gateway")}
        pools[name] = _pool(keys[name], settings, here | labels)
    if not pools:
        key = file_key if short is None else short_key
        raise ConfigError(key, "there must be a pool at least, or no such key")
    _check_overlaps([(keys[name], pool) for name, pool in pools.items()])
    return pools, embedded


def _by_name(key: str, texts: list[str]) -> dict[str, PoolSettings]:
    """The pools of `--pool`."""
    found: dict[str, PoolSettings] = {}
    for text in texts:
        name, subnets = _short(key, text, "pool", "SUBNET[,SUBNET…]")
        if name in found:
            raise ConfigError(key, f"pool {name!r} is given twice")
        found[name] = PoolSettings(subnets)
    return found


def _short(key: str, text: str, what: str, values: str) -> tuple[str, list[str]]:
    """A pool's name, and what is said of it."""
    name, equals, rest = text.partition("=")
    if not equals or not name or not rest:
        raise ConfigError(key, f"{text!r} is no {what}: write it as NAME={values}")
    return name, [each.strip() for each in rest.split(",")]


def _spread(layers: Layers, named: dict[str, PoolSettings], *, from_file: bool) -> dict[str, str]:
    """Give the pools of `--pool`, or the embedded one, what has flags of its own.

    The key under which the user wrote each of these. Raises ConfigError.
    """
    labels = {}
    for field in ("block_size", "reserve_edges", "reserved", "gateway"):
        key, value = layers.find(field)
        if value is None:
            continue
        written = field.replace("_", "-")
        labels[written] = key
        if from_file:
            raise ConfigError(
                key,
                "it is for the pools that --pool gives; here pools come from the file, "
                f"so write {written} there",
            )
    if from_file:
        return labels
    size = layers.get("block_size", None, _block_size)
    reserve_edges = layers.get("reserve_edges", None, boolean)
    reserved = _told_of(layers, "reserved", named, "ADDRESS[,RANGE,SUBNET…]")
    gateways = _told_of(layers, "gateway", named, "ADDRESS[,ADDRESS…]")
    for name, of_pool in named.items():
        named[name] = PoolSettings(
            of_pool.subnets,
            of_pool.block_size if size is None else size,
            [*of_pool.reserved, *reserved.get(name, [])],
            of_pool.reserve_edges if reserve_edges is None else reserve_edges,
            # What the embedded pool has is replaced.
            gateways.get(name, of_pool.gateway),
        )
    return labels


def _told_of(
    layers: Layers, field: str, named: dict[str, PoolSettings], values: str
) -> dict[str, list[str]]:
    """The addresses that a flag gives, by pool. Raises ConfigError."""
    key, texts = layers.find(field)
    found: dict[str, list[str]] = {}
    for text in texts or ():
        name, addresses = _short(key, text, f"{field} of a pool", values)
        if name not in named:
            raise ConfigError(
                key, f"there is no pool {name!r}, there is {', '.join(sorted(named))}"
            )
        found.setdefault(name, []).extend(addresses)
    return found


def _pool(key: str, settings: PoolSettings, keys: dict[str, str]) -> Pool:
    """`keys` has those that are not the pool's own, by field."""
    if not settings.subnets:
        raise ConfigError(key, "subnets must name one subnet at least")
    try:
        block_size = _block_size(settings.block_size)
    except ValueError as error:
        raise ConfigError(keys["block-size"], str(error)) from None
    try:
        subnets = tuple(Subnet.parse(text.strip()) for text in settings.subnets)
    except ValueError as error:
        raise ConfigError(f"{key}: subnets", str(error)) from None
    for subnet in subnets:
        if reason := why_no_unicast(subnet):
            raise ConfigError(f"{key}: subnets", f"{subnet} is not for pods: {reason}")
        room = BITS[subnet.version] - subnet.prefix
        if block_size > room:
            raise ConfigError(
                keys["block-size"],
                f"a block of {1 << block_size} addresses ({block_size}) is larger than its subnet "
                f"{subnet}; at most {room} is allowed",
            )
    try:
        field = "reserved"
        reserved = reserved_of(settings.reserved, subnets)
        field = "gateway"
        gateway = settings.gateway
        gateways = gateways_of([gateway] if isinstance(gateway, str) else gateway, subnets)
    except ValueError as error:
        raise ConfigError(keys[field], str(error)) from None
    return Pool(subnets, block_size, reserved, settings.reserve_edges, gateways)


def _check_overlaps(pools: list[tuple[str, Pool]]) -> None:
    owned = [(key, subnet) for key, pool in pools for subnet in pool.subnets]
    for (key, subnet), (other_key, other) in itertools.combinations(owned, 2):
        if subnet.overlaps(other):
            raise ConfigError(
                f"{other_key}: subnets",
                f"{other} overlaps {subnet} of {key}; every address must be in one subnet only",
            )


def _block_size(value: str | int) -> int:
    text = str(value)
    if not text.isascii() or not text.isdigit() or int(text) > BLOCK_SIZE_MAX:
        raise ValueError(
            f"{value!r} is no block size: it is an exponent from 0 to {BLOCK_SIZE_MAX} "
            "(5 means 32 addresses)"
        )
    return int(text)
