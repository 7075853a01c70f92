"""The index of what is free finds what a search through all blocks would find."""

from __future__ import annotations

import gc
import sys
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from coild.rules.addresses import Subnet
from coild.rules.free_list import FreeList, LowestSet
from coild.rules.holding import Block

REUSE_AFTER = 10
#: Around the bounds of a word, and far beyond it.
NUMBERS = st.integers(0, 5) | st.integers(1020, 1030) | st.integers(0, 5000)


@given(st.lists(st.tuples(st.booleans(), NUMBERS), max_size=100))
def test_the_lowest_is_the_minimum(operations: list[tuple[bool, int]]) -> None:
    """After any additions and removals, repeated ones included, the lowest is a plain set's."""
    numbers, plain = LowestSet(), set()
    for add, number in operations:
        if add:
            numbers.add(number)
            plain.add(number)
        else:
            numbers.discard(number)
            plain.discard(number)

        assert min(plain, default=None) == numbers.lowest()


class Index(RuleBasedStateMachine):
    """The index beside the blocks: each question is answered as by looking at every block."""

    def __init__(self) -> None:
        super().__init__()
        self.free = FreeList(REUSE_AFTER)
        self.blocks: list[Block] = []
        self.held: list[tuple[Block, int]] = []
        self.now = 100
        self.acquired = 0

    @rule(size_bits=st.integers(0, 3))
    def acquire(self, size_bits: int) -> None:
        """The node gets a block."""
        self.acquired += 1
        subnet = Subnet(4, self.acquired << 8, 32 - size_bits)
        block = Block(subnet.key, "default", self.now)
        self.blocks.append(block)
        self.free.add_block(block)

    @rule(count=st.integers(1, 5))
    def allocate(self, count: int) -> None:
        """Addresses are handed out: ready ones, and when none is, the oldest."""
        for _ in range(count):
            block = self.free.ready(self.now) or self.free.oldest()
            if block is None:
                assert all(block.held == block.size for block in self.blocks)
                return
            offset = block.next_offset
            if block.next_unused < block.size:
                block.next_unused += 1
            else:
                block.released.popleft()
            self.held.append((block, offset))
            self.free.allocated()

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        """An address is released."""
        block, offset = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        block.released.append((offset, self.now))
        self.free.released(block, self.now)

    @rule(step=st.sampled_from([1, REUSE_AFTER - 1, REUSE_AFTER]))
    def advance(self, step: int) -> None:
        """Time goes on."""
        self.now += step

    @precondition(lambda self: any(not block.held for block in self.blocks))
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        """An empty block goes; its slot is the next one's."""
        empty = [block for block in self.blocks if not block.held]
        block = empty[data.draw(st.integers(0, len(empty) - 1))]
        self.blocks.remove(block)
        self.free.remove_block(block.key)

    @rule()
    def restore(self) -> None:
        """The daemon starts again, and makes the index from the blocks."""
        self.free = FreeList(REUSE_AFTER)
        self.free.restore(self.blocks)

    @invariant()
    def the_free_ones_are_counted(self) -> None:
        """Ready or not, all that is not held is free."""
        assert sum(block.size - block.held for block in self.blocks) == self.free.free

    @invariant()
    def what_is_ready_is_found(self) -> None:
        """A block with an address ready is found if there is one, and no other ever."""
        ready = [
            block
            for block in self.blocks
            if block.next_unused < block.size
            or (block.released and block.released[0][1] <= self.now - REUSE_AFTER)
        ]
        found = self.free.ready(self.now)

        assert found in ready or (found is None and not ready)

    @invariant()
    def what_was_released_longest_ago_is_found(self) -> None:
        """When none is ready, the address that was released first of all is the next."""
        if self.free.ready(self.now) is not None:
            return
        times = [block.released[0][1] for block in self.blocks if block.released]
        found = self.free.oldest()

        assert (found is None) == (not times)
        if found is not None:
            assert min(times) == found.released[0][1]


TestIndex = Index.TestCase
TestIndex.settings = settings(max_examples=100, stateful_step_count=40)


def test_blocks_are_filled_from_the_first_on() -> None:
    """An address that is ready in an earlier block comes before all of a later one."""
    free = FreeList(REUSE_AFTER)
    first, second = (Block(Subnet(4, base, 30).key, "default", 0) for base in (0, 4))
    free.add_block(first)
    free.add_block(second)

    assert first is free.ready(0)
    first.next_unused = first.size

    assert second is free.ready(0)
    first.released.append((2, 5))
    free.released(first, 5)

    assert second is free.ready(5 + REUSE_AFTER - 1)
    assert first is free.ready(5 + REUSE_AFTER)


def lines_of_churn(blocks: int) -> int:
    """How many lines run for one release and one allocation when all blocks but one are full."""
    free = FreeList(REUSE_AFTER)
    made = []
    for number in range(blocks):
        block = Block(Subnet(4, number << 10, 22).key, "default", 0)
        block.next_unused = block.size
        free.add_block(block)
        made.append(block)
    # As after a while: full blocks have been looked at and are forgotten.
    assert free.ready(0) is None
    lines = 0

    def count(_: FrameType, event: str, __: object) -> Any:
        nonlocal lines
        lines += event == "line"
        return count

    last = made[-1]
    last.released.append((0, 0))
    before = sys.gettrace()
    # What others left behind is collected at any moment, and that has lines, too.
    gc.disable()
    sys.settrace(count)
    try:
        free.released(last, 0)
        found = free.ready(REUSE_AFTER)
    finally:
        sys.settrace(before)
        gc.enable()

    assert last is found
    return lines


@pytest.mark.parametrize("blocks", [100, 2000])
def test_the_cost_does_not_grow_with_what_is_held(blocks: int) -> None:
    """With 100,000 or 2,000,000 addresses held, one comes and goes in the steps of a thousand."""
    assert lines_of_churn(1) == lines_of_churn(blocks)
