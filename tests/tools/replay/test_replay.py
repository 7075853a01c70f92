"""`coild-replay` rebuilds what was: from snapshots or genesis, before and after compaction."""

# expected == actual

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coild.audit.diff import (
    AddressChange,
    BlockChange,
    BootChange,
    Change,
    PoolChange,
    View,
    difference,
    effect,
    undone,
    view,
)
from coild.audit.times import format_utc
from coild.process.clock import Clock
from coild.rules.addresses import Subnet
from coild.rules.events import (
    AddressAllocated,
    AddressReleased,
    BlockAcquired,
    HistoryPruned,
    SnapshotTaken,
)
from coild.rules.projection import Projection
from tests.kits.daemon.process import ROOT, TIMEOUT_SECONDS, Daemon, environment
from tests.kits.journal.history import compact, write
from tests.kits.journal.replay import BEGAN, fold, histories, history
from tests.kits.system.tool import records, run_here
from tools.output import ToolError
from tools.past import Point, open_reader, rebuild
from tools.replay import step as replay_step
from tools.replay.cli import main
from tools.replay.step import Timeline

COMMAND = [sys.executable, "-W", "error", "-m", "tools.replay"]
#: Long enough that everything happens in it.
EVENTS = history(7, 200)
EVENTS.insert(40, SnapshotTaken(EVENTS[39].time, 40, bytes.fromhex(fold(EVENTS[:40]).digest()), 1))
END = len(EVENTS)


def patch(before: View, changes: Iterable[Change]) -> View:
    """The view that `changes` lead to. Raises KeyError, ValueError if they are of another one."""
    pools = dict(before.pools)
    blocks = {pool: list(names) for pool, names in before.address_blocks.items()}
    pods = dict(before.pods)
    boot_id = before.boot_id
    for change in changes:
        match change:
            case PoolChange():
                if change.after is None:
                    del pools[change.pool]
                else:
                    pools[change.pool] = change.after
            case BlockChange(change="gained"):
                blocks.setdefault(change.pool, []).append(change.block)
            case BlockChange():
                blocks[change.pool].remove(change.block)
            case AddressChange(change="lost"):
                del pods[change.container_id]
            case AddressChange():
                pods[change.container_id] = change.held
            case BootChange():
                boot_id = change.after
    blocks = {pool: names for pool, names in blocks.items() if names}
    return View(pools, blocks, pods, boot_id)


def replay(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `coild-replay`, in this process."""
    return run_here(main, *arguments)


def lines(journal: Path, *arguments: str) -> list[Any]:
    """The JSON lines of a run that went well."""
    done = replay("--journal", str(journal), "-o", "json", *arguments)

    assert (0, "") == (done.returncode, done.stderr)
    return records(done.stdout)


def tree(directory: Path) -> dict[str, bytes]:
    """All files and their bytes."""
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal of `EVENTS` with a snapshot and an archive; nobody may change it."""
    directory = tmp_path_factory.mktemp("replayed") / "journal"
    write(directory, EVENTS, seals={40, 90}, clock=lambda: BEGAN)
    compact(directory, through=40, recorded=False)
    return directory


@given(histories, st.data())
def test_a_snapshot_at_any_sequence_and_the_tail_are_the_whole(
    events: list[Any], data: st.DataObject
) -> None:
    """Dumped and loaded anywhere, the state goes on to the same digest."""
    cut = data.draw(st.integers(0, len(events)))
    before = fold(events[:cut])
    state = Projection()
    state.load(before.dump(), cut, before.time)
    state.apply_all(events[cut:])
    whole = fold(events)

    assert (whole.digest(), whole.sequence, whole.time) == (
        state.digest(),
        state.sequence,
        state.time,
    )


@settings(max_examples=25)
@given(histories, st.data())
def test_compaction_changes_no_answer(events: list[Any], data: st.DataObject) -> None:
    """By sequence and by time, from genesis and from the nearest snapshot: what a fold says."""
    places = st.integers(1, len(events))
    seals = sorted(data.draw(st.sets(places, min_size=1, max_size=4)))
    compacted = sorted(data.draw(st.sets(st.sampled_from(seals), min_size=1)))
    asked = data.draw(st.sets(places, min_size=1, max_size=5)) | set(seals)
    states = {sequence: fold(events[:sequence]) for sequence in asked}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name) / "journal"
        write(directory, events, seals=seals, clock=lambda: BEGAN)
        for through in (None, *compacted):
            if through is not None:
                done = compact(directory, through=through, recorded=False)
                assert fold(events[:through]).digest() == done.digest
            for sequence, expected in states.items():
                by_sequence = Point(sequence=sequence)
                found = rebuild(open_reader(directory), by_sequence)
                anew = rebuild(open_reader(directory), by_sequence, from_genesis=True)

                assert (expected.dump(), sequence) == (found.dump(), found.sequence)
                assert (expected.dump(), expected.time) == (anew.dump(), anew.time)

                then = rebuild(open_reader(directory), Point(time=expected.time))
                count = sum(event.time <= expected.time for event in events)

                assert (count, fold(events[:count]).dump()) == (then.sequence, then.dump())

            assert len(events) == rebuild(open_reader(directory), Point()).sequence


