"""The exporter over a table that fails, hangs and is interfered with: what it does, says, and when.

The property: once failures stop, the table is what is wanted, and `withdraw` never was sure of a
block whose route was there.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coild.routing import exporter as module
from coild.routing import others
from coild.routing.announcer import RouteError, RoutesForbiddenError
from coild.routing.exporter import Exporter
from coild.routing.route_watch import Changes
from coild.routing.table_lock import TableTakenError
from coild.rules.addresses import Subnet
from tests.kits.loop import in_loop

BLOCKS = [Subnet.parse(f"10.0.0.{32 * number}/27") for number in range(6)]
A, B, C, *_ = BLOCKS
DOWN = RouteError("Network is down")
#: Nothing here takes longer; a test that waits so long hangs.
HANGS_SECONDS = 20


class Table:
    """A RouteTable in memory: fails as a test says, and stands still while `gate` is closed."""

    def __init__(self, *blocks: Subnet) -> None:
        self.routes = set(blocks)
        #: What each call of that name raises, until it is taken out.
        self.errors: dict[str, Exception] = {}
        #: Blocks that cannot be changed.
        self.stuck: dict[Subnet, Exception] = {}
        self.calls: list[tuple[str, Subnet | None]] = []
        self.times: list[float] = []
        self.gate = threading.Event()
        self.gate.set()
        #: Set as soon as a call waits at the gate.
        self.waits = threading.Event()
        self.closed = False

    def _called(self, name: str, block: Subnet | None = None) -> None:
        self.calls.append((name, block))
        self.times.append(time.monotonic())
        if not self.gate.is_set():
            self.waits.set()
            assert self.gate.wait(HANGS_SECONDS)
        if name in self.errors:
            raise self.errors[name]
        if block in self.stuck:
            raise self.stuck[block]

    def blocks(self) -> set[Subnet]:
        """As RouteTable.blocks."""
        self._called("blocks")
        return set(self.routes)

    def add(self, block: Subnet) -> None:
        """As RouteTable.add."""
        self._called("add", block)
        self.routes.add(block)

    def remove(self, block: Subnet) -> None:
        """As RouteTable.remove."""
        self._called("remove", block)
        self.routes.discard(block)

    def close(self) -> None:
        """As RouteTable.close."""
        self._called("close")
        self.closed = True

    async def held(self) -> None:
        """Wait until a call stands at the gate."""
        await until(self.waits.is_set)


@pytest.fixture
def table() -> Table:
    """A table without routes."""
    return Table()


async def until(condition: Callable[[], object]) -> None:
    """Let the loop turn until `condition` holds."""
    async with asyncio.timeout(HANGS_SECONDS):
        while not condition():
            await asyncio.sleep(0.001)


@asynccontextmanager
async def running(table: Table, *blocks: Subnet, **how: Any) -> AsyncIterator[Exporter]:
    """An exporter of these blocks to the table, at work."""
    exporter = Exporter(lambda: table, **({"retry_seconds": 0.001} | how))
    await exporter.open(blocks)
    task = asyncio.create_task(exporter.run())
    try:
        yield exporter
        # No error ends it.
        assert table.closed or not task.done()
    finally:
        table.gate.set()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await exporter.close()


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What the exporter says."""
    caplog.set_level(logging.INFO, "coild.routing.exporter")
    return caplog


@in_loop
async def test_open_makes_the_table_equal() -> None:
    """At start what is missing is added, what is not ours any more is removed, the rest stays."""
    table = Table(A, B)
    async with running(table, B, C) as exporter:
        assert {B, C} == table.routes
        assert "exported" == exporter.health
        assert [("blocks", None), ("remove", A), ("add", C)] == table.calls


@in_loop
async def test_who_may_not_export_is_off() -> None:
    """If there can be no table, open raises why; then all is withdrawn, and nothing announced."""

    def make() -> Table:
        raise RoutesForbiddenError("no")

    exporter = Exporter(make)
    with pytest.raises(RoutesForbiddenError):
        await exporter.open([A])
    exporter.announce(B)
    # There is nothing to run.
    await exporter.run()

    assert "off" == exporter.health
    assert await exporter.withdraw(B)
    await exporter.close()


