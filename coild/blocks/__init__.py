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
    """One side of the seam: the configuration's pools, or a cluster's."""

    async def acquire(self, pool: str, version: int) -> Subnet:
        """A block that no other node has. Raises NoBlockError."""

    async def release(self, pool: str, block: Subnet) -> None:
        """Take back a block that the journal says is no longer the node's."""