@given(histories, st.data())
def test_a_difference_leads_from_one_state_to_the_other(
    events: list[Any], data: st.DataObject
) -> None:
    """Either way; also after a journey through JSON lines."""
    place = st.integers(0, len(events))
    one, other = (view(fold(events[: data.draw(place)])) for _ in range(2))
    changes = difference(one, other)
    told = [msgspec.json.decode(msgspec.json.encode(change), type=Change) for change in changes]

    assert other == patch(one, changes)
    assert changes == told
    assert not difference(one, one)


@given(histories)
def test_the_effect_of_an_event_is_what_it_changes(events: list[Any]) -> None:
    """Told from the event alone, it leads to the next state, and undone it leads back."""
    state = Projection()
    before = view(state)
    for event in events:
        changes = effect(state, event)
        state.apply(event)
        after = view(state)

        assert after == patch(before, changes)
        assert _unordered(before) == _unordered(patch(after, undone(changes)))

        before = after


def _unordered(one: View) -> Any:
    """A view without the age of its blocks."""
    return one.pools, {k: sorted(v) for k, v in one.address_blocks.items()}, one.pods


@pytest.mark.parametrize("sequence", [0, 1, 39, 40, 41, 90, END])
@pytest.mark.parametrize("start", [(), ("--from", "genesis")])
def test_a_state_is_told_in_json(journal: Path, sequence: int, start: tuple[str, ...]) -> None:
    """Sequence, time and digest, and what /status would have said; zero is before everything."""
    state = fold(EVENTS[:sequence])
    blocks: dict[str, list[str]] = {}
    for block in state.blocks.values():
        blocks.setdefault(block.pool, []).append(str(block.subnet))
    expected = {
        "sequence": sequence,
        "time": format_utc(state.time) if sequence else None,
        "digest": state.digest(),
        "address-blocks": blocks,
        "pods": {name: held.address for name, held in state.holdings.items()},
    }

    assert [expected] == lines(journal, "--until-seq", str(sequence), *start)


def test_a_moment_can_be_a_time(journal: Path) -> None:
    """It has all events of that time and none after it; before the first one nothing was there."""
    at = EVENTS[60].time
    count = sum(event.time <= at for event in EVENTS)

    assert fold(EVENTS[:count]).digest() == lines(journal, "--until", format_utc(at))[0]["digest"]
    assert 0 == lines(journal, "--until", format_utc(BEGAN - 1))[0]["sequence"]
    assert END == lines(journal, "--until", "-2h")[0]["sequence"]


def test_the_digest_ends_its_line(journal: Path) -> None:
    """One line, whose last word is the digest of the state."""
    for start in ((), ("--from", "genesis")):
        done = replay("--journal", str(journal), "--digest", *start)

        assert (0, 1) == (done.returncode, done.stdout.count("\n"))
        assert fold(EVENTS).digest() == done.stdout.split()[-1]


