"""`coild-history` while an order to prune takes archived history away under it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from coild.audit.times import format_utc
from coild.rules.events import HistoryPruned
from journal import prune
from tests.kits.daemon.process import TIMEOUT_SECONDS, environment
from tests.kits.journal.disks import FS
from tests.kits.journal.history import (
    EPOCH,
    allocated,
    beginning,
    compact,
    cycles,
    released,
    write,
    writing,
)
from tests.kits.journal.pruning import (
    Answer,
    Interrupting,
    archived_journal,
    ends,
    interrupted_calls,
    legal_answers,
    run_tool,
)
from tests.kits.system.tool import records
from tools.history.cli import main

PRUNED = re.compile(
    r"coild-history: history before sequence \d+ was pruned[a-z, ]*\n"
    r"(coild-history: nobody, as far as the journal goes\n)?"
)
QUESTIONS = {
    "by index": ["10.64.0.1"],
    "by several indexes": ["--block", "10.64.0.0/31"],
    "by reading": [],
    "the newest": ["-n", "30"],
    "who holds": ["--held"],
    "at a time": ["10.64.0.1", "--at", format_utc(EPOCH + 5001)],
    "before it": ["--container", "old", "--at", format_utc(EPOCH)],
}


def run(directory: Path, *arguments: str) -> Answer:
    """Ask in this process."""
    return run_tool(main, directory, *arguments)


interrupted = partial(interrupted_calls, main)


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize(("order", "gradually"), [(True, False), (True, True), (False, False)])
def test_a_question_while_history_is_pruned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, question: str, *, order: bool, gradually: bool
) -> None:
    """Whenever files go, by order or not: an answer as before or after, with its notice."""
    place = tmp_path / "journal"
    through = archived_journal(place, order=order)
    run(place, "10.64.0.1")  # makes the indexes
    legal = legal_answers(main, place, through, *QUESTIONS[question])
    steps = through if gradually else through[-1:]
    for _, answer in interrupted(
        monkeypatch,
        place,
        lambda copy: [partial(prune, FS, copy, to) for to in steps],
        *QUESTIONS[question],
    ):
        assert answer in legal


def assert_true(rows: list[dict[str, Any]], events: list[Any]) -> None:
    """What rows say of these events, the first there are, is what those say."""
    for row in rows:
        for name in ("allocated", "released"):
            sequence = row[f"{name}-seq"]
            if sequence is not None and sequence <= len(events):
                event = events[sequence - 1]

                assert event.container_id == row["container-id"]
                assert format_utc(event.time) == row[f"{name}-at"]


@pytest.mark.parametrize("order", [False, True])
@pytest.mark.parametrize("since", [[], ["--since", format_utc(EPOCH)]])
def test_a_follower_whose_place_is_pruned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, since: list[str], *, order: bool
) -> None:
    """It says so and goes on behind it, if that was by order; else it is an error."""
    place = tmp_path / "journal"
    held, kept = allocated(0, "held", 0), allocated(0, "kept", 2)
    events = [*beginning(), held, kept, *cycles(15), *cycles(2, start=20)]
    write(place, events)
    final = [allocated(9000, "last", 3), released(9001, held)]
    told = failed = 0

    def overtake(copy: Path) -> None:
        with writing(copy) as journal:
            for event in cycles(15, start=30):
                journal.append([event])
            journal.log.seal()
            compact(copy, journal)
            going = ends(copy)[-1]
            if order:
                journal.append([HistoryPruned(EPOCH + 8000, going, 1, 0, "all")])
            journal.write(final)
            prune(FS, copy, going)

    for _, answer in interrupted(
        monkeypatch, place, lambda copy: [partial(overtake, copy)], "-f", "--until", "now", *since
    ):
        if answer.status:
            assert not order
            assert re.search("No such file|are nowhere", answer.stderr)
            failed += 1
            continue
        assert PRUNED.fullmatch(answer.stderr) or not answer.stderr
        rows = records(answer.stdout)
        assert_true(rows, events)
        assert not since or "kept" in [row["container-id"] for row in rows]
        if "meanwhile" in answer.stderr:
            told += 1
            assert ["last"] == [
                row["container-id"] for row in rows if row["address"] == "10.64.0.3"
            ]
            assert "held" in [row["container-id"] for row in rows if row["released-at"]]

    assert (bool(told), bool(failed)) == (order, not order)


def pausing(
    monkeypatch: pytest.MonkeyPatch, disk: Interrupting, *steps: Callable[[], object]
) -> None:
    """Have a follower that waits for more take these steps, and then be interrupted."""
    left = iter(steps)

    def pause(_seconds: float) -> None:
        step = next(left, None)
        if step is None:
            raise KeyboardInterrupt
        step()

    monkeypatch.setattr("tools.history.following._pause", lambda: pause)
    monkeypatch.setattr("journal.read.reader.OsFileSystem", lambda: disk)


@pytest.mark.parametrize("order", [False, True])
def test_a_follower_that_waits_while_its_place_is_pruned(
    directory: Path, monkeypatch: pytest.MonkeyPatch, *, order: bool
) -> None:
    """What it has not shown is gone by order: it says so, and shows what is behind that."""
    held, last = allocated(0, "held", 0), allocated(9000, "last", 3)
    write(directory, [*beginning(), held])

    def overtake() -> None:
        with writing(directory) as journal:
            for event in cycles(15):
                journal.append([event])
            journal.log.seal()
            compact(directory)
            going = ends(directory)[-1]
            if order:
                journal.append([HistoryPruned(EPOCH + 8000, going, 1, 0, "all")])
            journal.write((last, released(9001, held)))
            prune(FS, directory, going)

    pausing(monkeypatch, Interrupting(1 << 30, []), overtake)
    answer = run(directory, "-f")
    rows = records(answer.stdout)

    assert rows[0]["container-id"] == "held"
    if not order:
        assert (1, 1) == (answer.status, len(rows))
        assert "are nowhere" in answer.stderr
        return
    assert (130, 1) == (answer.status, answer.stderr.count("\n"))
    assert re.search(r"history before sequence \d+ was pruned meanwhile", answer.stderr)
    assert [("last", False), ("held", True)] == [
        (row["container-id"], bool(row["released-at"])) for row in rows[1:]
    ]
    assert rows[2]["allocated-at"] is None


def test_damage_is_not_put_down_to_an_order(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was pruned had been shown, so it is not why the follower cannot go on."""
    write(directory, [*beginning(), *cycles(1)])

    def go_on() -> None:
        write(directory, cycles(2, start=10))

    def prune_and_damage() -> None:
        with writing(directory) as journal:
            going = journal.log.seal()
            compact(directory)
            prune(FS, directory, going)
            journal.append([HistoryPruned(EPOCH + 8000, going, 1, 0, "all")])
            for event in cycles(15, start=30):
                journal.append([event])
        path = min(directory.glob("*.seg"))
        data = bytearray(path.read_bytes())
        data[8000] ^= 1
        path.write_bytes(data)

    # A roll-over may take it a call that shows nothing.
    steps = go_on, prune_and_damage, *[lambda: None] * 5
    pausing(monkeypatch, Interrupting(1 << 30, []), *steps)
    answer = run(directory, "-f")
    rows = records(answer.stdout)

    assert answer.status == 1
    assert "cannot be read" in answer.stderr
    assert answer.stderr.count("\n") == 1
    assert ["c0", "c10", "c10", "c11", "c11", "c30", "c30"] == [row["container-id"] for row in rows]


