"""Where address blocks come from.

A source is asked for one block of a pool and family at a time; it may take long and may refuse.
What it gives is the node's only when the journal says so, and the journal says first that a block
is no longer the node's, then the source is told.
"""

from __future__ import annotations

from typing import Protocol

from coild.rules.addresses import Subnet


class NoBlockError(Exception):
    """The source has no block to give; the text is for people, and for the answer."""


class BlockSource(Protocol):
    """One side of the seam: the configuration's pools, or a cluster's.

    It is made before the pools are in force, with those blocks that the node has by its journal:
    `StaticBlocks` is an example.
    """

    async def acquire(self, pool: str, version: int) -> Subnet:
        """A block that no other node has. Raises NoBlockError.

        It has the size of the pool's blocks, lies in one of the pool's subnets, and overlaps no
        block that the node has, not even one of another size from a former configuration.
        """

    def has_block(self, pool: str, version: int) -> bool:
        """Whether `acquire` would give one, as far as is known now; for what `/readyz` tells."""

    async def release(self, pool: str, block: Subnet) -> None:
        """Take back a block that the journal says is no longer the node's."""