def test_people_get_a_summary(journal: Path) -> None:
    """Sequence, digest, blocks and who holds what, as text."""
    text = replay("--journal", str(journal)).stdout
    state = fold(EVENTS)

    assert f"state after event {END}, " in text
    assert state.digest() in text
    for container_id, held in state.holdings.items():
        assert re.search(rf"{re.escape(held.address)} +default/pod-\d +{container_id}\n", text)


def test_a_difference_is_told(journal: Path) -> None:
    """As JSON lines that lead from the one to the other, and as one line of text for each."""
    before, after = (view(fold(EVENTS[:sequence])) for sequence in (30, 120))
    told = lines(journal, "--diff", "30", "120")
    text = replay("--journal", str(journal), "--diff", "30", "120").stdout

    assert after == patch(before, msgspec.convert(told, list[Change]))
    assert {"pool", "block", "address", "boot"} >= {change["kind"] for change in told}
    assert len(told) == len(text.splitlines())


def test_a_difference_can_be_between_times(journal: Path) -> None:
    """Also backwards, and with a time that begins with a minus."""
    assert lines(journal, "--diff", "0", str(END)) == lines(
        journal, "--diff", format_utc(BEGAN - 1), "-1h"
    )
    assert view(fold([])) == patch(
        view(fold(EVENTS)),
        msgspec.convert(lines(journal, "--diff", str(END), "0"), list[Change]),
    )


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (("--until-seq", str(END + 1)), 1, f"the journal ends with the sequence {END}"),
        (("--until-seq", "x"), 2, "--until-seq: it takes a number"),
        (("--until-seq", "9" * 30), 2, "--until-seq: it takes a number"),
        (("--until", "soon"), 2, "soon"),
        (("--diff", "1"), 2, "--diff"),
        (("--diff", "1", str(END + 1)), 1, f"there is no event {END + 1}"),
        (("--from", "7"), 2, "--from takes genesis"),
        (("--until-seq", "1", "--until", "now"), 2, "not allowed with"),
        (("--check", "--until-seq", "0"), 2, "--check take no --until"),
        (("-n", "3"), 2, "-n is for --step"),
        (("--step", "--from", str(END + 5)), 1, f"no event {END + 5}: the journal ends with"),
        (("--step", "--from", str(END + 1)), 1, f"no event {END + 1}: the journal ends with"),
        (("--step", "--from", "0"), 2, "--from 0 is no event"),
        (("--step", "--from", "31", "--until-seq", "30"), 2, "--from 31 comes after"),
        (("--step", "--from", "61", "--until", format_utc(BEGAN)), 2, "is after --until"),
        (("--nonsense",), 2, "--nonsense"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    journal: Path, arguments: tuple[str, ...], status: int, text: str
) -> None:
    """On stderr, with a status that tells a wrong flag from a wrong moment."""
    done = replay("--journal", str(journal), *arguments)

    assert (status, "", 1) == (done.returncode, done.stdout, done.stderr.count("\n")), done.stderr
    assert text in done.stderr


