"""Garbage collection: what a runtime does not know of goes, what is newer than its list stays."""

# expected == actual

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coild.allocation.recent_allocations import RecentAllocations, StaleListError
from coild.allocation.service import Wanted
from coild.http.answers import check_room, collection_body
from coild.http.budget import Budget, BusyError
from coild.http.messages import CollectionAnswer, Released
from coild.rules.events import COLLECTED, AddressReleased
from coild.rules.limits import BODY_BYTES_MAX, COLLECT_BYTES_MAX
from tests.kits.daemon.process import Daemon
from tests.kits.daemon.service import Bench, pool, settled
from tests.kits.daemon.wire import error_of
from tests.kits.loop import in_loop

#: The container IDs that are allocated by the events with these sequences, rising.
ALLOCATED = st.lists(st.tuples(st.integers(1, 5), st.sampled_from("abcdef")), max_size=30).map(
    lambda steps: [(sum(step for step, _ in steps[: i + 1]), c) for i, (_, c) in enumerate(steps)]
)
POOLS = {"default": pool(5, "10.0.0.0/24")}


@given(allocated=ALLOCATED, asked=st.integers(0, 160), remembered_max=st.integers(1, 40))
def test_what_came_after_is_known_or_refused(
    allocated: list[tuple[int, str]], asked: int, remembered_max: int
) -> None:
    """The answer is exactly the later containers; where some may be forgotten, there is none."""
    allocations = RecentAllocations(0, remembered_max)
    for sequence, container_id in allocated:
        allocations.note(sequence, container_id)
    forgotten = allocated[: max(0, len(allocated) - remembered_max)]
    later = {container_id for sequence, container_id in allocated if sequence > asked}

    if any(sequence > asked for sequence, _ in forgotten):
        with pytest.raises(StaleListError, match="ask for the sequence again"):
            allocations.after(asked)
    else:
        assert later == allocations.after(asked)


def test_a_list_from_before_a_restart_is_refused() -> None:
    """What was allocated between the list and the restart is not remembered."""
    with pytest.raises(StaleListError, match="from 7 on only"):
        RecentAllocations(7).after(6)
    assert set() == RecentAllocations(7).after(7)


async def allocate(bench: Bench, container_id: str, network: str = "pods") -> int:
    """Allocate for a network; the sequence after it."""
    await bench.service.allocate(Wanted("default", "web-0", container_id, 4, network))
    return bench.service.durable.sequence


async def collect(bench: Bench, sequence: int, *valid: str, network: str = "pods") -> list[str]:
    """The containers whose addresses were released."""
    forgotten = bench.service.forgotten(network, frozenset(valid), sequence)
    released = await bench.service.release_all(forgotten, COLLECTED)
    return [container_id for container_id, _ in released]


@in_loop
async def test_what_is_newer_than_the_list_stays() -> None:
    """An address allocated after the sequence is not in the list, and is not released for it."""
    bench = await Bench(POOLS).start()
    await allocate(bench, "old")
    listed = await allocate(bench, "valid")
    await allocate(bench, "new")

    assert ["old"] == await collect(bench, listed, "valid")
    assert {"valid", "new"} == bench.state.holdings.keys()
    (released,) = [e for e in bench.journal.events() if isinstance(e, AddressReleased)]
    assert ("old", COLLECTED) == (released.container_id, released.reason)


@in_loop
async def test_a_container_that_came_back_stays() -> None:
    """One that was listed as gone, but has a newer address by now, keeps that."""
    bench = await Bench(POOLS).start()
    listed = await allocate(bench, "c1")
    await bench.release("c1")
    await allocate(bench, "c1")

    assert [] == await collect(bench, listed)
    assert ["c1"] == list(bench.state.holdings)


@in_loop
async def test_only_its_network_is_collected() -> None:
    """Neither another network's addresses nor those of no network are any of its business."""
    bench = await Bench(POOLS).start()
    for container_id, network in (("a", "pods"), ("b", "storage"), ("c", "")):
        sequence = await allocate(bench, container_id, network)

    assert ["a"] == await collect(bench, sequence)
    assert ["c"] == await collect(bench, sequence, network="")
    assert ["b"] == list(bench.state.holdings)


