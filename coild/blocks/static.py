"""Blocks from the pools of the configuration: all theirs are this node's, and answered at once.

Blocks are computed, not listed: a /48 costs what a /24 costs. The next block is looked for behind
the one given out last, so one that came back is given out again as late as possible.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable, Mapping

from coild.blocks import NoBlockError
from coild.rules.addresses import BITS, Pool, Subnet
from coild.rules.ranges import Ranges


class StaticBlocks:
    """A BlockSource over pools that no other node shares."""

    def __init__(self, pools: Mapping[str, Pool], held: Iterable[Subnet]) -> None:
        """`held` are the blocks that the node has, of whichever pool and size.

        What is in `pools` may change as the configuration does.
        """
        self._pools = pools
        # What is set apart, by pool and family, and the pool of which that is so.
        self._apart: dict[tuple[str, int], tuple[Pool, Ranges]] = {}
        # By family, sorted: (base, end) of each held block. Blocks may be of several sizes, from
        # before the configuration changed, so it is overlaps that are looked for, not equals.
        self._held: dict[int, list[tuple[int, int]]] = {version: [] for version in BITS}
        for block in held:
            insort(self._held[block.version], (block.base, block.end))
        self._cursors: dict[Subnet, int] = {}
        # Pools that were searched in vain since a block last came back: a full pool is asked often.
        self._exhausted: set[tuple[str, int]] = set()

    async def acquire(self, pool: str, version: int) -> Subnet:
        """The next block. Raises NoBlockError if the pool has no such subnet, or all is taken."""
        subnets = self._pools[pool].of(version)
        if not subnets:
            raise NoBlockError(f"pool {pool!r} has no IPv{version} subnet")
        if (pool, version) not in self._exhausted:
            prefix = self._pools[pool].block_prefix(version)
            apart = self._apart_in(pool, version)
            for subnet in subnets:
                block = self._next(subnet, prefix, apart)
                if block is not None:
                    insort(self._held[version], (block.base, block.end))
                    self._cursors[subnet] = block.end
                    return block
            self._exhausted.add((pool, version))
        or_apart = " or set apart" if self._apart_in(pool, version) else ""
        raise NoBlockError(
            f"pool {pool!r} has no free IPv{version} address: every block of "
            f"{1 << self._pools[pool].block_size} of {', '.join(map(str, subnets))} is taken"
            f"{or_apart}"
        )

    def has_block(self, pool: str, version: int) -> bool:
        """Whether `acquire` would have one to give."""
        prefix = self._pools[pool].block_prefix(version)
        apart = self._apart_in(pool, version)
        return (pool, version) not in self._exhausted and any(
            self._next(subnet, prefix, apart) for subnet in self._pools[pool].of(version)
        )

    async def release(self, pool: str, block: Subnet) -> None:  # noqa: ARG002
        """Take a block back. It may overlap with subnets of any pool."""
        self._held[block.version].remove((block.base, block.end))
        self._exhausted.clear()

    def _apart_in(self, name: str, version: int) -> Ranges:
        pool = self._pools[name]
        known = self._apart.get((name, version))
        if known is None or known[0] is not pool:
            known = self._apart[name, version] = pool, pool.apart(version)
        return known[1]

    def _next(self, subnet: Subnet, prefix: int, apart: Ranges) -> Subnet | None:
        """The first free block from the cursor on, and then from the subnet's start."""
        cursor = self._cursors.get(subnet, subnet.base)
        for start, stop in ((cursor, subnet.end), (subnet.base, cursor)):
            base = self._first_free(subnet.version, prefix, start, stop, apart)
            if base is not None:
                return Subnet(subnet.version, base, prefix)
        return None

    def _first_free(
        self, version: int, prefix: int, start: int, stop: int, apart: Ranges
    ) -> int | None:
        held = self._held[version]
        size = Subnet(version, 0, prefix).size
        base = start
        while base < stop:
            # The last held block that starts before this candidate's end is the only one that can
            # reach into it: held blocks do not overlap.
            before = bisect_right(held, base + size - 1, key=lambda block: block[0]) - 1
            if before >= 0 and held[before][1] > base:
                base = -(-held[before][1] // size) * size
            elif (usable := apart.end_after(base)) >= base + size:
                # Every address of it is set apart, and maybe of those behind it.
                base = usable // size * size
            else:
                return base
        return None
