"""`coild-history -f`: what is shown, when, and how it ends."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from coild.rules.events import SCHEMA, AddressAllocated, AddressReleased, Event
from journal import read_events
from tests.kits.daemon.process import TIMEOUT_SECONDS, Daemon, environment
from tests.kits.journal.history import (
    allocated,
    ask,
    beginning,
    compact,
    cycles,
    end,
    follower,
    next_row,
    released,
    write,
    writing,
)
from tests.kits.journal.pruning import interrupted_calls
from tests.kits.system.tool import records
from tools.history.cli import main


def test_following_a_daemon_shows_what_is_allocated_and_released(daemon: Daemon) -> None:
    """A row when it begins and the same row when it ends, without the journal's lock."""
    daemon.allocate("c0")
    process = follower(daemon.data_dir / "journal", "-o", "json")
    try:
        assert next_row(process)["container-id"] == "c0"
        for n in (1, 2):
            daemon.allocate(f"c{n}")
            began = next_row(process)
            daemon.release(f"c{n}")
            ended = next_row(process)

            assert began["container-id"] == f"c{n}"
            assert began["released-at"] is None
            assert ended["released-seq"] > ended["allocated-seq"]
            assert ended == began | {
                "released-at": ended["released-at"],
                "released-seq": ended["released-seq"],
                "reason": "requested",
            }
    finally:
        status, stderr = end(process)

    assert (status, stderr) == (130, "")


def test_following_goes_on_across_roll_over_and_compaction(directory: Path) -> None:
    """Each holding comes twice and in order, whatever happens to the segments meanwhile."""
    events = cycles(120)
    retired = 0
    with writing(directory) as journal:
        journal.write([*beginning(), allocated(0, "held", 0)])
        process = follower(directory, "-o", "json", "--block", "10.64.0.0/30")
        try:
            # What was there before; from now on it follows.
            assert next_row(process)["container-id"] == "held"
            for number, event in enumerate(events):
                journal.append([event])
                if number % 40 == 39:
                    retired += compact(directory, journal).removed
            journal.append([])
            compact(directory, journal)
            rows = [next_row(process) for _ in events]
        finally:
            status, stderr = end(process)

    assert retired > 5
    assert (status, stderr) == (130, "")
    assert [f"c{n}" for n in range(120) for _ in range(2)] == [row["container-id"] for row in rows]
    # Each 40 events, a compaction left two records.
    expected = [4 + 1 + n // 2 * 2 + n // 40 * 2 for n in range(240)]
    assert expected == [row["allocated-seq"] for row in rows]
    assert [False, True] * 120 == [bool(row["released-at"]) for row in rows]


def test_following_completes_a_holding_from_long_ago(directory: Path) -> None:
    """The release of what was allocated before the rows read shows its allocation."""
    old = allocated(0, "old", 0)
    with writing(directory) as journal:
        journal.write([*beginning(), old, *cycles(60)])
        process = follower(directory, "-o", "json", "-n", "1")
        try:
            assert next_row(process)["container-id"] == "c59"
            journal.write([released(9999, old)])
            row = next_row(process)
        finally:
            end(process)

    assert ("old", 4, 125) == (row["container-id"], row["allocated-seq"], row["released-seq"])


def test_following_shows_only_what_is_durable(directory: Path) -> None:
    """An event without a successor may still be lost in a crash; it is not shown yet."""
    with writing(directory) as journal:
        for event in [*beginning(), *cycles(1)]:
            journal.append([event])
        shown = [row["released-seq"] for row in ask(directory, "-f", "--until", "now")]
        journal.append([])
        shown += [row["released-seq"] for row in ask(directory, "-f", "--until", "now")]

    assert [None, 5] == shown


@pytest.mark.parametrize("arguments", [["-f"], []])
def test_a_reader_that_goes_away_ends_it_quietly(directory: Path, arguments: list[str]) -> None:
    """A closed pipe gives the status of SIGPIPE and no word, also while nothing happens."""
    write(directory, [*beginning(), *cycles(300)])
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.history", "--journal", str(directory), *arguments],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    status = process.wait(TIMEOUT_SECONDS)

    assert process.stderr is not None
    assert (141, "") == (status, process.stderr.read())
    process.stderr.close()


def test_following_an_empty_journal_waits_for_the_first_event(directory: Path) -> None:
    """A journal without an event is no error."""
    with writing(directory) as journal:
        process = follower(directory)
        try:
            assert process.stdout is not None
            header = process.stdout.readline()
            journal.write([*beginning(), *cycles(1)])
            line = process.stdout.readline()
        finally:
            end(process)

    assert header.split()[:2] == ["ADDRESS", "POD"]
    assert line.startswith("10.64.0.1 ")


@pytest.mark.parametrize("question", [[], ["10.64.0.1"], ["--block", "10.64.0.0/30"]])
@pytest.mark.parametrize("archived", [False, True])
def test_no_row_is_lost_between_what_was_and_what_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, question: list[str], *, archived: bool
) -> None:
    """Whenever segments end, and move to the archive, meanwhile: what is told has no gap."""
    place = tmp_path / "journal"
    write(place, [*beginning(), *cycles(12)])
    before = max(number for number, _ in _of_addresses(place))

    def go_on(copy: Path, start: int) -> None:
        with writing(copy) as journal:
            journal.write(cycles(2, start=start))
            journal.log.seal()
            journal.write(cycles(1, start=start + 2))
        if archived:
            compact(copy)

    later = 0
    for copy, answer in interrupted_calls(
        main,
        monkeypatch,
        place,
        lambda copy: [partial(go_on, copy, 100 + 10 * step) for step in range(4)],
        *("-f", "--until", "now", "-n", "1000", *question),
    ):
        rows = records(answer.stdout)
        told = {row[f"{name}-seq"] for row in rows for name in ("allocated", "released")} - {None}
        last = max(told)

        assert (0, "") == (answer.status, answer.stderr)
        assert last >= before
        assert {number for number, _ in _of_addresses(copy) if number <= last} == told
        # What had happened before it came to follow, all of it was told.
        assert later or last == max(number for number, _ in _of_addresses(copy))
        later += last > before
    assert later > 5


def test_a_busy_journal_is_shown_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes after the beginning is new, also if there is always more by the next look."""
    place = tmp_path / "journal"

    def go_on(copy: Path, number: int) -> None:
        with writing(copy, segment_bytes=1 << 20) as journal:
            for event in cycles(1, start=number) if number else [*beginning(), *cycles(3)]:
                journal.append([event])
            journal.append([])

    go_on(place, 0)

    shown = []
    for _, answer in interrupted_calls(
        main,
        monkeypatch,
        place,
        lambda copy: [partial(go_on, copy, number) for number in range(10, 30)],
        *("-f", "--until", "now", "-n", "0"),
    ):
        rows = records(answer.stdout)
        ended = [row["container-id"] for row in rows if row["released-at"]]

        assert (0, "") == (answer.status, answer.stderr)
        assert ended == [f"c{n}" for n in range(30 - len(ended), 30)]
        shown.append(len(ended))
    # Some of it comes while the first look is taken, some behind that.
    assert min(shown) < sorted(set(shown))[1] < max(shown) == 20


def _of_addresses(directory: Path) -> list[tuple[int, object]]:
    """The allocations and releases of a journal, with their sequences."""
    return [
        (sequence, event)
        for sequence, event in read_events(directory, Event, schema=SCHEMA)
        if isinstance(event, AddressAllocated | AddressReleased)
    ]
