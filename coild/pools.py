"""The pools in force: from flags, environment or file, or the embedded ones."""

from __future__ import annotations

import itertools
import re

from coild.addresses import BITS, BLOCK_SIZE_MAX, Pool, Subnet
from coild.limits import NAME_PATTERN, NAME_RULE
from coild.settings import DEFAULT_BLOCK_SIZE, ConfigError, Layers

#: A private and a unique local subnet that clusters seldom use.
DEFAULT_POOLS = {"default": ["10.64.0.0/16", "fd00:64::/64"]}


def pools_in_force(layers: Layers) -> tuple[dict[str, Pool], bool]:
    """The pools in force, and whether they are the embedded ones."""
    short_key, short = layers.find("pool")
    file_key, tables = layers.find("pools")
    size_key, _ = layers.find("block_size")
    size = layers.get("block_size", None, _block_size)
    embedded = short is None and tables is None
    if short is not None:
        named = [(short_key, *_short_pool(short_key, text)) for text in short]
        duplicates = {name for _, name, _ in named if [n for _, n, _ in named].count(name) > 1}
        if duplicates:
            raise ConfigError(short_key, f"pool {min(duplicates)!r} is given twice")
    elif tables is not None:
        if size is not None:
            raise ConfigError(
                size_key,
                "it is for the pools that --pool gives; here pools come from the file, "
                "so write block-size there",
            )
        named = [(f"{file_key}.{name}", name, table.subnets) for name, table in tables.items()]
    else:
        named = [("pools.default", name, subnets) for name, subnets in DEFAULT_POOLS.items()]
    pools: dict[str, Pool] = {}
    for key, name, subnets in named:
        if not re.search(NAME_PATTERN, name):
            raise ConfigError(key, f"{name!r} is no name for a pool: it must be {NAME_RULE}")
        if short is None and tables is not None:
            pools[name] = _pool(key, subnets, f"{key}: block-size", tables[name].block_size)
        else:
            block_size = size if size is not None else DEFAULT_BLOCK_SIZE
            pools[name] = _pool(key, subnets, size_key, block_size)
    if not pools:
        key = file_key if short is None else short_key
        raise ConfigError(key, "there must be a pool at least, or no such key")
    _check_overlaps([(key, pools[name]) for key, name, _ in named])
    return pools, embedded


def _short_pool(key: str, text: str) -> tuple[str, list[str]]:
    name, equals, subnets = text.partition("=")
    if not equals or not name or not subnets:
        raise ConfigError(key, f"{text!r} is no pool: write it as NAME=SUBNET[,SUBNET…]")
    return name, subnets.split(",")


def _pool(key: str, subnets: list[str], size_key: str, block_size: int) -> Pool:
    if not subnets:
        raise ConfigError(key, "subnets must name one subnet at least")
    try:
        block_size = _block_size(block_size)
    except ValueError as error:
        raise ConfigError(size_key, str(error)) from None
    try:
        pool = Pool(tuple(Subnet.parse(text.strip()) for text in subnets), block_size)
    except ValueError as error:
        raise ConfigError(f"{key}: subnets", str(error)) from None
    for subnet in pool.subnets:
        room = BITS[subnet.version] - subnet.prefix
        if block_size > room:
            raise ConfigError(
                size_key,
                f"a block of {1 << block_size} addresses ({block_size}) is larger than its subnet "
                f"{subnet}; at most {room} is allowed",
            )
    return pool


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
