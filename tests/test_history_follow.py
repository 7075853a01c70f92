"""`coild-history -f`: what is shown, when, and how it ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.daemon_kit import PATIENCE_SECONDS, Daemon, environment
from tests.history_kit import (
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
            }
    finally:
        status, stderr = end(process)

    assert (status, stderr) == (130, "")


def test_following_goes_on_across_roll_over_and_compaction(tmp_path: Path) -> None:
    """Each holding comes twice and in order, whatever happens to the segments meanwhile."""
    directory = tmp_path / "journal"
    events = cycles(120)
    retired = 0
    with writing(directory) as journal:
        for event in [*beginning(), allocated(0, "held", 0)]:
            journal.append([event])
        journal.append([])
        process = follower(directory, "-o", "json", "--block", "10.64.0.0/30")
        try:
            # What was there before; from now on it follows.
            assert next_row(process)["container-id"] == "held"
            for number, event in enumerate(events):
                journal.append([event])
                if number % 40 == 39:
                    retired += compact(directory)
            journal.append([])
            compact(directory)
            rows = [next_row(process) for _ in events]
        finally:
            status, stderr = end(process)

    assert retired > 5
    assert (status, stderr) == (130, "")
    assert [f"c{n}" for n in range(120) for _ in range(2)] == [row["container-id"] for row in rows]
    assert [4 + 1 + n // 2 * 2 for n in range(240)] == [row["allocated-seq"] for row in rows]
    assert [False, True] * 120 == [bool(row["released-at"]) for row in rows]


def test_following_completes_a_holding_from_long_ago(tmp_path: Path) -> None:
    """The release of what was allocated before the rows read shows its allocation."""
    directory = tmp_path / "journal"
    old = allocated(0, "old", 0)
    with writing(directory) as journal:
        for event in [*beginning(), old, *cycles(60)]:
            journal.append([event])
        journal.append([])
        process = follower(directory, "-o", "json", "-n", "1")
        try:
            assert next_row(process)["container-id"] == "c59"
            journal.append([released(9999, old)])
            journal.append([])
            row = next_row(process)
        finally:
            end(process)

    assert ("old", 4, 125) == (row["container-id"], row["allocated-seq"], row["released-seq"])


def test_following_shows_only_what_is_durable(tmp_path: Path) -> None:
    """An event without a successor may still be lost in a crash; it is not shown yet."""
    directory = tmp_path / "journal"
    with writing(directory) as journal:
        for event in [*beginning(), *cycles(1)]:
            journal.append([event])
        shown = [row["released-seq"] for row in ask(directory, "-f", "--until", "now")]
        journal.append([])
        shown += [row["released-seq"] for row in ask(directory, "-f", "--until", "now")]

    assert [None, 5] == shown


@pytest.mark.parametrize("arguments", [["-f"], []])
def test_a_reader_that_goes_away_ends_it_quietly(tmp_path: Path, arguments: list[str]) -> None:
    """A closed pipe gives the status of SIGPIPE and no word, also while nothing happens."""
    directory = tmp_path / "journal"
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
    status = process.wait(PATIENCE_SECONDS)

    assert process.stderr is not None
    assert (141, "") == (status, process.stderr.read())
    process.stderr.close()


def test_following_an_empty_journal_waits_for_the_first_event(tmp_path: Path) -> None:
    """A journal without an event is no error."""
    directory = tmp_path / "journal"
    with writing(directory) as journal:
        process = follower(directory)
        try:
            assert process.stdout is not None
            header = process.stdout.readline()
            for event in [*beginning(), *cycles(1)]:
                journal.append([event])
            journal.append([])
            line = process.stdout.readline()
        finally:
            end(process)

    assert header.split()[:2] == ["ADDRESS", "POD"]
    assert line.startswith("10.64.0.1 ")
