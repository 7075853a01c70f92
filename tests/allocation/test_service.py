"""One command's way: what an answer waits for, and what errors and hang-ups leave behind."""

# expected == actual

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, cast

import pytest

from coild.allocation import keeper
from coild.allocation.exhaustion import exhausted
from coild.allocation.service import ConflictError, NoAddressError
from coild.blocks import NoBlockError
from coild.blocks.static import StaticBlocks
from coild.http.budget import Budget
from coild.http.status import StatusBodies
from coild.rules.addresses import Subnet
from coild.rules.events import (
    AddressAllocated,
    AddressReleased,
    BlockAcquired,
    BlockReleased,
    DaemonStopped,
)
from coild.rules.projection import Projection
from journal import JournalBusyError, JournalFailedError, JournalFullError
from tests.kits.daemon.service import Bench, HeldBlocks, pool, settled
from tests.kits.loop import in_loop

POOLS = {"default": pool(2, "10.0.0.0/29", "fd00:48::/64")}
BLOCK = Subnet.parse("10.0.0.0/30")
NEXT_BLOCK = Subnet.parse("10.0.0.4/30")


@pytest.fixture
def source() -> HeldBlocks:
    """Where the node of a test that has this gets its blocks: from the test."""
    return HeldBlocks()


@pytest.fixture
def bench(request: pytest.FixtureRequest) -> Bench:
    """A new node."""
    held = "source" in request.fixturenames
    return Bench(POOLS, source=request.getfixturevalue("source") if held else None)