@in_loop
async def test_announce_and_withdraw(table: Table) -> None:
    """A block announced has a route soon; one withdrawn surely has none on return."""
    async with running(table) as exporter:
        exporter.announce(A)
        exporter.announce(B)
        await until(lambda: {A, B} == table.routes)

        assert await exporter.withdraw(A)
        assert {B} == table.routes


@in_loop
async def test_what_cannot_be_withdrawn_is_not_sure(table: Table) -> None:
    """A route that stays makes withdraw say so; it is removed when that goes, unasked."""
    async with running(table, A) as exporter:
        table.errors["remove"] = DOWN

        assert not await exporter.withdraw(A)
        assert "failing" == exporter.health
        table.errors.clear()
        await until(lambda: "exported" == exporter.health)

        assert set() == table.routes


@in_loop
async def test_what_is_announced_meanwhile_is_not_withdrawn(table: Table) -> None:
    """Withdraw is not sure of a block that was announced while it waited; the block has a route."""
    async with running(table, A) as exporter:
        table.gate.clear()
        withdrawn = asyncio.create_task(exporter.withdraw(A))
        await table.held()
        exporter.announce(A)
        table.gate.set()

        assert not await withdrawn
        await until(lambda: {A} == table.routes)


@in_loop
async def test_failures_pause_longer_and_are_told_once(
    table: Table, log: pytest.LogCaptureFixture
) -> None:
    """What fails is tried again at pauses that double; that is one warning, and one recovery."""
    async with running(table, retry_seconds=0.01) as exporter:
        table.errors["add"] = DOWN
        exporter.announce(A)
        await until(lambda: table.calls.count(("add", A)) == 5)
        exporter.announce(B)
        await until(lambda: ("add", B) in table.calls)

        assert "failing" == exporter.health
        compared = [
            moment
            for (name, _), moment in zip(table.calls, table.times, strict=True)
            if name == "blocks"
        ]
        pauses = [after - before for before, after in pairwise(compared[1:])]
        assert all(0.01 * 2**n <= pause for n, pause in enumerate(pauses, 1))
        table.errors.clear()
        await until(lambda: "exported" == exporter.health)

        assert {A, B} == table.routes

    failure = (
        "the route to 10.0.0.0/27: Network is down; addresses are handed out all the same, but "
        "routers may not know all blocks of this node; it is tried again"
    )
    assert [failure, "the routes of all 2 blocks are exported again"] == log.messages
    assert [None, None] == [record.exc_info for record in log.records]