def test_history_that_is_gone_is_said_to_be_pruned_or_missing(
    journal: Path, tmp_path: Path
) -> None:
    """What a snapshot still has can be rebuilt and checked; what is older cannot."""
    pruned, copy = tmp_path / "pruned", tmp_path / "journal"
    ordered = HistoryPruned(EVENTS[-1].time, 40, 1, 1, "delete")
    write(pruned, [*EVENTS, ordered], seals={40, 90})
    compact(pruned, through=40, recorded=False)
    shutil.copytree(journal, copy)
    for path in ((pruned / "archive").iterdir(), (copy / "archive").iterdir()):
        for file in path:
            file.unlink()
    early_ones = (("--until-seq", "39"), ("--check",))
    early_steps = [("--step", "--from", start) for start in ("genesis", "1", "3")]
    for directory, told in (
        (pruned, "the events up to 40 were pruned; "),
        (copy, f"the events 1 to 40 are missing, .* run: coild-verify --journal {copy}; "),
    ):
        for arguments in (*early_ones, *early_steps):
            said = replay("--journal", str(directory), *arguments).stderr

            assert 1 == said.count("\n")
            assert re.search(told, said), said
    early = replay("--journal", str(copy), "--until-seq", "39")
    anew = replay("--journal", str(copy), "--from", "genesis")
    check = replay("--journal", str(copy), "--check")
    steps = replay("--journal", str(copy), "--step", "-n", "1")

    assert (1, 1) == (early.returncode, anew.returncode)
    assert "the oldest state that can be rebuilt is that after event 40" in early.stderr
    assert "the oldest state that can be rebuilt is that after event 40" in anew.stderr
    assert fold(EVENTS[:40]).digest() == lines(copy, "--until-seq", "40")[0]["digest"]
    assert (0, fold(EVENTS).digest()) == (check.returncode, check.stdout.split()[-1])
    assert steps.stdout.startswith("41 ")
    assert 0 == lines(copy, "--until-seq", "0")[0]["sequence"]


def test_a_damaged_snapshot_is_replayed_without(journal: Path, tmp_path: Path) -> None:
    """The answer is the same, and stderr says which snapshot was of no use."""
    copy = tmp_path / "journal"
    shutil.copytree(journal, copy)
    (snapshot,) = copy.glob("*.snap")
    snapshot.write_bytes(snapshot.read_bytes()[:-1] + b"\xff")
    done = replay("--journal", str(copy), "--digest")

    assert (0, fold(EVENTS).digest()) == (done.returncode, done.stdout.split()[-1])
    assert f"{snapshot} cannot be used" in done.stderr


@pytest.mark.parametrize("kind", ["directory", "dangling link", "fifo"])
@pytest.mark.parametrize("arguments", [(), ("--until", "now"), ("--until-seq", str(END))])
def test_a_snapshot_that_is_no_file_is_replayed_without(
    journal: Path, tmp_path: Path, kind: str, arguments: tuple[str, ...]
) -> None:
    """Whatever cannot be read is no place to begin, and no reason to stop."""
    copy = Path(shutil.copytree(journal, tmp_path / "journal"))
    (snapshot,) = copy.glob("*.snap")
    snapshot.unlink()
    if kind == "directory":
        snapshot.mkdir()
    elif kind == "fifo":
        os.mkfifo(snapshot)
    else:
        snapshot.symlink_to("nowhere")
    done = replay("--journal", str(copy), "--digest", *arguments)

    assert (0, fold(EVENTS).digest()) == (done.returncode, done.stdout.split()[-1:][0])


def test_nothing_is_changed(journal: Path) -> None:
    """Neither a file nor a name, whatever is asked."""
    before = tree(journal)
    for arguments in ((), ("--check",), ("--step",), ("--diff", "1", "2"), ("--until", "now")):
        replay("--journal", str(journal), *arguments)

    assert before == tree(journal)


def test_a_good_journal_is_checked_in_one_line(journal: Path) -> None:
    """It says how many events there were and ends with the digest of the state."""
    done = replay("--journal", str(journal), "--check")

    assert (0, "") == (done.returncode, done.stderr)
    assert done.stdout.startswith(f"{END} events checked, every invariant holds")
    assert fold(EVENTS).digest() == done.stdout.split()[-1]


def bad_prefix() -> BlockAcquired:
    """A block whose bytes are none."""
    return BlockAcquired(EVENTS[-1].time, bytes(4) + b"\xff", "default")


