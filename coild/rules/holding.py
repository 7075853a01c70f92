"""The parts of the state: the blocks that the node holds, and the addresses held in them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec

from coild.rules.addresses import Subnet, address_text
from coild.rules.ranges import Ranges

_NOTHING = Ranges()


class InconsistentEventError(Exception):
    """An event contradicts the events before it: the journal was not written by these rules."""


class Block:
    """One block that the node holds, and what is free in it.

    Offsets below `next_unused` have been used or were stepped over; of those, `released` has the
    free ones as pairs of offset and time of release, oldest first. All others are held, but for
    `aside` of them, which are of those set apart.
    """

    __slots__ = (
        "acquired",
        "apart",
        "aside",
        "base",
        "configured",
        "key",
        "next_unused",
        "pool",
        "released",
        "size",
        "stop",
        "version",
    )

    def __init__(self, key: bytes, pool: str, time: int) -> None:
        subnet = Subnet.from_key(key)
        self.key = key
        self.pool = pool
        self.version = subnet.version
        self.base = subnet.base
        self.size = subnet.size
        self.next_unused = 0
        self.released: deque[tuple[int, int]] = deque()
        self.acquired = time
        #: The offsets that are set apart: none of them becomes held, those that are stay so.
        self.apart = _NOTHING
        #: How many of those below `next_unused` are set apart, and not held.
        self.aside = 0
        #: From `next_unused` up to here nothing is set apart.
        self.stop = self.size
        #: Whether the pools of the configuration still have it.
        self.configured = True

    @property
    def held(self) -> int:
        """How many of its addresses are held."""
        return self.next_unused - len(self.released) - self.aside

    @property
    def free(self) -> int:
        """How many of its addresses can be handed out, now or when they have rested."""
        apart = self.apart.count(self.next_unused, self.size) if self.apart else 0
        return len(self.released) + self.size - self.next_unused - apart

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
        return self.next_unused if self.next_unused < self.size else self.released[0][0]

    def address_at(self, offset: int) -> str:
        """The address at `offset`."""
        return address_text(self.version, self.base + offset)

    def take(self, offset: int) -> None:
        """Make a free offset held, whichever it is."""
        if offset in self.apart:
            raise InconsistentEventError(f"{self.address_at(offset)} is set apart")
        if self.next_unused <= offset < self.size:
            # Those that were skipped stay as good as fresh: released longest ago.
            skipped = [
                (each, 0) for each in range(self.next_unused, offset) if each not in self.apart
            ]
            self.aside += offset - self.next_unused - len(skipped)
            self.released.extendleft(reversed(skipped))
            self.next_unused = offset + 1
            self.advance()
            return
        for entry in self.released:
            if entry[0] == offset:
                self.released.remove(entry)
                return
        raise InconsistentEventError(
            f"{self.address_at(offset)} is held already"
            if 0 <= offset < self.size
            else f"offset {offset} is outside of {self.subnet}"
        )

    def advance(self) -> None:
        """Step over what is set apart: `next_unused` is never of it."""
        end = self.apart.end_after(self.next_unused)
        self.aside += end - self.next_unused
        self.next_unused = end
        self.stop = self.apart.next_start(end, self.size)

    def begin(self, apart: Ranges) -> None:
        """Set addresses apart in a block that was acquired just now."""
        self.apart = apart
        self.advance()

    def resume(self, apart: Ranges, held: int) -> None:
        """Take what is set apart as given, where `held` addresses are held."""
        self.apart = apart
        self.aside = self.next_unused - len(self.released) - held
        self.stop = apart.next_start(self.next_unused, self.size)

    def set_apart(self, apart: Ranges, held: Callable[[bytes], set[int]], time: int) -> None:
        """From now on this is what is set apart. `held` tells a block's offsets that are held."""
        if apart == self.apart:
            return
        before, self.apart = self.apart, apart
        kept = [entry for entry in self.released if entry[0] not in apart]
        self.aside += len(self.released) - len(kept)
        if self.aside:
            # What is free again rests: until it was set apart, a pod may have had it.
            taken = held(self.key)
            for start, end in before.without(apart):
                free = set(range(start, min(end, self.next_unused))) - taken
                kept.extend((offset, time) for offset in sorted(free))
                self.aside -= len(free)
        self.released = deque(kept)
        self.advance()


class Holding(msgspec.Struct, frozen=True, gc=False):
    """A container's address: an offset into a block, and the pod that the container is of."""

    block: Block
    offset: int
    pod_namespace: str
    pod_name: str

    @property
    def address(self) -> str:
        """The address as text."""
        return self.block.address_at(self.offset)

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


class Status(msgspec.Struct, frozen=True):
    """Blocks by pool, and addresses by container ID, at one moment."""

    address_blocks: dict[str, list[str]]
    pods: list[tuple[str, Holding]]
