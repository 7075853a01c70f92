"""Which block the next address comes from, at a cost that does not grow with what is held.

Allocation is first-fit: blocks stand in slots, a new one in the first vacant slot, and the first
block with an address ready serves. So the last blocks run empty and can be given back. An address
is ready when it was never used or was released long enough ago.

All of this is an index over the projection: it is built from it at start, told of each event after
that, and never journalled.
"""

from __future__ import annotations

from collections import deque

from coild.rules.holding import Block

_WORD_BITS = 1024


class LowestSet:
    """A set of small integers that knows its lowest.

    Words of bits, and a summary of which words are not empty: each operation is three steps on
    small numbers, whether the set has ten members or a million.
    """

    def __init__(self) -> None:
        self._words: list[int] = []
        self._summary = 0

    def add(self, number: int) -> None:
        """Add `number`, which may be in it already."""
        word, bit = divmod(number, _WORD_BITS)
        while word >= len(self._words):
            self._words.append(0)
        self._words[word] |= 1 << bit
        self._summary |= 1 << word

    def discard(self, number: int) -> None:
        """Remove `number` if it is in it."""
        word, bit = divmod(number, _WORD_BITS)
        if word < len(self._words):
            self._words[word] &= ~(1 << bit)
            if not self._words[word]:
                self._summary &= ~(1 << word)

    def lowest(self) -> int | None:
        """Its lowest member, or None if it is empty."""
        if not self._summary:
            return None
        word = (self._summary & -self._summary).bit_length() - 1
        bits = self._words[word]
        return word * _WORD_BITS + (bits & -bits).bit_length() - 1


class FreeList:
    """The free addresses of one pool and family. Times and durations are in ns."""

    def __init__(self, reuse_after: int) -> None:
        self._reuse_after = reuse_after
        # Blocks by slot; a block that goes leaves its slot to the next one.
        self._slots: list[Block | None] = []
        self._slot_of: dict[bytes, int] = {}
        self._vacant = LowestSet()
        # Slots whose block may have an address ready: `ready` looks, and forgets the others. A
        # slot with one is always in it.
        self._ready = LowestSet()
        # For each release that may still be too recent: its time and its block's slot, oldest
        # first.
        self._cooling: deque[tuple[int, int]] = deque()
        # What was released then or before has rested: it does so for good.
        self._cooled = 0
        #: How many addresses are free, ready or not.
        self.free = 0

    def add_block(self, block: Block) -> None:
        """Take up a block without released addresses: a new one."""
        slot = self._vacant.lowest()
        if slot is None:
            slot = len(self._slots)
            self._slots.append(block)
        else:
            self._vacant.discard(slot)
            self._slots[slot] = block
        self._slot_of[block.key] = slot
        self._ready.add(slot)
        self.free += block.free

    def remove_block(self, key: bytes) -> None:
        """Drop a block; one that is not in the list stays out of it."""
        slot = self._slot_of.pop(key, None)
        if slot is None:
            return
        block, self._slots[slot] = self._slots[slot], None
        self._vacant.add(slot)
        self.free -= block.free if block is not None else 0

    def restore(self, blocks: list[Block]) -> None:
        """Take up blocks as a replay left them."""
        cooling: list[tuple[int, int]] = []
        for block in blocks:
            self.add_block(block)
            slot = self._slot_of[block.key]
            cooling.extend((time, slot) for _, time in block.released)
        self._cooling.extend(sorted(cooling))

    def allocated(self) -> None:
        """An address of one of the blocks was allocated."""
        self.free -= 1

    def released(self, block: Block, time: int) -> None:
        """An address of `block` was released; times must not run backwards."""
        self.free += 1
        self._cooling.append((time, self._slot_of[block.key]))

    def ready(self, now: int) -> Block | None:
        """The first block whose `next_offset` may be used; None if there is none."""
        cooled = self._cooled = max(self._cooled, now - self._reuse_after)
        cooling, ready = self._cooling, self._ready
        while cooling and cooling[0][0] <= cooled:
            ready.add(cooling.popleft()[1])
        while (slot := ready.lowest()) is not None:
            block = self._slots[slot]
            if block is not None and (
                block.next_unused < block.size
                or (block.released and block.released[0][1] <= cooled)
            ):
                return block
            ready.discard(slot)
        return None

    def oldest(self) -> Block | None:
        """If none is ready: the block whose `next_offset` was released longest ago of all."""
        while self._cooling:
            time, slot = self._cooling[0]
            block = self._slots[slot]
            if block is not None and block.released and block.released[0][1] == time:
                return block
            # That address was handed out early, or its block is gone.
            self._cooling.popleft()
        return None