def on_a_node(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Start the node of a test before it, and close it after."""

    @functools.wraps(test)
    async def started(bench: Bench, **given: Any) -> None:
        await bench.start()
        try:
            await test(bench=bench, **given)
        finally:
            await bench.service.close()

    return in_loop(started)


@on_a_node
async def test_an_allocation_is_answered_when_it_is_durable(bench: Bench) -> None:
    """POST and DELETE change the state at once, and say so when the journal has it."""
    bench.journal.held = True
    (posted,) = await settled(bench.allocate("c0"))

    assert "10.0.0.0" == bench.state.holdings["c0"].address
    assert not posted.done()
    bench.journal.flush()

    assert "10.0.0.0" == await posted
    (deleted,) = await settled(bench.release("c0"))

    assert not bench.state.holdings
    assert not deleted.done()
    bench.journal.flush()

    assert "10.0.0.0" == await deleted


@on_a_node
async def test_a_fact_is_on_record_when_it_is_durable(bench: Bench) -> None:
    """What is not about one container, as the end of the daemon, is waited for, too."""
    bench.journal.held = True
    (recorded,) = await settled(bench.service.record(DaemonStopped(1, "0.1.0", "n1")))

    assert not recorded.done()
    bench.journal.flush()
    await recorded


async def ask(bench: Bench, container_id: str) -> str | None:
    """GET of a container of the pod `web-0`."""
    return bench.service.durable.address("default", "web-0", container_id)


@pytest.mark.parametrize(
    "request_again",
    [
        lambda bench, container_id: bench.allocate(container_id),
        lambda bench, container_id: bench.service.release("default", "other-pod", container_id),
    ],
    ids=["409", "DELETE of another pod's"],
)
@on_a_node
async def test_what_reveals_an_allocation_waits_for_it(
    bench: Bench,
    request_again: Callable[[Bench, str], Coroutine[Any, Any, object]],
) -> None:
    """An answer that shows a container's pending event waits for it, not for those behind it."""
    bench.journal.held = True
    await settled(bench.allocate("c0"))
    pending = bench.journal.last_sequence
    await settled(bench.allocate("c1"))
    (asked,) = await settled(request_again(bench, "c0"))

    assert [pending, pending, pending + 1] == bench.journal.waited_for
    bench.journal.flush(pending)
    await asyncio.wait([asked], timeout=5)

    assert asked.done()
    # A 409 is an error, and one that was looked at.
    assert isinstance(asked.exception(), ConflictError | None)
    bench.journal.flush()


@on_a_node
async def test_what_reveals_a_release_waits_for_it(bench: Bench) -> None:
    """DELETE says that a container has no address any more when its release is durable."""
    await bench.allocate("c0")
    await bench.allocate("c1")
    bench.journal.held = True
    await settled(bench.release("c0"))
    pending = bench.journal.last_sequence
    await settled(bench.release("c1"))
    (asked,) = await settled(bench.release("c0"))

    assert not asked.done()
    bench.journal.flush(pending)

    assert not await asked
    bench.journal.flush()


@on_a_node
async def test_old_facts_are_told_at_once(bench: Bench) -> None:
    """While the disk is busy with others, a container whose events are durable is answered."""
    await bench.allocate("c0")
    bench.journal.held = True
    await settled(bench.allocate("c1"), bench.allocate("c2"))

    assert "10.0.0.0" == await ask(bench, "c0")
    assert await ask(bench, "unknown") is None
    assert not await bench.release("unknown")
    with pytest.raises(ConflictError):
        await bench.allocate("c0")
    bench.journal.flush()


@on_a_node
async def test_pending_events_stay_known_among_many(bench: Bench) -> None:
    """However many containers come and go meanwhile, an answer waits for its own's event."""
    for number in range(50):
        await bench.allocate(f"early{number}")
        await bench.release(f"early{number}")
    bench.journal.held = True
    await settled(bench.allocate("c0"))
    pending = bench.journal.last_sequence
    for number in range(50):
        await settled(bench.allocate(f"late{number}"))
        await settled(bench.release(f"late{number}"))
    (asked,) = await settled(bench.service.release("default", "other-pod", "c0"))

    assert not asked.done()
    bench.journal.flush(pending)

    assert not await asked
    assert await ask(bench, "c0")
    assert await ask(bench, "late0") is None
    bench.journal.flush()


@on_a_node
async def test_that_nothing_is_left_waits_for_everything(bench: Bench) -> None:
    """A 503 may be due to events that a crash could undo, so it waits for all of them."""
    for number in range(7):
        await bench.allocate(f"c{number}")
    bench.journal.held = True
    (last, refused) = await settled(bench.allocate("c7"), bench.allocate("c8"))

    assert not refused.done()
    bench.journal.flush()

    assert "10.0.0.7" == await last
    with pytest.raises(NoAddressError):
        await refused


@on_a_node
async def test_reads_show_each_durable_state_and_wait_for_none(bench: Bench) -> None:
    """However far the disk has come, GET, /status and the sequence are those of that moment."""
    for number in range(4):
        await bench.allocate(f"c{number}")
    bench.journal.held = True
    # Of one container several events, and a block that is taken and one that is given back.
    steps = [
        bench.release("c0"),
        bench.allocate("c0"),
        bench.allocate("c4"),
        bench.release("c0"),
        bench.release("c1"),
        bench.release("c4"),
        bench.service.release_idle_blocks(0),
        bench.allocate("c5"),
    ]
    tasks = []
    for step in steps:
        bench.now += 1000
        tasks += await settled(step)
    pending = range(bench.journal.durable_sequence, bench.journal.last_sequence + 1)
    events = [type(event) for event in bench.journal.events(pending.start)]
    assert {BlockAcquired, BlockReleased} < set(events)
    for sequence in pending:
        bench.journal.flush(sequence)
        want = Projection()
        want.apply_all(bench.journal.events()[:sequence])
        status = bench.service.durable.status()

        assert sequence == bench.service.durable.sequence
        assert dict(status.pods).keys() == want.holdings.keys()
        assert {key: held.address for key, held in want.holdings.items()} == {
            key: held.address for key, held in status.pods
        }
        assert sorted(str(block.subnet) for block in want.blocks.values()) == sorted(
            status.address_blocks["default"]
        )
        for number in range(6):
            held = want.holdings.get(f"c{number}")
            assert await ask(bench, f"c{number}") == (held and held.address)
    await asyncio.gather(*tasks)


@on_a_node
async def test_the_body_of_status_is_not_older_than_what_was_answered(bench: Bench) -> None:
    """A body encoded while an event was pending is not shown to who asks when it is durable."""
    bodies = StatusBodies(bench.service.durable, Budget(), asyncio.Lock())
    bench.journal.held = True
    (posted,) = await settled(bench.allocate("c0"))
    before = await bodies.get()
    bench.journal.flush()
    await posted
    after = await bodies.get()

    assert b'"pods":{}' in before.body
    assert b'"pods":{"c0":"10.0.0.0"}' in after.body
    assert after is await bodies.get()


@on_a_node
async def test_who_hangs_up_leaves_a_whole_change(bench: Bench) -> None:
    """A caller that is cancelled while the disk is busy leaves state and journal in step."""
    await bench.allocate("c0")
    bench.journal.held = True
    tasks = await settled(bench.allocate("c1"), bench.release("c0"))
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    bench.journal.flush()

    assert all(task.cancelled() for task in tasks)
    assert ["c1"] == list(bench.state.holdings)
    assert bench.journal.replay().digest() == bench.state.digest()
    assert (2, 1) == (bench.service.statistics.allocated, bench.service.statistics.released)


@on_a_node
async def test_a_busy_journal_is_tried_again_when_there_is_room(bench: Bench) -> None:
    """While a segment is being made, commands wait; then each is carried out once."""
    await bench.allocate("c0")
    bench.journal.roomy.clear()
    bench.journal.refusals.extend([JournalBusyError("wait"), JournalBusyError("wait")])
    posted, deleted = await settled(bench.allocate("c1"), bench.release("c0"))

    assert 2 == bench.journal.room_asked
    assert ["c0"] == list(bench.state.holdings)
    bench.now += 5
    bench.journal.roomy.set()

    assert ["10.0.0.1", "10.0.0.0"] == await asyncio.gather(*[posted, deleted])
    # The time is that of the event, not of the request.
    assert [("c0", 1000), ("c1", 1005), ("c0", 1005)] == [
        (event.container_id, event.time) for event in bench.journal.of_containers()
    ]


@on_a_node
async def test_identical_requests_that_waited_for_room_have_one_winner(bench: Bench) -> None:
    """What was true before the wait is looked at again after it."""
    await bench.allocate("c0")
    bench.journal.roomy.clear()
    bench.journal.refusals.extend([JournalBusyError("wait")] * 4)
    tasks = await settled(
        bench.allocate("c1"), bench.allocate("c1"), bench.release("c0"), bench.release("c0")
    )
    bench.journal.roomy.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert ["10.0.0.1", "10.0.0.0", ""] == [results[0], *results[2:]]
    assert isinstance(results[1], ConflictError)
    assert 3 == len(bench.journal.of_containers())


@pytest.mark.parametrize(
    "failure", [JournalFullError("no space"), JournalFailedError("broken")], ids=["full", "failed"]
)
@on_a_node
async def test_a_refusal_of_the_journal_leaves_nothing(bench: Bench, failure: Exception) -> None:
    """What the journal does not take has not happened: no address, no release, no count."""
    await bench.allocate("c0")
    before = bench.state.digest()
    for attempt in (bench.allocate("c1"), bench.release("c0"), bench.allocate("c6", version=6)):
        bench.journal.refusals.append(failure)  # type: ignore[arg-type]
        with pytest.raises(type(failure)):
            await attempt

    assert before == bench.state.digest() == bench.journal.replay().digest()
    assert (1, 0) == (bench.service.statistics.allocated, bench.service.statistics.released)
    assert "10.0.0.1" == await bench.allocate("c1")
    # The block that could not be journalled went back to the pool, and is taken later.
    assert "fd00:48::4" == await bench.allocate("c6", version=6)


@on_a_node
async def test_a_block_that_was_given_back_serves_nobody(bench: Bench) -> None:
    """The next address is of a block that is taken then, and a restart finds the same."""
    await bench.allocate("c0")
    await bench.release("c0")
    bench.now += 1000
    assert 1 == len(await bench.service.release_idle_blocks(0))

    address = await bench.allocate("c1")

    assert BlockAcquired is type(bench.journal.events()[-2])
    assert address == bench.journal.replay().holdings["c1"].address


@on_a_node
async def test_only_what_frees_space_or_time_is_essential(bench: Bench) -> None:
    """The reserved space of a full disk is for releases, not for addresses and blocks."""
    await bench.allocate("c0")
    await bench.release("c0")
    bench.now += 1000
    await bench.service.release_idle_blocks(0)
    essential = zip(bench.journal.events(), bench.journal.essential, strict=True)

    assert [
        (BlockAcquired, False),
        (AddressAllocated, False),
        (AddressReleased, True),
        (BlockReleased, True),
    ] == [(type(event), flag) for event, flag in essential][1:]


@on_a_node
async def test_a_failed_flush_is_told_to_all_who_wait(bench: Bench) -> None:
    """Nobody is answered as if an event were durable that never will be."""
    await bench.allocate("c0")
    bench.journal.held = True
    tasks = await settled(bench.allocate("c1"), bench.allocate("c1"), bench.release("c0"))
    bench.journal.fail(JournalFailedError("the disk is gone"))
    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert ["the disk is gone"] * 3 == list(map(str, results))
    assert all(isinstance(result, JournalFailedError) for result in results)
    # Reads go on, and are of what is durable.
    assert ["10.0.0.0", None] == [await ask(bench, "c0"), await ask(bench, "c1")]


@on_a_node
async def test_many_wait_for_one_block_together(bench: Bench, source: HeldBlocks) -> None:
    """One request a pool and family is in flight, and all who need the block share it."""
    source.give(BLOCK, Subnet.parse("fd00:48::/126"))
    tasks = await settled(
        *(bench.allocate(f"c{number}") for number in range(4)),
        *(bench.allocate(f"six{number}", version=6) for number in range(2)),
    )

    assert [("default", 4), ("default", 6)] == source.asked
    source.gate.set()
    results = await asyncio.gather(*tasks)

    assert [f"10.0.0.{number}" for number in range(4)] == results[:4]
    assert ["fd00:48::", "fd00:48::1"] == results[4:]
    assert 2 == len(source.asked)


@on_a_node
async def test_a_request_that_is_done_is_nobody_s_to_wait_for(
    bench: Bench, source: HeldBlocks
) -> None:
    """Who needs a block just after a request was done asks anew: that block went to others.

    From Python 3.12 on, to await what is done does not give way: they would ask for ever.
    """
    source.give(BLOCK)
    done = asyncio.create_task(asyncio.sleep(0))
    await done
    # As it is until the loop's next turn, in which it is taken out.
    bench.service._keeper._requests["default", 4] = done
    source.gate.set()

    assert "10.0.0.0" == await bench.allocate("c0")
    assert [("default", 4)] == source.asked


@on_a_node
async def test_those_who_found_the_block_full_ask_for_another(
    bench: Bench, source: HeldBlocks
) -> None:
    """When more waited than the block has addresses, the others share the next request."""
    source.give(BLOCK, NEXT_BLOCK)
    tasks = await settled(*(bench.allocate(f"c{number}") for number in range(8)))
    source.gate.set()

    assert [f"10.0.0.{number}" for number in range(8)] == await asyncio.gather(*tasks)
    assert 2 == len(source.asked)


@pytest.mark.parametrize("given", ["10.9.0.0/30", "10.0.0.4/31", "10.0.0.0/29", "10.0.0.0/30"])
@on_a_node
async def test_a_block_that_is_not_the_pools_is_not_taken(
    bench: Bench, source: HeldBlocks, given: str
) -> None:
    """Foreign, of another size or given twice: it is refused before the journal has it."""
    source.give(BLOCK, Subnet.parse(given))
    source.gate.set()
    for number in range(4):
        await bench.allocate(f"c{number}")
    with pytest.raises(NoAddressError, match=f"gave {given}, which is no new block"):
        await bench.allocate("c4")

    assert {"default": [str(BLOCK)]} == await bench.blocks()
    assert bench.state.digest() == bench.journal.replay().digest()


@on_a_node
async def test_a_refused_block_is_told_to_all_who_waited(bench: Bench, source: HeldBlocks) -> None:
    """Why the source has no block is the answer of everyone who needs one."""
    source.give(NoBlockError("the pool is empty"))
    tasks = await settled(bench.allocate("c0"), bench.allocate("c1"))
    source.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert ["the pool is empty"] * 2 == list(map(str, results))
    assert all(isinstance(result, NoAddressError) for result in results)
    assert 2 == bench.service.statistics.refused


@on_a_node
async def test_nobody_waits_for_ever_for_a_block(
    bench: Bench, source: HeldBlocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the source hangs, the answer is an error after a while; the request goes on."""
    monkeypatch.setattr(keeper, "BLOCK_WAIT_SECONDS", 0.01)
    source.give(BLOCK)
    for container_id in ("c0", "c1"):
        with pytest.raises(NoAddressError, match="no block of pool 'default' could be had"):
            await bench.allocate(container_id)

    assert [("default", 4)] == source.asked
    source.gate.set()
    await settled()

    assert "10.0.0.0" == await bench.allocate("c2")


@on_a_node
async def test_a_hanging_source_does_not_touch_what_a_block_can_serve(
    bench: Bench, source: HeldBlocks
) -> None:
    """While someone waits for a block of one family, the other goes on, and so do releases."""
    source.give(BLOCK)
    source.gate.set()
    await bench.allocate("c0")
    source.gate.clear()
    (waiting,) = await settled(bench.allocate("six", version=6))

    assert "10.0.0.1" == await bench.allocate("c1")
    assert "10.0.0.0" == await bench.release("c0")
    assert not waiting.done()


@on_a_node
async def test_a_fresh_address_is_better_than_none(
    bench: Bench, source: HeldBlocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the spare block of the cool-down cannot be had, the oldest address is reused early."""
    monkeypatch.setattr(keeper, "BLOCK_WAIT_SECONDS", 0.01)
    source.give(BLOCK)
    source.gate.set()
    for number in range(4):
        await bench.allocate(f"c{number}")
    await bench.release("c2")
    source.gate.clear()

    assert "10.0.0.2" == await bench.allocate("again")
    assert 1 == bench.service.statistics.reused_early
    assert 0 == source.cancelled


async def _last_address_goes(bench: Bench) -> tuple[list[asyncio.Task[str]], str]:
    """Two requests for the one cooling address while the source is slow; who lost, who won."""
    for number in range(4):
        await bench.allocate(f"c{number}")
    await bench.release("c2")
    cast(HeldBlocks, bench.source).gate.clear()
    tasks = await settled(bench.allocate("first"), bench.allocate("second"))
    done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    await settled()
    assert (1, 1) == (len(done), len(waiting))
    return list(waiting), done.pop().result()


@on_a_node
async def test_who_lost_the_last_address_to_another_waits_for_the_block(
    bench: Bench, source: HeldBlocks
) -> None:
    """A request whose cooling address another took waits on, and has the slow source's block."""
    source.give(BLOCK, NEXT_BLOCK)
    source.gate.set()
    (waiting,), won = await _last_address_goes(bench)
    for _ in range(3):
        # As a slow source has it: much longer than a spare is waited for.
        await asyncio.sleep(keeper.SPARE_WAIT_SECONDS)
        assert not waiting.done()
    source.gate.set()

    assert ("10.0.0.2", "10.0.0.4") == (won, await waiting)
    assert 0 == bench.service.statistics.refused


@on_a_node
async def test_who_lost_the_last_address_to_another_waits_no_longer_than_all(
    bench: Bench,
    source: HeldBlocks,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The text that names the bound comes when the whole bound has passed, the spare's included."""
    bound = 4 * keeper.SPARE_WAIT_SECONDS
    monkeypatch.setattr(keeper, "BLOCK_WAIT_SECONDS", bound)
    source.give(BLOCK)
    source.gate.set()
    began = asyncio.get_running_loop().time()
    (waiting,), _ = await _last_address_goes(bench)
    with pytest.raises(NoAddressError, match="no block of pool 'default' could be had"):
        await waiting

    assert asyncio.get_running_loop().time() - began >= bound
    # The first block, and the one that all waited for.
    assert 2 == len(source.asked)


@on_a_node
async def test_who_lost_the_last_address_to_another_is_told_what_the_source_says(
    bench: Bench, source: HeldBlocks
) -> None:
    """A source that refuses in the end gives its own reason, not a time that did not pass."""
    source.give(BLOCK, NoBlockError("the pool is empty"))
    source.gate.set()
    (waiting,), _ = await _last_address_goes(bench)
    source.gate.set()
    with pytest.raises(NoAddressError, match="the pool is empty"):
        await waiting


@on_a_node
async def test_who_hangs_up_does_not_cancel_the_others_block(
    bench: Bench, source: HeldBlocks
) -> None:
    """The request for a block is nobody's own: it goes on when those who asked are gone."""
    source.give(BLOCK)
    first, second = await settled(bench.allocate("c0"), bench.allocate("c1"))
    first.cancel()
    await settled()

    assert first.cancelled()
    assert 0 == source.cancelled
    source.gate.set()

    assert "10.0.0.0" == await second


@on_a_node
async def test_a_block_whom_nobody_waits_for_any_more_is_kept(
    bench: Bench, source: HeldBlocks
) -> None:
    """A block that comes when all have hung up is journalled, and serves the next one."""
    source.give(BLOCK)
    (first,) = await settled(bench.allocate("c0"))
    first.cancel()
    source.gate.set()
    await settled()

    assert {"default": ["10.0.0.0/30"]} == await bench.blocks()
    assert "10.0.0.0" == await bench.allocate("c1")
    assert 1 == len(source.asked)


@on_a_node
async def test_an_error_that_nobody_waits_for_is_no_bug(bench: Bench, source: HeldBlocks) -> None:
    """A refusal that comes when all have hung up is not reported as an exception left behind."""
    source.give(NoBlockError("the pool is empty"))
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
    (first,) = await settled(bench.allocate("c0"))
    first.cancel()
    source.gate.set()
    await settled()
    # Let go of the task: it is then that the loop would complain.
    assert not bench.service._keeper._requests
    del first

    assert not complaints


@pytest.mark.parametrize(
    "failure", [JournalFullError("no space"), JournalFailedError("broken")], ids=["full", "failed"]
)
@on_a_node
async def test_a_block_that_cannot_be_journalled_goes_back(
    bench: Bench, source: HeldBlocks, failure: Exception
) -> None:
    """A block is the node's only when the journal says so; otherwise the source gets it back."""
    source.give(BLOCK)
    source.gate.set()
    bench.journal.refusals.append(failure)  # type: ignore[arg-type]
    with pytest.raises(type(failure)):
        await bench.allocate("c0")

    assert [("default", BLOCK)] == source.released
    assert not bench.state.blocks


@on_a_node
async def test_a_block_waits_for_room_in_the_journal(bench: Bench, source: HeldBlocks) -> None:
    """A busy journal delays a block, and those who need it, but loses neither."""
    source.give(BLOCK)
    source.gate.set()
    bench.journal.roomy.clear()
    bench.journal.refusals.append(JournalBusyError("wait"))
    (posted,) = await settled(bench.allocate("c0"))

    assert not posted.done()
    bench.journal.roomy.set()

    assert "10.0.0.0" == await posted
    assert not source.released


@on_a_node
async def test_a_block_that_still_waits_for_room_at_the_end_goes_back(
    bench: Bench, source: HeldBlocks
) -> None:
    """When the service closes before a block could be journalled, the source gets it back."""
    source.give(BLOCK)
    source.gate.set()
    bench.journal.roomy.clear()
    bench.journal.refusals.append(JournalBusyError("wait"))
    (posted,) = await settled(bench.allocate("c0"))
    await bench.service.close()

    assert [("default", BLOCK)] == source.released
    with pytest.raises(asyncio.CancelledError):
        await posted


@on_a_node
async def test_closing_cancels_what_still_waits_for_the_source(
    bench: Bench, source: HeldBlocks
) -> None:
    """A source that hangs does not keep the daemon from ending."""
    (waiting,) = await settled(bench.allocate("c0"))
    await bench.service.close()

    assert 1 == source.cancelled
    with pytest.raises(asyncio.CancelledError):
        await waiting


@on_a_node
async def test_idle_blocks_are_journalled_before_the_source_is_told(
    bench: Bench, source: HeldBlocks
) -> None:
    """A block may become another's only when it is surely not ours any more."""
    source.give(BLOCK)
    source.gate.set()
    await bench.allocate("c0")
    await bench.release("c0")
    bench.now += 1000
    bench.journal.held = True
    (given_back,) = await settled(bench.service.release_idle_blocks(100))

    assert isinstance(bench.journal.events()[-1], BlockReleased)
    assert not bench.state.blocks
    assert not source.released
    bench.journal.flush()

    assert ["10.0.0.0/30"] == await given_back
    assert [("default", BLOCK)] == source.released


@on_a_node
async def test_blocks_given_back_before_the_journal_refused_are_told_to_the_source(
    bench: Bench, source: HeldBlocks
) -> None:
    """A refusal in the middle leaves each block either the node's or the source's."""
    source.give(BLOCK, NEXT_BLOCK)
    source.gate.set()
    for number in range(5):
        await bench.allocate(f"c{number}")
    for number in range(5):
        await bench.release(f"c{number}")
    bench.now += 1000
    take, append = iter([True, False]), bench.journal.append

    def refuse_second(event: Any, *, essential: bool = False) -> int:
        if not next(take):
            raise JournalBusyError("wait")
        return append(event, essential=essential)

    bench.journal.append = refuse_second  # type: ignore[method-assign]
    with pytest.raises(JournalBusyError):
        await bench.service.release_idle_blocks(100)

    assert [("default", BLOCK)] == source.released
    assert {"default": ["10.0.0.4/30"]} == await bench.blocks()


@pytest.mark.parametrize(
    ("waited", "idle_for", "goes"),
    [(99, 100, False), (100, 100, True), (29, 0, False), (30, 0, True)],
)
@on_a_node
async def test_a_block_goes_when_it_was_idle_for_long_enough(
    bench: Bench, waited: int, idle_for: int, *, goes: bool
) -> None:
    """An empty block waits for the interval, and as long as the cool-down of its addresses."""
    await bench.allocate("c0")
    await bench.release("c0")
    bench.now += waited

    assert (["10.0.0.0/30"] if goes else []) == await bench.service.release_idle_blocks(idle_for)


@in_loop
async def test_what_blocks_of_old_wait_for_is_told() -> None:
    """A pool whose addresses they have is told until when; then it gets what it needs."""
    old = await Bench({"web": pool(2, "10.0.0.0/30")}).start()
    await old.allocate("c0", "web")
    new = Bench({"default": pool(1, "10.0.0.0/30")}, journal=old.journal, now=old.now)
    await new.start()

    def reasons() -> str:
        assert isinstance(new.source, StaticBlocks)
        return "".join(exhausted(new.service.allocator, new.source, new.state))

    assert reasons().endswith("(10.0.0.0/30 of pool 'web'), until their 1 addresses are released")
    await new.release("c0", "web")

    assert reasons().endswith("(10.0.0.0/30 of pool 'web'), until their addresses have rested")
    with pytest.raises(NoAddressError):
        await new.allocate("c1")
    new.now += 30
    await new.allocate("c1")

    assert not reasons()


@in_loop
async def test_namespaces_have_pools_of_their_own() -> None:
    """A namespace's own pool comes first, then the default."""
    pools = {"web": pool(0, "10.1.0.0/30"), "default": pool(0, "10.2.0.0/30")}
    bench = await Bench(pools).start()

    assert "10.1.0.0" == await bench.allocate("c0", "web")
    assert "10.2.0.0" == await bench.allocate("c1", "default")
    assert "10.2.0.1" == await bench.allocate("c2", "other")