def wrong_snapshot() -> SnapshotTaken:
    """A record of a snapshot that never was."""
    return SnapshotTaken(EVENTS[-1].time, 40, bytes(16), 1)


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (bad_prefix(), "pools and blocks are made of valid subnets"),
        (wrong_snapshot(), "a snapshot has the digest of the state"),
        (EVENTS[0], "time never runs backwards"),
    ],
)
def test_the_first_event_that_breaks_an_invariant_is_named(
    directory: Path, event: Any, text: str
) -> None:
    """With its sequence and the invariant; a good end of the journal does not help."""
    write(directory, [*EVENTS, event, EVENTS[0]], seals={40, 90})
    done = replay("--journal", str(directory), "--check")
    found = replay("--journal", str(directory), "--check", "-o", "json")
    record = msgspec.json.decode(found.stdout)

    assert (1, 1) == (done.returncode, found.returncode)
    assert done.stdout.startswith(f"event {END + 1} breaks an invariant: {text}")
    assert type(event).__name__ in done.stdout
    assert (END + 1, text, type(event).__name__) == (
        record["sequence"],
        record["broken"],
        record["event"]["type"],
    )


def test_a_true_record_of_a_snapshot_is_good(directory: Path) -> None:
    """The digest at the snapshot's own sequence is what counts."""
    digest = bytes.fromhex(fold(EVENTS[:40]).digest())
    write(directory, [*EVENTS, SnapshotTaken(EVENTS[-1].time, 40, digest, 1)])

    assert 0 == replay("--journal", str(directory), "--check").returncode


def test_a_state_that_cannot_be_is_no_traceback(directory: Path) -> None:
    """A replay over bad events says that they are, in one line, and how to find the first."""
    write(directory, [*EVENTS, bad_prefix()])
    for arguments in ((), ("--digest",), ("--diff", "1", str(END + 1))):
        done = replay("--journal", str(directory), *arguments)

        assert (1, 1) == (done.returncode, done.stderr.count("\n")), done.stderr
        assert "coild-replay --check names the first" in done.stderr

    assert 1 == replay("--journal", str(directory), "--step").returncode


def test_a_clock_that_jumped_back_breaks_nothing(directory: Path) -> None:
    """The daemon's clock goes on; each moment in between can be asked for."""
    jumps = iter([0, 5, -3_000, -2_000, -1_000, 7])
    wall = [BEGAN + 10_000_000_000]

    def walls() -> int:
        wall[0] += next(jumps, 1) * 1_000_000_000
        return wall[0]

    ticks = iter(range(0, 1_000_000_000_000, 1_000_000_000))
    clock = Clock(0, walls, lambda: next(ticks))
    # The record of a snapshot names a state, and that has other times here.
    facts = [event for event in EVENTS if not isinstance(event, SnapshotTaken)]
    events = [msgspec.structs.replace(event, time=clock()) for event in facts]
    write(directory, events, seals={40})
    compact(directory, through=40, recorded=False)

    assert 0 == replay("--journal", str(directory), "--check").returncode
    for event in (events[2], events[50]):
        count = sum(other.time <= event.time for other in events)
        moment = Point(time=event.time)

        assert fold(events[:count]).dump() == rebuild(open_reader(directory), moment).dump()


def test_steps_are_printed_when_nobody_can_press_keys(journal: Path) -> None:
    """Each event with its effect; together the effects lead to the state at the end."""
    steps = lines(journal, "--step", "--from", "31")
    changes = [change for step in steps for change in step["effect"]]
    some = replay("--journal", str(journal), "--step", "--from", "31", "-n", "2").stdout

    assert list(range(31, END + 1)) == [step["sequence"] for step in steps]
    assert [type(event).__name__ for event in EVENTS[30:]] == [
        step["event"]["type"] for step in steps
    ]
    assert view(fold(EVENTS)) == patch(
        view(fold(EVENTS[:30])), msgspec.convert(changes, list[Change])
    )
    assert ["31", "32"] == re.findall(r"(?m)^\d+", some)
    assert END == len(lines(journal, "--step", "--from", "genesis"))
    assert list(range(1, 46)) == [
        step["sequence"] for step in lines(journal, "--step", "--until-seq", "45")
    ]


