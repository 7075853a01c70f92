"""Addresses rest, and empty blocks are kept, for a time that no setting of the clock changes."""

# expected == actual

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from coild.process.clock import Clock
from coild.rules.addresses import Pool
from tests.kits.daemon.process import Daemon
from tests.kits.daemon.service import Bench, MemoryJournal, pool
from tests.kits.loop import in_loop
from tests.kits.variants import stepped_clock

SECOND = 10**9
DAY = 86400 * SECOND
REUSE_AFTER = 30 * SECOND
#: By so much what is measured may be wrong.
SLACK = SECOND // 10
#: One block, so that nothing else is free.
POOLS = {"default": pool(2, "10.0.0.0/30")}
SPARE_POOLS = {"default": pool(2, "10.0.0.0/29")}


@dataclass
class Time:
    """A wall that a test sets, and the time that passes."""

    wall: int = 10**18
    passed: int = 0

    def clock(self, journal: MemoryJournal | None = None) -> Clock:
        """A clock of a process that starts now."""
        last = journal.replay().time if journal else 0
        return Clock(last, wall=lambda: self.wall, monotonic=lambda: self.passed)

    def pass_by(self, duration: int) -> None:
        """Let time pass."""
        self.wall += duration
        self.passed += duration


async def _full(moment: Time, pools: dict[str, Pool] = POOLS) -> Bench:
    """A node whose one block is full."""
    bench = Bench(pools, reuse_after=REUSE_AFTER, clock=moment.clock())
    await bench.start()
    for number in range(4):
        await bench.allocate(f"c{number}")
    return bench