@in_loop
async def test_a_sequence_of_another_journal_is_refused() -> None:
    """One that this journal does not have yet is told from an old one."""
    bench = await Bench(POOLS).start()
    sequence = await allocate(bench, "c1")
    with pytest.raises(StaleListError, match=f"ends with the sequence {sequence}"):
        await collect(bench, sequence + 1)

    assert ["c1"] == list(bench.state.holdings)


@in_loop
async def test_an_answer_waits_until_the_releases_are_durable() -> None:
    """Nobody is told of a collection that a crash could undo."""
    bench = await Bench(POOLS).start()
    sequence = await allocate(bench, "c1")
    bench.journal.held = True
    (task,) = await settled(collect(bench, sequence))
    early = task.done()
    bench.journal.flush()

    assert not early
    assert ["c1"] == await task


@in_loop
async def test_what_is_released_meanwhile_is_released_once() -> None:
    """A DELETE that crosses a long collection is no second release of the same address."""
    bench = await Bench({"default": pool(10, "10.0.0.0/20")}).start()
    for number in range(500):
        sequence = await allocate(bench, f"c{number}")
    collected, released = await asyncio.gather(collect(bench, sequence), bench.release("c499"))

    assert released
    assert {f"c{number}" for number in range(499)} == set(collected)
    assert 500 == sum(isinstance(e, AddressReleased) for e in bench.journal.events())
    assert {} == bench.journal.replay().holdings


def post(daemon: Daemon, body: Any) -> httpx.Response:
    """POST /gc."""
    return daemon.client.post("/gc", json=body)


def sequence_of(daemon: Daemon) -> int:
    """The sequence of the last event."""
    number = daemon.client.get("/health").json()["sequence"]
    assert isinstance(number, int)
    return number


def test_the_answer_says_what_was_released(daemon: Daemon) -> None:
    """Address, container and pod of each, as they were; and they are free."""
    given_ = daemon.allocate("gone", network="pods").json()["address"]
    daemon.allocate("stays", network="pods")
    answer = post(
        daemon, {"sequence": float(sequence_of(daemon)), "valid": ["stays"], "network": "pods"}
    )

    released = {
        "address": given_,
        "container-id": "gone",
        "pod-name": "web-0",
        "pod-namespace": "default",
    }
    assert {"released": [released], "status": 200} == answer.json()
    assert ["stays"] == list(daemon.status()["pods"])


def test_a_dry_run_says_what_would_be_released(daemon: Daemon) -> None:
    """It is just what the same request releases without that key; nothing is journalled."""
    for container in ("gone", "stays", "other"):
        daemon.allocate(container, network="pods" if container != "other" else "others")
    wanted = {"sequence": sequence_of(daemon), "valid": ["stays"], "network": "pods"}
    before = daemon.events()
    asked = post(daemon, wanted | {"dry-run": True}).json()
    after = daemon.events()
    done = post(daemon, wanted).json()

    assert before == after
    assert done | {"dry-run": True} == asked
    assert ["gone"] == [each["container-id"] for each in done["released"]]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"sequence": 1, "valid": [], "dry-run": "yes"}, "dry-run"),
        ({}, "sequence"),
        ({"sequence": 1}, "valid"),
        ({"sequence": -1, "valid": []}, "sequence"),
        ({"sequence": "1", "valid": []}, "sequence"),
        ({"sequence": 1.5, "valid": []}, "sequence"),
        ({"sequence": True, "valid": []}, "sequence"),
        ({"sequence": 1, "valid": None}, "valid"),
        ({"sequence": 1, "valid": [""]}, "valid"),
        ({"sequence": 1, "valid": ["a\nb"]}, "valid"),
        ({"sequence": 1, "valid": [7]}, "valid"),
        ({"sequence": 1, "valid": [], "network": "a/b"}, "network"),
        ({"sequence": 1, "valid": [], "network": None}, "network"),
        ([], "object"),
    ],
)
def test_a_wrong_body_releases_nothing(shared_daemon: Daemon, body: Any, told: str) -> None:
    """It is 400, and the text names the field."""
    shared_daemon.allocate("kept", network="pods")
    answer = post(shared_daemon, body)

    assert answer.status_code == 400
    assert told in answer.json()["error"]
    assert "kept" in shared_daemon.status()["pods"]