@in_loop
async def test_pauses_do_not_grow_for_ever(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it failed, it is tried again after the longest pause."""
    monkeypatch.setattr(module, "RETRY_SECONDS_MAX", 0.002)
    table.errors["blocks"] = DOWN
    async with running(table):
        # Doubled as often without bound, it would be hours.
        await until(lambda: len(table.calls) > 24)


@in_loop
async def test_each_reason_is_told(table: Table, log: pytest.LogCaptureFixture) -> None:
    """Another reason is another line, with how many blocks it concerns; none is told twice."""
    table.stuck = {A: DOWN, B: DOWN, C: RouteError("taken")}
    async with running(table, *BLOCKS):
        table.errors["blocks"] = RouteError("no list")
        await until(lambda: len(log.messages) == 3)
        table.errors.clear()
        before = len(table.calls)
        await until(lambda: len(table.calls) > before + 20)

        assert set(BLOCKS[3:]) == table.routes

    assert [
        "the route to 10.0.0.0/27 and 1 more: Network is down",
        "the route to 10.0.0.64/27: taken",
        "the routes of blocks: no list",
    ] == [message.partition(";")[0] for message in log.messages]


@in_loop
async def test_what_others_change_is_put_right(table: Table) -> None:
    """A route that somebody removes comes back, one that nobody wants goes, at the next compare."""
    async with running(table, A, compare_seconds=0.005):
        table.routes.remove(A)
        table.routes.add(B)
        await until(lambda: {A} == table.routes)


@in_loop
async def test_changes_all_the_time_do_not_put_off_the_compare(table: Table) -> None:
    """The table is compared in time however often blocks come and go."""
    async with running(table, A, compare_seconds=0.05) as exporter:
        table.routes.remove(A)
        async with asyncio.timeout(HANGS_SECONDS):
            while A not in table.routes:
                exporter.announce(B)
                await asyncio.sleep(0.001)


@in_loop
async def test_a_change_during_a_compare_is_not_lost(table: Table) -> None:
    """What is announced and withdrawn while the table is being read or changed is made so after."""
    async with running(table, A, compare_seconds=0.005) as exporter:
        for _ in range(2):
            table.gate.clear()
            table.waits.clear()
            await table.held()
            exporter.announce(B)
            withdrawn = asyncio.create_task(exporter.withdraw(A))
            await asyncio.sleep(0)
            table.gate.set()

            assert await withdrawn
            await until(lambda: {B} == table.routes)
            exporter.announce(A)
            await exporter.withdraw(B)
            await until(lambda: {A} == table.routes)


@in_loop
async def test_the_loop_turns_while_the_table_is_slow(
    table: Table, log: pytest.LogCaptureFixture
) -> None:
    """A kernel that does not answer holds up nobody: that is seen, told, and over when it does."""
    async with running(table, A, timeout_seconds=0.02) as exporter:
        table.gate.clear()
        exporter.announce(B)
        await table.held()

        # It is not sure, and does not wait for ever.
        assert not await exporter.withdraw(A)
        exporter.announce(A)
        assert "failing" == exporter.health
        table.gate.set()
        await until(lambda: "exported" == exporter.health)

        assert {A, B} == table.routes

    assert [
        "the routes of blocks: the kernel does not answer",
        "the routes of all 2 blocks are exported again",
    ] == [message.partition(";")[0] for message in log.messages]


@in_loop
async def test_a_withdrawal_that_is_cancelled_is_made_all_the_same(table: Table) -> None:
    """Who hangs up while the table is busy leaves nothing half done."""
    async with running(table, A, B) as exporter:
        table.gate.clear()
        first = asyncio.create_task(exporter.withdraw(A))
        await table.held()
        second = asyncio.create_task(exporter.withdraw(B))
        await asyncio.sleep(0)
        for task in (first, second):
            task.cancel()
        await asyncio.wait([first, second])
        table.gate.set()
        await until(lambda: set() == table.routes)


class Pipe:
    """A Watch that tells what a test says."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        self.changes = Changes()

    def tell(self, **changes: Any) -> None:
        """Let the kernel tell."""
        self.changes = Changes(**changes)
        os.write(self._write, b"x")

    def fileno(self) -> int:
        """As Watch.fileno."""
        return self._read

    def read(self) -> Changes:
        """As Watch.read."""
        os.read(self._read, 1)
        return self.changes

    def close(self) -> None:
        """As Watch.close."""
        os.close(self._read)
        os.close(self._write)


class Taken:
    """A Lock that another coild has for as long as a test says."""

    squatter = ""

    def __init__(self) -> None:
        self.taken = True
        self.closed = False

    def claim(self) -> None:
        """As Lock.claim."""
        if self.taken:
            raise TableTakenError("another coild keeps it")

    def fileno(self) -> None:
        """As Lock.fileno."""

    def accept(self) -> None:
        """As Lock.accept."""

    def close(self) -> None:
        """As Lock.close."""
        self.closed = True


@in_loop
async def test_what_the_kernel_tells_is_put_right_without_waiting_for_the_compare() -> None:
    """A route that went is known to be missing at once, and is made again."""
    table, pipe = Table(), Pipe()
    async with running(table, A, B, watch=lambda: pipe) as exporter:
        table.gate.clear()
        table.routes.remove(A)
        pipe.tell(gone={A})
        await until(lambda: exporter.health == "failing")

        assert "others removed the routes to 1 blocks" == exporter.reason
        table.gate.set()
        await until(lambda: {A, B} == table.routes and exporter.health == "exported")
        assert "" == exporter.reason


@pytest.mark.parametrize("changes", [{"made": {C}}, {"foreign": {A}}, {"unsure": True}])
@in_loop
async def test_whatever_is_strange_is_looked_at(changes: dict[str, Any]) -> None:
    """A route too many, another's in the way, and what was missed: the table is compared."""
    table, pipe = Table(), Pipe()
    async with running(table, A, watch=lambda: pipe):
        table.routes = {C}
        pipe.tell(**changes)
        await until(lambda: {A} == table.routes)


@in_loop
async def test_our_own_changes_are_no_news() -> None:
    """Word of what was made and removed as wanted leads to no look at the table."""
    table, pipe = Table(), Pipe()
    async with running(table, A, watch=lambda: pipe) as exporter:
        exporter.announce(B)
        await exporter.withdraw(A)
        pipe.tell(made={B}, gone={A}, foreign={C})
        await asyncio.sleep(3 * others.SETTLE_SECONDS)

        assert "exported" == exporter.health
        assert 1 == table.calls.count(("blocks", None))


@in_loop
async def test_who_changes_the_table_all_the_time_is_met_now_and_then(
    log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much is told, the table is compared at intervals, and it is logged once."""
    monkeypatch.setattr(others, "SETTLE_SECONDS", 0.001)
    monkeypatch.setattr(others, "NOTICE_SECONDS", 0.1)
    log.set_level(logging.WARNING, "coild.routing.others")
    table, pipe = Table(), Pipe()
    async with running(table, A, B, watch=lambda: pipe, retry_seconds=10.0):
        began = time.monotonic()
        while table.calls.count(("blocks", None)) < 5:
            table.routes.discard(A)
            pipe.tell(gone={A})
            await asyncio.sleep(0.002)

        assert time.monotonic() - began >= 0.4
        await until(lambda: {A, B} == table.routes)

    (message,) = log.messages
    assert message.startswith("the route to 10.0.0.0/27 was not as coild left it")


@in_loop
async def test_while_another_has_the_table_nothing_is_changed(
    log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not even read, nothing is surely withdrawn, and all is made right when that ends."""
    monkeypatch.setattr(module, "TAKEN_SECONDS", 0.01)
    table, lock = Table(C), Taken()
    async with running(table, A, lock=lock) as exporter:
        exporter.announce(B)

        assert not await exporter.withdraw(A)
        exporter.announce(A)
        await asyncio.sleep(0.05)
        assert "failing" == exporter.health
        assert "another coild keeps it" == exporter.reason
        assert [] == table.calls
        lock.taken = False
        await until(lambda: exporter.health == "exported")
        assert {A, B} == table.routes
        assert await exporter.withdraw(A)

    assert lock.closed

    assert [
        "the routes of blocks: another coild keeps it",
        "the routes of all 2 blocks are exported again",
    ] == [message.partition(";")[0] for message in log.messages]


@pytest.mark.parametrize("call", ["blocks", "add", "remove"])
@in_loop
async def test_a_bug_is_told_and_tried_again(log: pytest.LogCaptureFixture, call: str) -> None:
    """An error that nobody expects is told once with its traceback; the work goes on."""
    table = Table(C)
    table.errors[call] = KeyError("RTA_DST")
    async with running(table, A) as exporter:
        assert "failing" == exporter.health
        assert await exporter.withdraw(B) is (call != "remove")
        await until(lambda: len(table.calls) > 12)
        table.errors.clear()
        await until(lambda: "exported" == exporter.health)

        assert {A} == table.routes

    told, recovered = log.records
    assert told.exc_info
    assert "KeyError('RTA_DST')" in told.message
    assert "the routes of all 1 blocks are exported again" == recovered.message


@in_loop
async def test_close_leaves_the_routes(table: Table) -> None:
    """After close the routes are there, the table is closed, and nothing is sure any more."""
    async with running(table, A, B) as exporter:
        pass

    assert {A, B} == table.routes
    assert table.closed
    assert "off" == exporter.health
    assert not await exporter.withdraw(A)


@in_loop
async def test_close_does_not_wait_for_many_routes(table: Table) -> None:
    """A stop ends a long row of changes after the one that is being made."""
    async with running(table) as exporter:
        table.gate.clear()
        for block in BLOCKS:
            exporter.announce(block)
        await table.held()
        closed = asyncio.create_task(exporter.close())
        await asyncio.sleep(0)
        table.gate.set()
        await closed
        await asyncio.sleep(0.01)

        assert table.closed
        assert {A} == table.routes


def test_close_does_not_wait_for_the_kernel(
    table: Table, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop goes on although the kernel does not answer, and says so."""
    monkeypatch.setattr(module, "_CLOSE_SECONDS", 0.01)
    threads: list[threading.Thread] = []

    async def scenario() -> None:
        exporter = Exporter(lambda: table)
        await exporter.open([])
        threads.extend(each for each in threading.enumerate() if each.name == "routes")
        table.gate.clear()
        task = asyncio.create_task(exporter.withdraw(A))
        await table.held()
        task.cancel()
        await exporter.close()

    asyncio.run(scenario())
    # Its answer, at last, has nobody to go to.
    table.gate.set()
    for thread in threads:
        thread.join(HANGS_SECONDS)

    assert ["the kernel is still busy with the routes, it is left alone"] == log.messages


@in_loop
async def test_the_process_does_not_wait_for_the_kernel(table: Table) -> None:
    """The thread is one that the interpreter's end does not join."""
    async with running(table):
        threads = [each for each in threading.enumerate() if each.name == "routes"]

        assert [True] == [each.daemon for each in threads]


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(["announce", "withdraw", "added", "removed", "stuck", "free"]),
            st.sampled_from(BLOCKS[:3]),
        ),
        st.tuples(
            st.sampled_from(["fail blocks", "fail add", "fail remove", "bug", "heal", "turn"]),
            st.none(),
        ),
        st.tuples(st.sampled_from(["hold", "go on", "cancel"]), st.none()),
    ),
    max_size=25,
)


