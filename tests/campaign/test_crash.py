"""Kill -9 under load, again and again on one data directory: what was answered is there."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from coild.rules.events import (
    AddressAllocated,
    AddressReleased,
    DaemonStarted,
    DaemonStopped,
    JournalCompacted,
)
from coild.upkeep.prune_orders import give_order
from tests.crash.scale import report, rounds
from tests.kits.daemon.process import Daemon, fold, status_of
from tests.kits.daemon.wire import AsyncConnection, allocate_body, request_bytes, target_of
from tests.kits.variants import stepped_clock

ROUNDS = rounds(20, 300)
#: Far less than the daemon's grace for requests that never end.
STOP_SECONDS_MAX = 2.0
CLIENTS = 16
DAY_NS = 86_400 * 10**9
#: Long names make long events, so that a short round fills a segment of the smallest size.
LONG = "\N{LINEAR B SYLLABLE B008 A}" * 253
SMALL = ("--segment-size=1MiB", "--reuse-after=0", "--compact-after=2MiB")


class Change(NamedTuple):
    """An address that a container got, or gave back."""

    kind: str
    address: str


class Client:
    """One client with containers of its own: what it was told, and what it was not."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.told: dict[str, list[Change]] = {}
        #: The container of the request that has no answer.
        self.asking: str | None = None
        self._serial = itertools.count()
        self._held: list[str] = []

    async def run(
        self, address: tuple[str, int], choice: random.Random, answered: Callable[[], None]
    ) -> None:
        """Allocate and release until the daemon is gone; call `answered` for each answer."""
        connection = await AsyncConnection.open(address)
        try:
            while True:
                if self._held and choice.random() < 0.45:
                    container_id = self._held.pop(choice.randrange(len(self._held)))
                    await self._ask(connection, "released", container_id)
                else:
                    container_id = f"{self.number}-{next(self._serial)}"
                    await self._ask(connection, "allocated", container_id)
                    self._held.append(container_id)
                answered()
        except (OSError, EOFError):
            connection.drop()

    async def _ask(self, connection: AsyncConnection, kind: str, container_id: str) -> None:
        self.asking = container_id
        if kind == "allocated":
            request = request_bytes("POST", "/ip", allocate_body(container_id, LONG, LONG))
        else:
            request = request_bytes("DELETE", target_of(container_id, LONG, LONG))
        status, body = await connection.ask(request)
        assert status == 200, body
        self.told.setdefault(container_id, []).append(Change(kind, body["address"]))
        self.asking = None

    def settle(self, changes: dict[str, list[Change]]) -> None:
        """Take the journal's word for the request that was not answered."""
        if self.asking is None:
            return
        self.told[self.asking] = list(changes.get(self.asking, []))
        if self.told[self.asking] and self.told[self.asking][-1].kind == "allocated":
            self._held.append(self.asking)
        self.asking = None

    def answers(self) -> int:
        """How many answers it had."""
        return sum(map(len, self.told.values()))


class Told:
    """What the journal says of each container, in order, read on from where it was read up to."""

    def __init__(self) -> None:
        self.state = fold([])
        self.changes: dict[str, list[Change]] = {}

    def read(self, daemon: Daemon) -> None:
        """Read what was written since; no sequence may be missing."""
        for sequence, event in daemon.events(self.state.sequence + 1):
            self.state.apply(event)
            assert self.state.sequence == sequence
            match event:
                case AddressAllocated() | AddressReleased():
                    kind = "allocated" if isinstance(event, AddressAllocated) else "released"
                    address = self.state.blocks[event.block].address_at(event.offset)
                    self.changes.setdefault(event.container_id, []).append(Change(kind, address))


async def compact(
    directory: Path, address: tuple[str, int], choice: random.Random, compacted: Callable[[], None]
) -> None:
    """Have it compacted again and again until the daemon is gone: it may be killed at any step."""
    connection = await AsyncConnection.open(address)
    try:
        while True:
            order = b'{"order": "%s"}' % give_order(directory, None).encode()
            status, body = await connection.ask(request_bytes("POST", "/compact", order))
            # One that a killed daemon's process is still at may be in the way.
            assert status in {200, 409}, body
            if status == 200 and not body["nothing-new"]:
                compacted()
            await asyncio.sleep(choice.random() / 20)
    except (OSError, EOFError):
        connection.drop()


