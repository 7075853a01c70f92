"""`coild-history --held`: who holds an address now, and since when at least."""

from __future__ import annotations

import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from coild.audit.ledger import Filter, Ledger, Query
from coild.audit.times import format_local, format_utc
from coild.rules.projection import Projection
from journal import prune
from tests.kits.daemon.process import Daemon
from tests.kits.journal.disks import FS
from tests.kits.journal.history import (
    BLOCKS,
    EPOCH,
    NAME,
    allocated,
    ask,
    beginning,
    compact,
    cycles,
    histories,
    released,
    table,
    write,
)
from tests.kits.journal.pruning import ends

DAY = 24 * 3600 * 10**9


def containers(rows: list[dict[str, Any]]) -> list[str]:
    """Who is listed, in order."""
    return [row["container-id"] for row in rows]


def before(moment: int) -> tuple[str, str, str]:
    """The arguments that ask who has held since a time so many ns after the epoch of the tests."""
    return "--held", "--since-before", format_utc(EPOCH + moment)


@settings(max_examples=30)
@given(histories())
def test_who_holds_is_what_the_state_says(events: list[Any]) -> None:
    """All holders, by allocation; since any moment those whose allocation was no later."""
    state = Projection()
    state.apply_all(events)
    held = {holding.address: holder for holder, holding in state.holdings.items()}
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "journal"
        write(directory, events)
        everything = ask(directory)
        rows = ask(directory, "--held")
        for archived in (False, True):
            if archived:
                compact(directory)

            assert held == {row["address"]: row["container-id"] for row in rows}
            assert [row for row in everything if row["released-at"] is None] == rows
            assert rows[-2:] == ask(directory, "--held", "-n", "2")
            for moment in {event.time for event in events}:
                at_least = [row for row in rows if row["allocated-at"] <= format_utc(moment)]

                assert at_least == ask(directory, *before(moment - EPOCH))
            for option, value in (
                ("--pool", "web"),
                ("--pod", f"default/{NAME}"),
                ("--container", "c1"),
                ("--block", str(BLOCKS["default"])),
                ("--block", "10.64.0.1/32"),
            ):
                narrowed = ask(directory, option, value)
                found = [row for row in narrowed if row["released-at"] is None]

                assert found == ask(directory, option, value, "--held")


def test_the_question_of_an_operator(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A week is 7d in every way to write it; the table says held; who released is not listed."""
    gone, leak = allocated(0, "gone", 0, pod="a"), allocated(10, "leak", 1, pod="b")
    events = [*beginning(), gone, leak, allocated(3 * DAY, "young", 2, pod="c")]
    write(directory, [*events, released(3 * DAY, gone)])
    monkeypatch.setattr(time, "time_ns", lambda: EPOCH + 7 * DAY + 10)
    week = ["7d", "-7d", "7 days ago", "7d ago", "7 days", "1w", " 6d  24h", f"@{EPOCH // 10**9}.1"]
    for text in week:
        assert ["leak"] == containers(ask(directory, "--held", "--since-before", text))
    assert ["leak"] == containers(ask(directory, "--held", "--since-before=-7d"))
    assert ["leak", "young"] == containers(ask(directory, "--held", "--since-before", "now"))
    assert ["leak", "young"] == containers(ask(directory, "--held", "--since-before", "4d"))
    assert [] == ask(directory, "--held", "--since-before", "7d1s")
    assert "nobody" in capsys.readouterr().err
    header, row = table(directory, "--held", "--since-before", "yesterday", "-n", "1").splitlines()
    assert ("ADDRESS", "RELEASED") == (header.split()[0], header.split()[-1])
    local = format_local(EPOCH + 3 * DAY)
    assert ["10.64.0.2", "default/c", "young", *local.split(), "held"] == [
        *row.split()[:3],
        *row.split()[-3:],
    ]


def test_who_has_held_since_before_history_begins(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pruned: they are listed, first, without a time; that may be too many, which is told."""
    old, older = allocated(0, "old", 0), allocated(0, "older", 2)
    events = [*beginning(), old, older, *cycles(60), released(9998, old)]
    events += [allocated(9999, "late", 3), *cycles(20, start=200), allocated(90000, "later", 0)]
    write(directory, events)
    compact(directory)
    through = [end for end in ends(directory) if end < events.index(released(9998, old))][-1]
    prune(FS, directory, through)
    begin = events[through].time
    told = f"coild-history: history before sequence {through + 1} was pruned"
    narrow = (["10.64.0.2"], ["--container", "older"], ["--block", "10.64.0.2/32"])
    capsys.readouterr()

    for question in (["--held"], before(90000), [*before(90000), "-n", "9"]):
        rows = ask(directory, *question)
        assert ["older", "late", "later"] == containers(rows)
        assert [None, None, None] == [rows[0][f"{end}-at"] for end in ("allocated", "released")] + [
            rows[0]["allocated-seq"]
        ]
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(told)
    assert ["later"] == containers(ask(directory, "--held", "-n", "1"))
    assert ["older", "late"] == containers(ask(directory, *before(9999)))
    for narrowed in narrow:
        assert ["older"] == containers(ask(directory, "--held", *narrowed))
    assert [] == ask(directory, "--held", "--container", "old")
    capsys.readouterr()
    # Since the oldest event there is it is sure, 1 ns before that it is not.
    assert ["older"] == containers(ask(directory, *before(begin - EPOCH)))
    assert 1 == capsys.readouterr().err.count("\n")
    assert ["older"] == containers(ask(directory, *before(begin - EPOCH - 1)))
    assert capsys.readouterr().err.splitlines()[1] == (
        f"coild-history: 1 of them may have been allocated after {format_local(begin - 1)}: "
        f"the oldest is of {format_local(begin)}"
    )
    assert "unknown" in table(directory, "--held").splitlines()[1]


def test_without_a_snapshot_only_what_is_left_is_known(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who has held since before, nobody knows then, and that is said."""
    write(directory, [*beginning(), allocated(0, "older", 2), *cycles(60)])
    compact(directory)
    prune(FS, directory, ends(directory)[-1])
    for path in directory.glob("*.snap"):
        path.unlink()
    capsys.readouterr()

    assert "older" not in containers(ask(directory, "--held"))
    assert "without a snapshot" in capsys.readouterr().err


def test_who_holds_beside_a_daemon(daemon: Daemon) -> None:
    """What was released is not listed, what is held is; after a compaction as before."""
    journal = daemon.data_dir / "journal"
    for name in ("c1", "c2", "c3"):
        daemon.allocate(name)
    daemon.release("c2")
    for _ in range(2):
        assert ["c1", "c3"] == containers(ask(journal, "--held"))
        assert ["c1", "c3"] == containers(ask(journal, "--held", "--since-before", "0s"))
        assert [] == ask(journal, "--held", "--since-before", "1h")
        assert daemon.ask("POST", "/compact", b"{}").status_code == 200


def test_those_that_released_take_no_memory() -> None:
    """However many have held, the ledger is as large as those that hold are many."""
    ledger = Ledger(Query(Filter(), held=True))
    sizes = []
    events = [allocated(0, "held", 0), *cycles(20_000)]
    tracemalloc.start()
    try:
        for sequence, event in enumerate(events, start=1):
            ledger.feed(sequence, event)
            if sequence in {2_000, 40_000}:
                sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()

    assert ["held"] == [row.container_id for row in ledger.rows()]
    assert sizes[1] < sizes[0] + 100_000