class Terminal:
    """`coild-replay --step` at a terminal."""

    def __init__(self, *arguments: str) -> None:
        self._main, terminal = pty.openpty()
        self._process = subprocess.Popen(
            [*COMMAND, *arguments],
            env=environment(TZ="UTC"),
            cwd=ROOT,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
        )
        os.close(terminal)

    def press(self, keys: str, pattern: str) -> str:
        """Press keys, and wait for an answer that ends as `pattern`."""
        os.write(self._main, keys.encode())
        shown = ""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not re.search(pattern, shown):
            assert time.monotonic() < deadline, f"waited in vain for {pattern!r}: {shown!r}"
            if select.select([self._main], [], [], 0.1)[0]:
                shown += os.read(self._main, 65536).decode()
        return shown

    def status(self) -> int:
        """The exit status."""
        return self._process.wait(TIMEOUT_SECONDS)

    def close(self) -> None:
        """Hang up."""
        self._process.kill()
        self._process.wait()
        os.close(self._main)


@pytest.fixture
def terminal(journal: Path) -> Iterator[Terminal]:
    """Before the event 41, behind a snapshot."""
    with closing(Terminal("--journal", str(journal), "--step", "--from", "41")) as opened:
        opened.press("", r"q: quit\r\n")
        yield opened


def test_steps_go_forwards_and_backwards_by_keys(terminal: Terminal) -> None:
    """Also back beyond where it began, and to any event; what was undone is told reversed."""
    name = {sequence: type(event).__name__ for sequence, event in enumerate(EVENTS, start=1)}

    terminal.press("n", rf"(?m)^41 .* {name[41]} ")
    terminal.press(" ", rf"(?m)^42 .* {name[42]} ")
    terminal.press("p", rf"(?m)^undone 42 .* {name[42]} ")
    terminal.press("b", rf"(?m)^undone 41 .* {name[41]} ")
    terminal.press("\x1b[A", rf"(?m)^undone 40 .* {name[40]} ")
    terminal.press("g 100\n", rf"(?m)^100 .* {name[100]} ")
    terminal.press("g1\n", rf"(?m)^1 .* {name[1]} ")
    terminal.press("p", r"(?m)^undone 1 .*\r\n    - pool ")
    terminal.press("p", r"the beginning of the journal\r\n")
    terminal.press(f"g {END}\n", rf"(?m)^{END} ")
    terminal.press("n", r"the end of the journal\r\n")
    terminal.press("g 99999\n", r"there is no event 99999")
    terminal.press("g x\n", r"write g, a sequence and Enter")
    terminal.press("?", r"q: quit\r\n")
    os.write(terminal._main, b"q")

    assert 0 == terminal.status()


@pytest.mark.parametrize(
    "until", [("--until-seq", "42"), ("--until", format_utc(EVENTS[42].time - 1))]
)
def test_steps_by_keys_end_where_they_are_asked_to(journal: Path, until: tuple[str, str]) -> None:
    """Neither a step nor a leap goes beyond --until; back is free."""
    last = sum(event.time < EVENTS[42].time for event in EVENTS) if until[0] == "--until" else 42
    with closing(
        Terminal("--journal", str(journal), "--step", "--from", str(last), *until)
    ) as opened:
        opened.press("n", rf"(?m)^{last} ")
        opened.press("n", r"as far as --until-seq or --until goes\r\n")
        opened.press("g 100\n", r"event 100 comes after --until-seq or --until\r\n")
        opened.press("p", rf"(?m)^undone {last} ")
        opened.press("n", rf"(?m)^{last} ")
        opened.press("n", r"as far as --until-seq or --until goes\r\n")


def test_steps_go_back_as_far_as_history_goes(journal: Path, tmp_path: Path) -> None:
    """Where it is missing is the beginning, and the keys go on working."""
    copy = tmp_path / "journal"
    shutil.copytree(journal, copy)
    for path in (copy / "archive").iterdir():
        path.unlink()
    with closing(Terminal("--journal", str(copy), "--step")) as opened:
        opened.press("n", r"(?m)^41 ")
        opened.press("p", r"(?m)^undone 41 ")
        opened.press("p", r"the beginning of the journal\r\n")
        opened.press("g 3\n", r"the events 1 to 40 are missing")
        opened.press("n", r"(?m)^41 ")