class Sure(Table):
    """A table that knows of whom withdraw was sure, and that nobody else adds it again."""

    def step(self, what: str, block: Subnet | None) -> None:
        """Interfere."""
        match what.split():
            case ["added"] if block is not None:
                self.routes.add(block)
            case ["removed"] if block is not None:
                self.routes.discard(block)
            case ["stuck"] if block is not None:
                self.stuck[block] = DOWN
            case ["free"] if block is not None:
                self.stuck.pop(block, None)
            case ["fail", call]:
                self.errors[call] = RouteError(f"no {call}")
            case ["bug"]:
                self.errors["add"] = ValueError("a bug")
            case ["heal"]:
                self.errors.clear()
            case ["hold"]:
                self.gate.clear()
            case ["go", "on"]:
                self.gate.set()


@given(steps=STEPS)
@in_loop
async def test_whatever_happens_it_converges(steps: list[tuple[str, Subnet | None]]) -> None:
    """After any sequence the table is what is wanted; what was surely withdrawn had no route."""
    table = Sure(A)
    wanted = {A, B}
    #: Routes that others made since the exporter last removed it: of these it cannot know.
    foreign: set[Subnet] = set()
    withdrawals: list[asyncio.Task[None]] = []
    wrong: list[Subnet] = []

    async def withdraw(exporter: Exporter, block: Subnet) -> None:
        if await exporter.withdraw(block) and block in table.routes - foreign:
            wrong.append(block)

    async with running(table, *wanted, compare_seconds=0.002) as exporter:
        for what, block in steps:
            if what == "announce" and block is not None:
                wanted.add(block)
                foreign.discard(block)
                exporter.announce(block)
            elif what == "withdraw" and block is not None:
                wanted.discard(block)
                withdrawals.append(asyncio.create_task(withdraw(exporter, block)))
                await asyncio.sleep(0)
            elif what == "cancel" and withdrawals:
                withdrawals[-1].cancel()
            elif what == "turn":
                await asyncio.sleep(0.001)
            else:
                if what == "added" and block is not None:
                    foreign.add(block)
                table.step(what, block)
        table.errors.clear()
        table.stuck.clear()
        table.gate.set()
        await asyncio.gather(*withdrawals, return_exceptions=True)
        await until(lambda: exporter.health == "exported" and wanted == table.routes)

    assert [] == wrong
    assert wanted == table.routes