async def load_until(
    daemon: Daemon, clients: list[Client], answers: int, seed: int, end: signal.Signals
) -> None:
    """Run all clients, and end the daemon as soon as they have had so many answers more.

    If it is killed, it compacts meanwhile, and every fourth time it has done so once at least.
    """
    left = iter(range(answers))
    enough, compacted = asyncio.Event(), asyncio.Event()

    def answered() -> None:
        if next(left, None) is None:
            enough.set()

    address = (daemon.host, daemon.port)
    running = [
        asyncio.create_task(
            client.run(address, random.Random(f"{seed} {client.number}"), answered)  # noqa: S311
        )
        for client in clients
    ]
    if end == signal.SIGKILL:
        often = random.Random(seed)  # noqa: S311
        compacting = compact(daemon.data_dir / "journal", address, often, compacted.set)
        running.append(asyncio.create_task(compacting))
    if end != signal.SIGKILL or seed % 4:
        compacted.set()

    async def until() -> None:
        await enough.wait()
        await compacted.wait()

    waiting = asyncio.create_task(until())
    await asyncio.wait([waiting, *running], return_when=asyncio.FIRST_COMPLETED)
    daemon.process.send_signal(end)
    await asyncio.gather(*running)
    # Nobody was hung up on before: then it would not have been the signal that ended it.
    assert waiting.done()


def check(daemon: Daemon, clients: list[Client], journal: Told) -> None:
    """What was answered is in the journal and in /status; what was not is there or it is not."""
    journal.read(daemon)
    changes = journal.changes
    for client in clients:
        for container_id, told in client.told.items():
            found = changes.get(container_id, [])
            if container_id == client.asking:
                # The one change that nobody was told of may have happened.
                assert told == found[: len(told)]
                assert len(found) <= len(told) + 1
            else:
                assert told == found
        client.settle(changes)
    known = {container_id for client in clients for container_id in client.told}
    status = daemon.status()

    assert changes.keys() <= known
    assert status_of(journal.state) == status
    assert {
        container_id: found[-1].address
        for container_id, found in changes.items()
        if found[-1].kind == "allocated"
    } == status["pods"]
    assert len(status["pods"]) == len(set(status["pods"].values()))


@pytest.fixture
def small_daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A coild with small segments, on a data directory that outlives it."""
    with Daemon(tmp_path / "data", *SMALL) as running:
        yield running


def test_nothing_that_was_answered_is_lost(small_daemon: Daemon) -> None:
    """After each of many kills under load, every answered change is there, none is half there."""
    daemon = small_daemon
    clients = [Client(number) for number in range(CLIENTS)]
    journal = Told()
    for count in range(ROUNDS):
        answers = random.randrange(20, 800)  # noqa: S311
        asyncio.run(load_until(daemon, clients, answers, count, signal.SIGKILL))
        daemon.process.wait()
        daemon.client.close()
        daemon.start()
        check(daemon, clients, journal)
    # What was read long ago is still what it was.
    check(daemon, clients, Told())
    events = [event for _, event in daemon.events()]
    starts = [event for event in events if isinstance(event, DaemonStarted)]
    compactions = [event for event in events if isinstance(event, JournalCompacted)]

    answers = sum(client.answers() for client in clients)
    report(
        "kill -9 under load",
        ROUNDS,
        len(starts) - 1,
        f"{answers:,} answers, none lost; {len(compactions)} compactions on the way",
    )
    assert len(starts) == ROUNDS + 1
    # There was something to lose, and segments were rolled over on the way.
    assert answers > 20 * ROUNDS
    firsts = {path.name[:20] for path in (daemon.data_dir / "journal").rglob("*.seg*")}
    assert len(firsts) > 4
    # And compacted.
    assert compactions
    assert list((daemon.data_dir / "journal" / "archive").glob("*.seg.zst"))


class SteppedDaemon(Daemon):
    """A coild whose wall clock is the test's."""

    module = stepped_clock.__name__


async def disturb(daemon: Daemon, clock: Path, choice: random.Random) -> None:
    """Stop the process and let it go on, and step its clock back and forth, for a while."""
    for _ in range(rounds(12, 100)):
        stepped_clock.set_clock(clock, choice.randrange(-DAY_NS, DAY_NS))
        await asyncio.sleep(choice.random() / 20)
        if choice.random() < 0.5:
            daemon.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(choice.random() / 5)
            daemon.process.send_signal(signal.SIGCONT)
    daemon.process.kill()