def test_a_follower_that_looks_up_an_allocation_while_it_is_pruned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The release is shown, with its allocation or without, whenever that goes."""
    place = tmp_path / "journal"
    old = allocated(0, "old", 0)
    write(place, [*beginning(), old, *cycles(20)])
    compact(place)
    through = ends(place)[-1]
    found = set()
    for call in range(1000):
        directory = Path(shutil.copytree(place, tmp_path / f"copy-{call}"))
        disk = Interrupting(1 << 30, [partial(prune, FS, directory, through)])

        def release(at: Path = directory, disk: Interrupting = disk, call: int = call) -> None:
            with writing(at) as journal:
                journal.write(
                    (
                        HistoryPruned(EPOCH + 8000, through, 1, 0, "all"),
                        released(9000, old),
                    )
                )
            disk.left = call

        with monkeypatch.context() as patched:
            pausing(patched, disk, release)
            answer = run(directory, "-f", "-n", "1")
        row = msgspec.json.decode(answer.stdout.splitlines()[-1])

        assert (130, "old") == (answer.status, row["container-id"])
        assert row["released-at"] == format_utc(EPOCH + 9000)
        assert PRUNED.fullmatch(answer.stderr) or not answer.stderr
        found.add(row["allocated-seq"])
        if disk.left >= 0:
            break
    assert {4, None} == found


def test_questions_beside_a_real_prune(directory: Path) -> None:
    """`coild-compact --delete` takes the archive away, and no question fails meanwhile."""
    write(directory, beginning())
    asked = 0
    for number in range(3):
        write(directory, cycles(100, start=100 * number))
        compact(directory)
        process = subprocess.Popen(
            [sys.executable, "-m", "tools.compact", "--journal", str(directory), "--delete"],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            for _ in range(5000):
                for question in (["10.64.0.1"], [], ["-f", "--until", "now"]):
                    answer = run(directory, *question)
                    asked += 1

                    assert answer.status == 0, answer
                    assert PRUNED.fullmatch(answer.stderr) or not answer.stderr
                if process.poll() is not None:
                    break
        finally:
            _, stderr = process.communicate(timeout=TIMEOUT_SECONDS)

        assert process.returncode == 0, stderr
        assert not list((directory / "archive").glob("*.zst"))
    assert asked > 10
