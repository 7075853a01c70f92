"""The daemon on a full disk: what goes on, what is refused and how, and that it heals by itself."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from types import SimpleNamespace

import pytest

from coild.allocation.committer import WriteGate
from coild.rules.events import AddressReleased, DaemonStarted, JournalRepaired, PoolsChanged
from coild.spool import releases as spool
from coild.startup import steps
from journal import JournalError, JournalFailedError
from journal.errors import EventTooLargeError
from tests.kits.daemon.process import Daemon, fold, run, status_of, wait_for
from tests.kits.daemon.wire import address_of, error_of, request_bytes
from tests.kits.system.small_disks import fill, small_disk

SMALL = ("--segment-size=1MiB", "--compact-after=0", "--reuse-after=0")
#: Long names make long events, so that a segment of the smallest size is soon full.
LONG = "\N{LINEAR B SYLLABLE B008 A}" * 253
RESTARTS = 12
GET_STATUS = request_bytes("GET", "/status")


@pytest.fixture(name="disk")
def disk_fixture(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MiB."""
    with small_disk(tmp_path / "disk", "6m") as path:
        yield path


def segments(disk: Path) -> list[Path]:
    """The segments that are not archived."""
    return sorted((disk / "journal").glob("*.seg"))


def spare_of(disk: Path) -> Path:
    """The next segment, before it has its name."""
    return disk / "journal" / "spare.tmp"


def fill_beside(daemon: Daemon) -> None:
    """Fill the disk as soon as the next segment has its space."""
    wait_for(spare_of(daemon.data_dir).exists, "the spare segment")
    wait_for(lambda: spare_of(daemon.data_dir).stat().st_size == 1 << 20, "all of it")
    fill(daemon.data_dir)


def allocate_all(daemon: Daemon) -> list[str]:
    """Allocate until the journal has no space for it; the containers."""
    held: list[str] = []
    while (answer := daemon.allocate(f"c{len(held)}", pod=LONG, namespace=LONG)).is_success:
        held.append(f"c{len(held)}")
        assert len(held) < 10_000
    assert "DELETE and GET go on, POST will when there is" in error_of(answer, 500)
    return held


def use_reserve_up(daemon: Daemon, held: list[str]) -> list[str]:
    """Release containers until there is no space for that either; those that are left."""
    for number, container_id in enumerate(held):
        answer = daemon.release(container_id, pod=LONG, namespace=LONG)
        if not answer.is_success:
            reason = error_of(answer, 500)
            assert "what was reserved is used up; GET goes on, all else will when there" in reason
            return held[number:]
    raise AssertionError("the space for releases has no end")


def test_a_full_disk_stops_only_post_and_heals(disk: Path) -> None:
    """On a full disk POST is 500 "no space", DELETE and GET go on; with space again, all does."""
    with Daemon(disk, *SMALL) as daemon:
        fill_beside(daemon)
        held = allocate_all(daemon)
        before = daemon.events()

        # The spare has been used: it is the segment behind it that there is no space for.
        assert len(segments(disk)) == 2
        error_of(daemon.allocate("another", **{"address-type": "ipv6"}), 500)
        assert daemon.allocate(held[0]).status_code == 409
        assert before == daemon.events()
        assert daemon.status()["pods"].keys() == set(held)
        assert daemon.client.get("/health").json()["writable"] is False
        for container_id in held[:200]:
            address = address_of(daemon.get(container_id, pod=LONG, namespace=LONG))
            assert address == address_of(daemon.release(container_id, pod=LONG, namespace=LONG))
        error_of(daemon.allocate("another"), 500)
        assert daemon.process.poll() is None
        (disk / "filler").unlink()
        wait_for(lambda: daemon.allocate("healed").status_code == 200, "the journal to heal")
        assert daemon.stop() == 0
        daemon.start()
        assert daemon.status()["pods"].keys() == {*held[200:], "healed"}


def test_a_restart_gives_no_reserve_away(disk: Path) -> None:
    """However often it is restarted on a full disk, killed or stopped, DELETE goes on."""
    with Daemon(disk, *SMALL) as daemon:
        fill_beside(daemon)
        for number in range(RESTARTS):
            daemon.allocate(f"c{number}")
        # What is left of the open segment is soon used up by starts and stops alone.
        while segments(disk)[-1].stat().st_size - used_bytes(disk) > 6_000:
            daemon.allocate("big", pod=LONG, namespace=LONG)
            daemon.release("big", pod=LONG, namespace=LONG)
        for number in range(RESTARTS):
            if number % 2:
                assert daemon.stop() == 0
            else:
                daemon.kill()
            fill(disk)
            daemon.start()
            address = address_of(daemon.get(f"c{number}"))
            assert address == address_of(daemon.release(f"c{number}"))
        starts = [event for _, event in daemon.events() if isinstance(event, DaemonStarted)]

        assert len(segments(disk)) == 2
        assert len(starts) == RESTARTS + 1


def used_bytes(disk: Path) -> int:
    """Up to where the open segment is written."""
    return len(segments(disk)[-1].read_bytes().rstrip(b"\0"))