def test_a_stopped_process_and_a_stepped_clock_lose_nothing(tmp_path: Path) -> None:
    """What was answered is there in order, and the journal's time never runs backwards."""
    clock = tmp_path / "clock"
    stepped_clock.make_clock(clock)
    clients = [Client(number) for number in range(CLIENTS)]
    choice = random.Random()  # noqa: S311
    journal = Told()
    with SteppedDaemon(tmp_path / "data", *SMALL, **{stepped_clock.VARIABLE: str(clock)}) as daemon:
        for _ in range(3):

            async def load() -> None:
                address = (daemon.host, daemon.port)
                running = [client.run(address, choice, lambda: None) for client in clients]
                await asyncio.gather(disturb(daemon, clock, choice), *running)

            asyncio.run(load())
            daemon.process.wait()
            daemon.client.close()
            # The next start is in the past of this journal, or in its future.
            stepped_clock.set_clock(clock, choice.randrange(-DAY_NS, DAY_NS))
            daemon.start()
            check(daemon, clients, journal)
        times = [event.time for _, event in daemon.events()]

    assert sorted(times) == times
    assert sum(client.answers() for client in clients) > 100


@pytest.mark.parametrize("answers", [100, 300, 500])
def test_a_stop_under_load_is_in_good_order(small_daemon: Daemon, answers: int) -> None:
    """A signal under load ends with status 0 and in time; what was answered is there, no more."""
    daemon = small_daemon
    clients = [Client(number) for number in range(CLIENTS)]
    asyncio.run(load_until(daemon, clients, answers, answers, signal.SIGTERM))

    assert daemon.process.wait(STOP_SECONDS_MAX) == 0
    events = [event for _, event in daemon.events()]
    assert isinstance(events[-1], DaemonStopped)
    # A crash may leave events that nobody was told of; a stop in good order has no excuse.
    told = sum(len(changes) for client in clients for changes in client.told.values())
    assert told == sum(isinstance(e, AddressAllocated | AddressReleased) for e in events)
    daemon.client.close()
    daemon.start()
    check(daemon, clients, Told())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_state_after_a_restart_is_state_before(
    small_daemon: Daemon, number: signal.Signals
) -> None:
    """A restart, after a stop or a crash, changes neither the state's digest nor /status."""
    daemon = small_daemon
    for index in range(100):
        family = {"address-type": "ipv6"} if index % 3 else {}
        daemon.allocate(f"c{index}", **family)
    for index in range(0, 100, 7):
        daemon.release(f"c{index}")
    status = daemon.client.get("/status").content
    before = daemon.events()
    daemon.stop(number)
    daemon.start()
    after = daemon.events()

    assert status == daemon.client.get("/status").content
    assert fold(before).digest() == fold(after).digest()
    assert before == after[: len(before)]
    assert ([DaemonStopped] if number == signal.SIGTERM else []) + [DaemonStarted] == [
        type(event) for _, event in after[len(before) :]
    ]


def test_the_order_of_reuse_survives_a_restart(small_daemon: Daemon) -> None:
    """What was released longest ago is handed out first, also by a daemon that did not see it."""
    daemon = small_daemon
    addresses = [daemon.allocate(f"c{index}").json()["address"] for index in range(32)]
    for index in (7, 3, 20):
        daemon.release(f"c{index}")
    daemon.stop()
    daemon.start()
    reused = [daemon.allocate(f"late{index}").json()["address"] for index in range(3)]

    assert [addresses[7], addresses[3], addresses[20]] == reused


def test_a_restart_answers_as_before(small_daemon: Daemon) -> None:
    """After a crash a container's GET is the same, its POST is 409, and its DELETE releases."""
    daemon = small_daemon
    address = daemon.allocate("cid").json()["address"]
    daemon.kill()
    daemon.start()

    assert address == daemon.get("cid").json()["address"]
    assert daemon.allocate("cid").status_code == 409
    assert address == daemon.release("cid").json()["address"]
    daemon.kill()
    daemon.start()
    assert daemon.get("cid").status_code == 404