@pytest.mark.parametrize(
    ("path", "key"),
    [("/gc", "dry_run"), ("/gc", "Valid"), ("/compact", "dry_run"), ("/compact", "Order")],
)
def test_a_key_that_is_not_known_does_nothing(daemon: Daemon, path: str, key: str) -> None:
    """What is asked for in vain is refused by name: nothing is released or written."""
    daemon.allocate("c1", network="pods")
    before = daemon.events()
    wanted = {"sequence": before[-1][0], "valid": [], "network": "pods"} if path == "/gc" else {}
    answer = daemon.client.post(path, json=wanted | {key: True})

    assert f"`{key}`" in error_of(answer, 400)
    assert before == daemon.events()


def test_a_stale_list_is_a_conflict(daemon: Daemon) -> None:
    """After a restart, a list from before it is 409, with what to do; a new one is taken."""
    daemon.allocate("c1", network="pods")
    before = sequence_of(daemon)
    daemon.kill()
    daemon.start()
    body = {"valid": [], "network": "pods"}
    stale, unknown = (post(daemon, body | {"sequence": n}) for n in (before - 1, 10**9))
    taken = post(daemon, body | {"sequence": sequence_of(daemon)})

    assert [409, 409] == [stale.status_code, unknown.status_code]
    assert "GET /health" in stale.json()["error"]
    assert [200, 1] == [taken.status_code, len(taken.json()["released"])]


def test_a_long_list_is_taken_by_gc_alone(daemon: Daemon) -> None:
    """It may be longer than any other body; the limits of both are kept."""
    daemon.allocate("c1", network="pods")
    valid = [f"{number:064x}" for number in range(100_000)]
    taken = post(daemon, {"sequence": 10**9, "valid": valid, "network": "pods"})
    padding = b" " * COLLECT_BYTES_MAX
    too_long = daemon.client.post("/gc", content=b"{}" + padding)
    other = daemon.client.post("/ip", content=b"{}" + padding[: BODY_BYTES_MAX + 1])

    # Read and understood: only the sequence was not of this journal.
    assert taken.status_code == 409
    assert [413, 413] == [too_long.status_code, other.status_code]
    assert ["c1"] == list(daemon.status()["pods"])


def test_health(daemon: Daemon) -> None:
    """It says what can be done, and a sequence that grows with each event."""
    before = daemon.client.get("/health").json()
    daemon.allocate("c1")
    after = daemon.client.get("/health").json()

    assert {"routes": "off", "sequence": before["sequence"], "status": 200, "writable": True} == (
        before
    )
    assert after["sequence"] > before["sequence"]


@pytest.mark.parametrize("count", [0, 1, 1000, 1001])
@pytest.mark.parametrize("unknown", [[], ["c9"]])
@pytest.mark.parametrize("dry_run", [False, True])
@in_loop
async def test_a_long_answer_is_made_in_slices(
    count: int, unknown: list[str], *, dry_run: bool
) -> None:
    """It is the JSON of the whole, and others go first between the slices."""
    bench = await Bench({"default": pool(12, "10.0.0.0/16")}).start()
    for number in range(count):
        await allocate(bench, f"c{number}")
    forgotten = bench.service.forgotten("pods", frozenset(), bench.service.durable.sequence)
    body = await collection_body(forgotten, unknown, dry_run=dry_run)
    whole = CollectionAnswer(
        [Released(held.address, key, "web-0", "default") for key, held in forgotten],
        unknown or msgspec.UNSET,
        dry_run or msgspec.UNSET,
    )

    assert count == len(forgotten)
    assert msgspec.json.encode(whole) == body


def test_a_long_answer_needs_room_before_anything_is_released() -> None:
    """A short one needs none; one that is longer than the budget has all of it while it is idle."""
    held: Any = None
    idle, busy = Budget(1_000_000), Budget(1_000_000)
    busy.used = 999_999
    for count in (0, 40):
        check_room([("c", held)] * count, busy)
    for count in (40, 100_000):
        check_room([("c", held)] * count, idle)
    with pytest.raises(BusyError):
        check_room([("c", held)] * 100, busy)