def test_a_start_without_any_space_answers_questions(disk: Path) -> None:
    """A start that cannot be journalled is one all the same, and is journalled when it can be."""
    with Daemon(disk, *SMALL) as daemon:
        fill_beside(daemon)
        left = use_reserve_up(daemon, allocate_all(daemon))
        # Starts and stops are short: there is room for some of them yet.
        for _ in range(RESTARTS):
            assert daemon.stop() == 0
            fill(disk)
            daemon.start()
        assert "this start cannot be journalled: no space for the journal" in daemon.log
        head = daemon.events()
        assert daemon.stop() == 0
    # A release that the plugin kept.
    (disk / "filler").unlink()
    spool.add(str(disk / "spool"), LONG, LONG, left[0], monotonic() + 30)
    fill(disk)
    other = disk.with_name("other.toml")
    other.write_text('[pools.default]\nsubnets = ["10.99.0.0/24"]\nblock-size = 2\n')
    with Daemon(disk, *SMALL, "--config", str(other)) as daemon:
        status = daemon.status()
        assert status["pods"].keys() == set(left)
        assert daemon.get(left[0], pod=LONG, namespace=LONG).is_success
        assert daemon.client.get("/health").json()["writable"] is False
        for answer in (
            daemon.allocate("another"),
            daemon.release(left[0], pod=LONG, namespace=LONG),
            daemon.client.post("/compact", content=b"{}"),
            daemon.client.post("/gc", content=b'{"sequence": 1, "valid": []}'),
        ):
            assert "GET goes on, all else will when there is" in error_of(answer, 500)
        # What is refused is read all the same: it may be long, and another request follows it.
        many = json.dumps({"sequence": 1, "valid": [f"{n:064x}" for n in range(20_000)]}).encode()
        both = daemon.send(request_bytes("POST", "/gc", many) + GET_STATUS, answers=2)
        assert [500, 200] == [each.status_code for each in both]
        assert head == daemon.events()
        assert daemon.stop() == 0
        assert head == daemon.events()

        daemon.start()
        assert daemon.status() == status
        (disk / "filler").unlink()
        wait_for(lambda: daemon.allocate("healed").status_code == 200, "the journal to heal")
        after = [event for _, event in daemon.events(head[-1][0] + 1)]
        kinds = [type(event) for event in after[:3]]
        assert [PoolsChanged, DaemonStarted, AddressReleased] == kinds
        assert daemon.status()["pods"].keys() == {*left[1:], "healed"}
        assert address_of(daemon.get("healed")).startswith("10.99.0.")
        assert daemon.client.get("/health").json()["writable"] is True
        assert status_of(fold(daemon.events())) == daemon.status()
        assert daemon.stop() == 0


def test_an_unfinished_write_on_a_full_disk(disk: Path) -> None:
    """Its repair takes the space of the next segment, and a page or two; without, none is lost."""
    with Daemon(disk, *SMALL) as daemon:
        fill_beside(daemon)
        address = address_of(daemon.allocate("cid"))
        daemon.kill()
        (segment,) = segments(disk)
        end = used_bytes(disk) + 7 & ~7
        with segment.open("r+b") as file:
            file.seek(end)
            file.write(b"unfinished")
        fill(disk)
        before = segment.read_bytes()
        refused = run("--data-dir", str(disk), "--http", "127.0.0.1:0", *SMALL)

        assert refused.returncode == 1
        assert "No space left on device" in refused.stderr
        assert "make room there and start again: nothing is lost" in refused.stderr
        assert before == segment.read_bytes()
        assert spare_of(disk).stat().st_size == 1 << 20

        os.truncate(disk / "filler", (disk / "filler").stat().st_size - (1 << 14))
        daemon.start()
        assert address == address_of(daemon.get("cid"))
        assert address == address_of(daemon.release("cid"))
        repairs = [event for _, event in daemon.events() if isinstance(event, JournalRepaired)]
        assert [segment.name] == [event.segment for event in repairs]
        assert daemon.stop() == 0


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (EventTooLargeError("an event of 340904 bytes does not fit"), True),
        # Of this one the journal itself tells.
        (JournalFailedError("a flush failed"), False),
    ],
)
def test_a_start_that_can_never_be_journalled_is_no_secret(
    monkeypatch: pytest.MonkeyPatch, error: JournalError, *, told: bool
) -> None:
    """What else than a full disk keeps a start from the journal ends the daemon."""
    monkeypatch.setattr(steps, "_RETRY_SECONDS", 0.0)
    failures: list[JournalError] = []

    async def never() -> None:
        raise error

    async def main() -> None:
        startup = steps.Startup.__new__(steps.Startup)
        startup._gate = WriteGate()
        startup._gate.reason = "No space left on device"
        startup._journal = SimpleNamespace(full_reason=None)  # type: ignore[assignment]
        startup._next = steps.Step.START
        startup._record_start = never  # type: ignore[method-assign]
        await startup.retry(failures.append)
        assert startup._gate.reason

    asyncio.run(main())

    assert failures == [error] * told
