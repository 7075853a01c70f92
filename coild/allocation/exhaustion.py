"""Which pools have no address to give any more, and whether blocks of old keep them from it."""

from __future__ import annotations

from coild.blocks import BlockSource
from coild.rules.addresses import BITS, Pool
from coild.rules.allocator import Allocator
from coild.rules.printable import listed
from coild.rules.projection import Projection

#: So many blocks are named.
_NAMED_MAX = 3
_OF_OLD = ": blocks of a former configuration stand in its subnets "


def exhausted(allocator: Allocator, blocks: BlockSource, state: Projection) -> list[str]:
    """For each pool and family without a free address, a line that names them."""
    return [
        f"pool {name!r} has no free IPv{version} address{_of_old(pool, version, state)}"
        for name, pool in state.pools.items()
        for version in BITS
        if pool.of(version)
        and not allocator.free(name, version)
        and not blocks.has_block(name, version)
    ]


def blocked(allocator: Allocator, blocks: BlockSource, state: Projection) -> list[str]:
    """Those of `exhausted` that have no address because of blocks of a former configuration."""
    return [line for line in exhausted(allocator, blocks, state) if _OF_OLD in line]


def _of_old(pool: Pool, version: int, state: Projection) -> str:
    """The blocks in the pool's subnets that an earlier configuration made, if there are any."""
    found = [
        block
        for block in state.blocks.values()
        if not block.configured
        and block.version == version
        and any(
            block.subnet.base < subnet.end and subnet.base < block.subnet.end
            for subnet in pool.of(version)
        )
    ]
    if not found:
        return ""
    names = listed([f"{block.subnet} of pool {block.pool!r}" for block in found], _NAMED_MAX)
    held = sum(block.held for block in found)
    until = f"their {held} addresses are released" if held else "their addresses have rested"
    return f"{_OF_OLD}({names}), until {until}"
