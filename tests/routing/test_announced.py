"""Blocks are announced as they come; one is given back only when it surely is announced no more."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from coild.routing.announcer import RouteHealth
from coild.rules.addresses import Subnet
from coild.rules.events import BlockReleased
from journal import JournalBusyError, JournalError, JournalFailedError, JournalFullError
from tests.kits.daemon.service import Bench, HeldBlocks, pool, settled
from tests.kits.loop import in_loop

POOLS = {"default": pool(2, "10.0.0.0/28")}
FIRST, SECOND = Subnet.parse("10.0.0.0/30"), Subnet.parse("10.0.0.4/30")
IDLE_FOR = 100


class Routers:
    """An Announcer that answers when `gate` is open."""

    health: RouteHealth = "exported"

    def __init__(self) -> None:
        self.announced: set[Subnet] = set()
        #: In their order.
        self.calls: list[tuple[str, Subnet]] = []
        #: Those that cannot be withdrawn.
        self.stuck: set[Subnet] = set()
        self.gate = asyncio.Event()
        self.gate.set()

    def announce(self, block: Subnet) -> None:
        """As Announcer.announce."""
        self.calls.append(("announce", block))
        self.announced.add(block)

    async def withdraw(self, block: Subnet) -> bool:
        """As Announcer.withdraw."""
        self.calls.append(("withdraw", block))
        await self.gate.wait()
        if block not in self.stuck:
            self.announced.discard(block)
        return block not in self.stuck


@pytest.fixture
def routers() -> Routers:
    """Who hears of the blocks of a test's node."""
    return Routers()


@pytest.fixture
def bench(routers: Routers) -> Bench:
    """The node of a test."""
    return Bench(POOLS, announcer=routers)


def on_a_node(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Give a test's node two blocks, both empty for long enough to go."""

    @functools.wraps(test)
    async def started(bench: Bench, routers: Routers, **given: Any) -> None:
        await bench.start()
        for number in range(5):
            await bench.allocate(f"c{number}")

        assert {FIRST, SECOND} == routers.announced
        for number in range(5):
            await bench.release(f"c{number}")
        bench.now += 1000
        routers.calls.clear()
        await test(bench=bench, routers=routers, **given)
        # Whatever happened, what is announced is what the journal says.
        held = bench.journal.replay().blocks.values()

        assert {block.subnet for block in held} == routers.announced
        assert bench.journal.replay().digest() == bench.state.digest()
        await bench.service.close()

    return in_loop(started)


@on_a_node
async def test_blocks_are_withdrawn_before_they_are_given_back(
    bench: Bench, routers: Routers
) -> None:
    """Until a block is announced no more, the journal says that it is the node's."""
    routers.gate.clear()
    (released,) = await settled(bench.service.release_idle_blocks(IDLE_FOR))

    assert [("withdraw", FIRST)] == routers.calls
    assert {"default": [str(FIRST), str(SECOND)]} == await bench.blocks()
    routers.gate.set()

    assert [str(FIRST), str(SECOND)] == await released
    assert {} == await bench.blocks()


@on_a_node
async def test_a_block_that_cannot_be_withdrawn_stays(bench: Bench, routers: Routers) -> None:
    """It is announced again, for it is the node's; the others go, and it does when that works."""
    routers.stuck = {FIRST}

    assert [str(SECOND)] == await bench.service.release_idle_blocks(IDLE_FOR)
    assert {"default": [str(FIRST)]} == await bench.blocks()
    assert ("announce", FIRST) in routers.calls
    routers.stuck.clear()

    assert [str(FIRST)] == await bench.service.release_idle_blocks(IDLE_FOR)


@on_a_node
async def test_two_who_give_back_at_once_give_each_block_back_once(
    bench: Bench, routers: Routers
) -> None:
    """One waits for the other, whose blocks are gone then."""
    routers.gate.clear()
    both = await settled(*(bench.service.release_idle_blocks(IDLE_FOR) for _ in range(2)))
    routers.gate.set()

    assert [[str(FIRST), str(SECOND)], []] == await asyncio.gather(*both)


@on_a_node
async def test_a_block_that_is_used_meanwhile_stays(bench: Bench, routers: Routers) -> None:
    """An address given out of it while it is withdrawn makes it announced again."""
    routers.gate.clear()
    (released,) = await settled(bench.service.release_idle_blocks(IDLE_FOR))
    address = await bench.allocate("late")
    used = next(iter(bench.state.holdings.values())).block.subnet
    routers.gate.set()
    others = [str(block) for block in (FIRST, SECOND) if block != used]

    assert others == await released
    assert {"default": [str(used)]} == await bench.blocks()
    assert address == bench.service.durable.address("default", "web-0", "late")


@on_a_node
async def test_a_block_that_waits_its_turn_is_not_withdrawn_when_used(
    bench: Bench, routers: Routers
) -> None:
    """One used while the block before it is withdrawn stays announced without a gap."""
    routers.gate.clear()
    (released,) = await settled(bench.service.release_idle_blocks(IDLE_FOR))
    for number in range(5):
        await bench.allocate(f"late{number}")
    routers.gate.set()

    assert [] == await released
    assert [("withdraw", FIRST), ("announce", FIRST)] == routers.calls


@on_a_node
async def test_a_block_that_is_used_and_freed_meanwhile_keeps_its_cool_down(
    bench: Bench, routers: Routers
) -> None:
    """Used and empty again is not idle: neither the block withdrawn nor those behind it go."""
    routers.gate.clear()
    (released,) = await settled(bench.service.release_idle_blocks(IDLE_FOR))
    for number in range(5):
        await bench.allocate(f"late{number}")
    for number in range(5):
        await bench.release(f"late{number}")
    routers.gate.set()

    assert [] == await released
    assert {"default": [str(FIRST), str(SECOND)]} == await bench.blocks()
    bench.now += IDLE_FOR

    assert [str(FIRST), str(SECOND)] == await bench.service.release_idle_blocks(IDLE_FOR)


@pytest.mark.parametrize("refusal", [JournalFullError("full"), JournalBusyError("busy")])
@on_a_node
async def test_a_journal_that_refuses_keeps_the_block(
    bench: Bench, routers: Routers, refusal: JournalError
) -> None:
    """If the journal has no room for it, the block stays and is announced again."""
    bench.journal.refusals.append(refusal)

    with pytest.raises(type(refusal)):
        await bench.service.release_idle_blocks(IDLE_FOR)
    assert [("withdraw", FIRST), ("announce", FIRST)] == routers.calls
    assert {"default": [str(FIRST), str(SECOND)]} == await bench.blocks()


@on_a_node
async def test_a_stop_while_a_block_is_withdrawn_keeps_it(bench: Bench, routers: Routers) -> None:
    """Cancelled while it waits, nothing is journalled: the next start announces the block again."""
    routers.gate.clear()
    before = bench.journal.last_sequence
    (task,) = await settled(bench.service.release_idle_blocks(IDLE_FOR))
    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
    assert before == bench.journal.last_sequence


@in_loop
async def test_a_block_that_did_not_become_the_nodes_is_not_announced() -> None:
    """What the journal refuses to take goes back to the source, and no router hears of it."""
    routers = Routers()
    source = HeldBlocks(FIRST)
    source.gate.set()
    bench = await Bench(POOLS, source=source, announcer=routers).start()
    bench.journal.refusals.append(JournalFailedError("broken"))

    with pytest.raises(JournalFailedError):
        await bench.allocate("c0")
    assert [("default", FIRST)] == source.released
    assert [] == routers.calls
    assert not any(isinstance(event, BlockReleased) for event in bench.journal.events())
    await bench.service.close()
