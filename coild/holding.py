"""What state is made of: the blocks that the node holds, and who holds an address in them."""

from __future__ import annotations

from collections import deque

import msgspec

from coild.addresses import Subnet, address_text


class InconsistentEventError(Exception):
    """An event contradicts the events before it: the journal was not written by these rules."""


class Block:
    """One block that the node holds, and what is free in it.

    Offsets below `fresh` have been used; of those, `released` has the free ones as pairs of offset
    and time of release, oldest first. All others are held.
    """

    __slots__ = (
        "acquired",
        "base",
        "fresh",
        "in_force",
        "key",
        "pool",
        "released",
        "size",
        "version",
    )

    def __init__(self, key: bytes, pool: str, time: int) -> None:
        subnet = Subnet.from_key(key)
        self.key = key
        self.pool = pool
        self.version = subnet.version
        self.base = subnet.base
        self.size = subnet.size
        self.fresh = 0
        self.released: deque[tuple[int, int]] = deque()
        self.acquired = time
        #: Whether the pools of the configuration still have it.
        self.in_force = True

    @property
    def held(self) -> int:
        """How many of its addresses are held."""
        return self.fresh - len(self.released)

    @property
    def idle_since(self) -> int:
        """Since when no address is held. Means nothing while one is."""
        return self.released[-1][1] if self.released else self.acquired

    @property
    def subnet(self) -> Subnet:
        """The block as a subnet."""
        return Subnet.from_key(self.key)

    @property
    def next_offset(self) -> int:
        """The free offset that is to be used next: a fresh one, or the one released longest ago.

        Raises IndexError if none is free.
        """
        return self.fresh if self.fresh < self.size else self.released[0][0]

    def text(self, offset: int) -> str:
        """The address at `offset`."""
        return address_text(self.version, self.base + offset)

    def take(self, offset: int) -> None:
        """Make a free offset held, whichever it is."""
        if self.fresh <= offset < self.size:
            # Those that were skipped stay as good as fresh: released longest ago.
            skipped = [(skipped, 0) for skipped in range(self.fresh, offset)]
            self.released.extendleft(reversed(skipped))
            self.fresh = offset + 1
            return
        for entry in self.released:
            if entry[0] == offset:
                self.released.remove(entry)
                return
        raise InconsistentEventError(
            f"{self.text(offset)} is held already"
            if 0 <= offset < self.size
            else f"offset {offset} is outside of {self.subnet}"
        )


class Holding(msgspec.Struct, frozen=True, gc=False):
    """A container's address: an offset into a block, and the pod that the container is of."""

    block: Block
    offset: int
    pod_namespace: str
    pod_name: str

    @property
    def address(self) -> str:
        """The address as text."""
        return self.block.text(self.offset)

    @property
    def network(self) -> str:
        """The CNI network that the address is for, if it was allocated for one."""
        return ""


class Attachment(Holding, frozen=True, gc=False):
    """A container's address in a CNI network."""

    of_network: str

    @property
    def network(self) -> str:
        """The network's name."""
        return self.of_network