@pytest.mark.parametrize("step", [0, SECOND, DAY, 100 * DAY, -SECOND, -DAY, -100 * DAY])
@pytest.mark.parametrize(
    ("passed", "early"), [(REUSE_AFTER - SECOND, 1), (REUSE_AFTER + SECOND, 0)]
)
@in_loop
async def test_a_step_neither_ends_a_rest_nor_lengthens_it(
    step: int, passed: int, early: int
) -> None:
    """An address is reused early, and counted so, by the time that passed since its release."""
    moment = Time()
    bench = await _full(moment)
    await bench.release("c2")
    moment.pass_by(passed // 2)
    moment.wall += step
    moment.pass_by(passed - passed // 2)

    assert "10.0.0.2" == await bench.allocate("again")
    assert early == bench.service.statistics.reused_early
    await bench.service.close()


@pytest.mark.parametrize("step", [SECOND, 100 * DAY, -100 * DAY])
@in_loop
async def test_a_step_costs_a_spare_block_and_not_an_early_reuse(step: int) -> None:
    """While another block is to be had, an address that rests is left alone after a step, too."""
    moment = Time()
    bench = await _full(moment, SPARE_POOLS)
    await bench.release("c2")
    moment.wall += step

    assert "10.0.0.4" == await bench.allocate("again")
    await bench.service.close()


@pytest.mark.parametrize("step", [DAY, 100 * DAY, -DAY])
@in_loop
async def test_a_step_gives_no_block_back(step: int) -> None:
    """A block is given back when it was empty for so long, however the wall was set meanwhile."""
    moment = Time()
    bench = await _full(moment)
    for number in range(4):
        await bench.release(f"c{number}")
    moment.wall += step
    moment.pass_by(99 * SECOND)
    kept = await bench.service.release_idle_blocks(100 * SECOND)
    moment.pass_by(2 * SECOND)

    assert [] == kept
    assert ["10.0.0.0/30"] == await bench.service.release_idle_blocks(100 * SECOND)
    await bench.service.close()


@pytest.mark.parametrize(
    ("down", "step", "passed", "early"),
    [
        # The wall is right: the rest goes on while the daemon is down.
        (20 * SECOND, 0, 5 * SECOND, 1),
        (20 * SECOND, 0, 11 * SECOND, 0),
        # It was set back meanwhile: from the start on, a rest is as long as any other.
        (20 * SECOND, -DAY, 29 * SECOND, 1),
        (20 * SECOND, -DAY, 31 * SECOND, 0),
        # It was set forward meanwhile: that looks like time that passed.
        (0, DAY, 0, 0),
        # After the start a step is no matter again.
        (0, 0, 29 * SECOND, 1),
    ],
)
@in_loop
async def test_over_a_restart_a_rest_is_measured_by_the_journal_s_times(
    down: int, step: int, passed: int, early: int
) -> None:
    """A restart goes on with a rest by the times that are on record, and by none after it."""
    moment = Time()
    bench = await _full(moment)
    await bench.release("c2")
    await bench.service.close()
    moment.pass_by(down)
    moment.wall += step
    after = Bench(
        POOLS,
        journal=bench.journal,
        reuse_after=REUSE_AFTER,
        clock=moment.clock(bench.journal),
    )
    await after.start()
    moment.wall += 50 * DAY
    moment.pass_by(passed)

    assert "10.0.0.2" == await after.allocate("again")
    assert early == after.service.statistics.reused_early
    await after.service.close()


class Steps(RuleBasedStateMachine):
    """The wall is set all the time: an address rests by the time that passed, and no other."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.moment = Time()
        self.bench = self.runner.run(_full(self.moment))
        self.held = {f"10.0.0.{number}": f"c{number}" for number in range(4)}
        #: When each free address was released, the oldest first.
        self.released: dict[str, int] = {}
        self.count = 0

    def teardown(self) -> None:
        """Close what is open."""
        self.runner.run(self.bench.service.close())
        self.runner.close()

    @rule(step=st.integers(-DAY, DAY))
    def set_the_wall(self, step: int) -> None:
        """Someone sets the wall."""
        self.moment.wall += step

    @rule(seconds=st.sampled_from([0, 1, 7, 29, 31]))
    def pass_by(self, seconds: int) -> None:
        """Time passes."""
        self.moment.pass_by(seconds * SECOND)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        """An address is released."""
        address = data.draw(st.sampled_from(sorted(self.held)))
        self.runner.run(self.bench.release(self.held.pop(address)))
        self.released[address] = self.moment.passed

    @precondition(lambda self: self.released)
    @rule()
    def allocate(self) -> None:
        """The address that was released longest ago is the next, early or not by what passed."""
        self.count += 1
        expected = next(iter(self.released))
        rested = self.moment.passed - self.released.pop(expected)
        before = self.bench.service.statistics.reused_early
        container_id = f"n{self.count}"
        address = self.runner.run(self.bench.allocate(container_id))
        self.held[address] = container_id
        early = self.bench.service.statistics.reused_early - before

        assert expected == address
        if abs(rested - REUSE_AFTER) > SLACK:
            assert int(rested < REUSE_AFTER) == early


TestSteps = Steps.TestCase
TestSteps.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


class SteppedDaemon(Daemon):
    """A coild whose wall clock the test sets."""

    module = stepped_clock.__name__


@pytest.fixture
def clock(tmp_path: Path) -> Path:
    """The wall clock's file."""
    path = tmp_path / "clock"
    stepped_clock.make_clock(path)
    return path


def _stepped(tmp_path: Path, clock: Path, *arguments: str) -> SteppedDaemon:
    variables = {stepped_clock.VARIABLE: str(clock)}
    pools = ("--pool", "default=10.0.0.0/30", "--block-size", "2")
    return SteppedDaemon(tmp_path / "data", *pools, *arguments, **variables)


def test_the_daemon_counts_what_it_reuses_early_after_a_step(tmp_path: Path, clock: Path) -> None:
    """A clock that goes a hundred days forward after a release does not make the reuse a late one.

    The steps go on in a daemon that is started after them, and has addresses of its own.
    """
    with _stepped(tmp_path, clock, "--reuse-after", "1h") as daemon:
        for number in range(4):
            daemon.allocate(f"c{number}")
        daemon.release("c2")
        stepped_clock.set_clock(clock, 100 * DAY)
        again = daemon.allocate("again").json()["address"]
        daemon.stop()
        first = daemon.log
        daemon.start()
        daemon.release("c1")
        stepped_clock.set_clock(clock, 200 * DAY)
        after = daemon.allocate("after").json()["address"]
        daemon.stop()
        second = daemon.log[len(first) :]

    assert ("10.0.0.2", "10.0.0.1") == (again, after)
    assert "1 reused early" in first
    assert "1 reused early" in second


def test_the_daemon_s_rests_end_in_time_after_a_step_back(tmp_path: Path, clock: Path) -> None:
    """A clock that goes back a day after a release does not lengthen the rest."""
    with _stepped(tmp_path, clock, "--reuse-after", "1s") as daemon:
        for number in range(4):
            daemon.allocate(f"c{number}")
        daemon.release("c2")
        released = time.monotonic()
        stepped_clock.set_clock(clock, -DAY)
        # An event at the time that does not go back.
        daemon.release("c3")
        time.sleep(max(0.0, released + 1.2 - time.monotonic()))
        daemon.allocate("again")
        daemon.stop()

    assert "0 reused early" in daemon.log