def test_a_bad_event_stops_the_steps_before_it(directory: Path) -> None:
    """The state before it is still there to be looked at."""
    released = next(event for event in EVENTS if isinstance(event, AddressReleased))
    bad = msgspec.structs.replace(released, time=EVENTS[-1].time, container_id="nobody")
    write(directory, [*EVENTS, bad])
    timeline = Timeline(open_reader(directory), END)
    for _ in range(2):
        with pytest.raises(ToolError, match="make no state"):
            timeline.forward()

        assert (END, fold(EVENTS).dump()) == (timeline.state.sequence, timeline.state.dump())


@settings(max_examples=10)
@given(st.lists(st.integers(-1, 40), max_size=25), st.integers(1, 7))
def test_any_walk_along_the_history_has_its_states(
    journal: Path, moves: list[int], spacing: int
) -> None:
    """Forwards, backwards and by leaps, whatever states are kept on the way."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(replay_step, "CHECKPOINT_EVENTS", spacing)
        patched.setattr(replay_step, "CHECKPOINTS_MAX", 3)
        timeline = Timeline(open_reader(journal), 35)
        for move in moves:
            if move < 0:
                timeline.back()
            elif move < 30:
                timeline.forward()
            else:
                timeline.go(move + 10)
            sequence = timeline.state.sequence

            assert fold(EVENTS[:sequence]).dump() == timeline.state.dump()


def test_the_journal_of_a_daemon_says_what_its_status_said(tmp_path: Path) -> None:
    """At every moment between two requests, live and after a kill, without its lock."""
    statuses: dict[int, dict[str, Any]] = {}
    with Daemon(tmp_path / "data") as daemon:
        for number in range(6):
            daemon.allocate(f"c{number}")
            if number % 3 == 2:
                daemon.release(f"c{number - 1}")
            sequence = daemon.events()[-1][0]
            statuses[sequence] = daemon.status()
        live = lines(tmp_path / "data" / "journal")[0]
    data_dir = str(tmp_path / "data")
    for (before, was), (after, now) in pairwise(statuses.items()):
        record = msgspec.json.decode(
            replay("--data-dir", data_dir, "--until-seq", str(before), "-o", "json").stdout
        )

        assert (was["address-blocks"], was["pods"]) == (record["address-blocks"], record["pods"])

        changes = msgspec.json.decode(
            b"["
            + b",".join(
                replay("--data-dir", data_dir, "--diff", str(before), str(after), "-o", "json")
                .stdout.encode()
                .splitlines()
            )
            + b"]"
        )
        pods = dict(was["pods"])
        for change in changes:
            if change["kind"] == "address" and change["change"] == "lost":
                del pods[change["container-id"]]
            elif change["kind"] == "address":
                pods[change["container-id"]] = change["address"]

        assert now["pods"] == pods

    assert statuses[max(statuses)]["pods"] == live["pods"]
    assert 0 == replay("--data-dir", data_dir, "--check").returncode


def test_a_moved_address_is_one_change() -> None:
    """The same pod with another address moved; another pod in the same container did not."""
    pools = EVENTS[0]
    block = BlockAcquired(BEGAN, Subnet.parse("10.0.0.0/30").key, "default")
    allocated = next(event for event in EVENTS if isinstance(event, AddressAllocated))
    first = msgspec.structs.replace(allocated, block=block.block, offset=0, pool="default")
    other = msgspec.structs.replace(first, offset=1)
    stranger = msgspec.structs.replace(other, pod_name="stranger")
    before, moved, taken = (view(fold([pools, block, event])) for event in (first, other, stranger))

    assert ["moved"] == [change.change for change in difference(before, moved)]
    assert ["lost", "gained"] == [change.change for change in difference(before, taken)]
    assert moved == patch(before, difference(before, moved))
    assert before == patch(moved, undone(difference(before, moved)))
