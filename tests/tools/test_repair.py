"""`coild-repair`: what it cuts off, keeps and records, and what it leaves alone."""

from __future__ import annotations

import contextlib
import errno
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from coild.rules.events import (
    OPERATOR,
    SCHEMA,
    DaemonStopped,
    Event,
    HistoryPruned,
    JournalRepaired,
    SnapshotTaken,
)
from coild.rules.projection import Projection
from coild.vocabulary import VOCABULARY, records_of
from journal import prepare, prune, read_events, retire
from journal.format.codec import SEGMENT_HEADER_BYTES
from journal.format.segments import NOTE_NAME, SPARE_NAME
from journal.fs import FileSystem
from journal.repair.plan import plan_truncation
from journal.repair.truncate import truncate
from journal.write.recovery import recover
from journal.write.repair_note import forget
from journal.write.segment_writer import Log
from journal.write.spare import Spare
from tests.crash.simulated.images import crash_images
from tests.kits.daemon.process import Daemon
from tests.kits.daemon.process import run as run_coild
from tests.kits.journal.building import (
    SEGMENT_BYTES,
    encode,
    flipped,
    frames_of,
    image,
    opened,
    segments,
)
from tests.kits.journal.disks import FS, HookedFileSystem
from tests.kits.journal.verify import NOW, age, facts
from tools.repair import main
from tools.verify import cli as verify


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A journal of three segments with two, three and three events, a frame each."""
    path = tmp_path / "data" / "journal"
    path.parent.mkdir()
    make(path)
    return path


def make(path: Path, *, compact: bool = False) -> None:
    """Write that journal; compacted, its first segment is archived and covered by a snapshot."""
    events = facts(6)
    with opened(path, schema=SCHEMA, clock=lambda: NOW) as journal:
        for event in events[:2]:
            journal.append([event])
        through = journal.log.seal()
        for event in events[2:5]:
            journal.append([event])
        journal.log.seal()
        for event in events[5:]:
            journal.append([event])
        if compact:
            done = prepare(FS, path, through, VOCABULARY, Projection(), now=NOW)
            journal.append([SnapshotTaken(NOW, through, bytes.fromhex(done.digest), 1)])
            retire(FS, path, SCHEMA)


def damage(path: Path, frame: int) -> int:
    """Alter a frame of a segment; its offset."""
    data = path.read_bytes()
    _, frames = frames_of(data)
    path.write_bytes(flipped(data, frames[frame].offset + 60))
    return frames[frame].offset


def events_of(directory: Path, start: int | None = 1) -> list[Any]:
    """All events."""
    return [event for _, event in read_events(directory, Event, schema=SCHEMA, start=start)]


def repair(directory: Path) -> int:
    """Run the tool without a question."""
    return main(["--truncate-tail", "--yes", "--journal", str(directory)])


def check_start(directory: Path) -> None:
    """The real daemon starts with the journal."""
    with Daemon(directory.parent, "--log-level", "info") as daemon:
        assert daemon.status()["status"] == 200


def test_a_torn_tail_is_cut_and_recorded(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bytes are kept beside the segment, and the journal says who cut them off."""
    last = segments(directory)[-1]
    before = last.read_bytes()
    offset = damage(last, 2)
    torn = last.read_bytes()[offset:].rstrip(b"\0")
    status = repair(directory)
    shown = capsys.readouterr().out
    record = events_of(directory)[-1]
    kept = directory / record.kept

    assert status == 0
    assert f"{last} from offset {offset}: {len(torn)} bytes, without an intact frame" in shown
    assert isinstance(record, JournalRepaired)
    assert (last.name, offset, len(torn), OPERATOR) == (
        record.segment,
        record.offset,
        record.size,
        record.by,
    )
    assert torn == kept.read_bytes()
    assert before[:offset] == last.read_bytes()[:offset]
    assert verify.main(["--journal", str(directory)]) == 0
    assert f"head {len(events_of(directory))}:" in shown


@pytest.mark.parametrize("segment", [0, 1, 2])
def test_a_refused_start_is_cut_off_where_the_damage_begins(
    directory: Path, capsys: pytest.CaptureFixture[str], segment: int
) -> None:
    """What is good before stays, all bytes behind are kept, and the daemon starts."""
    path, *later = segments(directory)[segment:]
    originals = [file.read_bytes() for file in later]
    damage(path, 0)
    refused = run_coild("--data-dir", str(directory.parent), "--http", "127.0.0.1:0")
    status = repair(directory)
    shown = capsys.readouterr().out
    good = [0, 2, 5][segment]
    records = events_of(directory)[good:]
    stamp = records[0].kept.rpartition("-")[2]

    assert refused.returncode != 0
    assert status == 0
    assert facts(6)[:good] == events_of(directory)[:good]
    assert [(file.name, f"{file.name}.torn-{stamp}", OPERATOR) for file in (path, *later)] == [
        (record.segment, record.kept, record.by) for record in records
    ]
    assert originals == [file.with_name(f"{file.name}.torn-{stamp}").read_bytes() for file in later]
    assert f"{8 - good - 1} events that were durable would be lost" in shown
    assert verify.main(["--journal", str(directory), "--deep"]) == 0
    check_start(directory)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(flipped(path.read_bytes(), 20)),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[: SEGMENT_HEADER_BYTES + 64]),
        lambda path: path.unlink(),
    ],
    ids=["header", "empty", "cut", "missing"],
)
@pytest.mark.parametrize("compact", [False, True])
def test_a_segment_that_cannot_be_read_goes_as_a_whole(
    tmp_path: Path, spoil: Callable[[Path], object], *, compact: bool
) -> None:
    """With its header gone, an empty segment that continues the journal takes its place."""
    path = tmp_path / "data" / "journal"
    path.parent.mkdir()
    make(path, compact=compact)
    spoil(segments(path)[-2])
    status = repair(path)
    events = events_of(path)

    assert status == 0
    assert facts(6)[:2] == events[:2]
    repairs = [event for event in events[2:] if not isinstance(event, SnapshotTaken)]
    assert all(isinstance(event, JournalRepaired) for event in repairs)
    assert sorted(kept.name for kept in path.glob("*.torn-*")) == sorted(
        event.kept for event in repairs
    )
    assert verify.main(["--journal", str(path), "--deep"]) == 0
    check_start(path)


def test_events_that_cannot_be_counted_are_not_called_none(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without its header nothing can be read of a segment, which does not mean that it is empty."""
    middle = segments(directory)[1]
    middle.write_bytes(flipped(middle.read_bytes(), 20))
    repair(directory)
    shown = capsys.readouterr().out

    assert "3 events that were durable would be lost; what they allocated could be" in shown
    assert f"The header of {middle.name} is damaged, so its events cannot be counted" in shown
    assert "No event" not in shown


def test_events_that_are_elsewhere_are_not_lost(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A segment that was copied to a later name takes no event with it."""
    first = segments(directory)[0]
    copy = directory / f"{9:020d}.seg"
    copy.write_bytes(first.read_bytes())
    repair(directory)

    assert "No event that can be read would be lost" in capsys.readouterr().out
    assert facts(6) == events_of(directory)[:8]


def test_an_index_does_not_outlive_what_was_cut_off(tmp_path: Path) -> None:
    """The index of the damaged segment would fit it still, by its id, and hide later events."""
    path = tmp_path / "journal"
    make(path, compact=True)
    damaged = segments(path)[0]
    index = damaged.with_suffix(".idx")
    damage(damaged, 1)
    was_there = index.exists()
    repair(path)

    assert was_there
    assert not index.exists()


def contents(directory: Path) -> dict[Path, bytes]:
    """All files but the lock, the archive's too."""
    return {
        path: path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name != "LOCK"
    }


def spoil_newest_snapshot(directory: Path) -> None:
    """Alter the only snapshot, so that the archive must be read."""
    (snapshot,) = directory.glob("*.snap")
    snapshot.write_bytes(flipped(snapshot.read_bytes(), 60))


def test_damage_in_the_archive_is_not_repaired(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a snapshot a start does not read it; without one, only a backup helps."""
    path = tmp_path / "journal"
    make(path, compact=True)
    (archived,) = (path / "archive").glob("*.zst")
    archived.write_bytes(flipped(archived.read_bytes(), 60))
    covered = repair(path)
    spoil_newest_snapshot(path)
    before = contents(path)

    assert covered == 0
    assert repair(path) == 1
    assert before == contents(path)
    assert f"restore {archived} from a backup" in capsys.readouterr().err


def test_without_a_good_snapshot_the_archive_is_read(tmp_path: Path) -> None:
    """A bad snapshot alone needs no repair, and hinders none."""
    path = tmp_path / "data" / "journal"
    path.parent.mkdir()
    make(path, compact=True)
    spoil_newest_snapshot(path)
    before = contents(path)
    nothing = repair(path)
    after = contents(path)
    damage(segments(path)[0], 1)
    status = repair(path)

    assert nothing == 0
    assert before == after
    assert status == 0
    assert facts(6)[:3] == events_of(path)[:3]
    assert ["00000000000000000003.seg", "00000000000000000006.seg"] == [
        event.segment for event in events_of(path)[3:]
    ]
    check_start(path)


def test_nothing_to_repair(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A good journal is left as it is."""
    before = image(directory)
    status = repair(directory)

    assert status == 0
    assert f"there is nothing to repair in {directory}\n" == capsys.readouterr().out
    assert before.items() <= image(directory).items()


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "status"), [("n\n", 1), ("\n", 1), ("", 1), ("y\n", 0)])
def test_it_asks_at_a_terminal(
    directory: Path, monkeypatch: pytest.MonkeyPatch, answer: str, status: int
) -> None:
    """Anything but yes changes nothing."""
    damage(segments(directory)[1], 0)
    before = contents(directory)
    monkeypatch.setattr("sys.stdin", _Terminal(answer))

    assert main(["--truncate-tail", "--journal", str(directory)]) == status
    assert (before == contents(directory)) == (status == 1)


def test_without_a_terminal_it_needs_to_be_told(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A script that did not say --yes is not taken to have meant it."""
    damage(segments(directory)[1], 0)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))

    assert main(["--truncate-tail", "--journal", str(directory)]) == 2
    assert "--yes" in capsys.readouterr().err
    assert len(segments(directory)) == 3


def test_what_to_repair_must_be_said(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """There is no default that loses events."""
    assert main(["--journal", str(directory)]) == 2
    assert "--truncate-tail" in capsys.readouterr().err


def test_it_refuses_while_a_daemon_runs(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    """The writer's lock is the daemon's."""
    assert main(["--truncate-tail", "--yes", "--data-dir", str(daemon.data_dir)]) == 1
    assert f"process {daemon.process.pid}" in capsys.readouterr().err


def ordered_and_recorded(directory: Path, fs: FileSystem) -> None:
    """What the tool does with a journal that was pruned."""
    repaired_and_recorded(directory, fs, [encode(HistoryPruned(NOW, 2, 1, 1, "--delete"))])


def repaired_and_recorded(directory: Path, fs: FileSystem, again: Sequence[bytes] = ()) -> None:
    """What the tool does, on a disk of the test's choice."""
    truncation = plan_truncation(fs, directory, VOCABULARY, Projection(), NOW)
    assert truncation is not None
    truncate(fs, directory, truncation, NOW, again)
    recovered = recover(
        fs,
        directory,
        schema=SCHEMA,
        segment_bytes=SEGMENT_BYTES,
        now=NOW,
        restore=Projection().restore,
    )
    spare = Spare(fs, directory, SEGMENT_BYTES)
    log = Log(fs, recovered, spare, SCHEMA, lambda: NOW)
    for event in records_of(recovered, lambda: NOW):
        log.append([encode(event)])
    forget(fs, directory)
    log.close()


@pytest.mark.parametrize("segment", [0, 1, 2])
@pytest.mark.parametrize("spoil", ["frame", "header"])
def test_an_interrupted_repair_is_finished_and_recorded_once(
    directory: Path, segment: int, spoil: str
) -> None:
    """Whatever ends it where, by kill -9 or power cut: a rerun finishes, and each file is told."""
    path, *later = segments(directory)[segment:]
    if spoil == "frame":
        damage(path, 0)
    else:
        path.write_bytes(flipped(path.read_bytes(), 20))
    good = [0, 2, 5][segment]
    images = crash_images(directory, repaired_and_recorded)
    for left in images:
        status = repair(left)
        events = events_of(left)
        records = events[good:]

        assert status == 0
        assert facts(6)[:good] == events[:good]
        assert {path.name, *(file.name for file in later)} == {record.segment for record in records}
        # Half a record is set aside like any torn frame, and told of too.
        assert len(records) in {1 + len(later), 2 + len(later)}
        assert len(records) == len({record.kept for record in records})
        assert all((left / record.kept).exists() for record in records)
        assert not (left / NOTE_NAME).exists()
    assert len(images) > 8 + 2 * len(later)


def test_a_repair_that_was_cut_short_is_recorded_by_the_daemon(directory: Path) -> None:
    """Should the next writer not be the tool, it says and records what the tool did."""
    path, *later = segments(directory)[1:]
    damage(path, 0)
    truncation = plan_truncation(FS, directory, VOCABULARY, Projection(), NOW)
    assert truncation is not None
    truncate(FS, directory, truncation, NOW)
    with Daemon(directory.parent) as daemon:
        daemon.stop()
        log = daemon.log
    with Daemon(directory.parent) as daemon:
        daemon.stop()
    records = [event for event in events_of(directory) if isinstance(event, JournalRepaired)]

    assert [path.name, *(file.name for file in later)] == [record.segment for record in records]
    assert {OPERATOR} == {record.by for record in records}
    assert f"an operator had {path.name} cut off" in log


def behind_a_snapshot(path: Path) -> None:
    """The first segment that follows a snapshot is missing."""
    make(path, compact=True)
    segments(path)[0].unlink()


def behind_the_archive(path: Path) -> None:
    """The same, and the snapshot is gone too."""
    behind_a_snapshot(path)
    spoil_newest_snapshot(path)


def all_behind_a_snapshot(path: Path) -> None:
    """All segments that follow a snapshot are missing."""
    make(path, compact=True)
    for file in segments(path):
        file.unlink()


@pytest.mark.parametrize("spoil", [behind_a_snapshot, behind_the_archive, all_behind_a_snapshot])
def test_a_missing_segment_behind_what_is_archived(
    tmp_path: Path,
    spoil: Callable[[Path], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A new segment continues what is left, whatever ends the repair on the way."""
    # Where no segment is left to tell, one of the default size is made: in every image of a crash.
    for module in ("journal.repair.plan", "tools.offline_writer"):
        monkeypatch.setattr(f"{module}.DEFAULT_SEGMENT_BYTES", SEGMENT_BYTES)
    path = tmp_path / "data" / "journal"
    path.parent.mkdir()
    spoil(path)
    lost = [file.name for file in segments(path)]
    for left in [*crash_images(path, repaired_and_recorded), path]:
        status = repair(left)
        # Beside them, the record of the snapshot, if that went.
        records = [event for event in events_of(left) if isinstance(event, JournalRepaired)]

        assert status == 0
        assert facts(6)[:2] == events_of(left)[:2]
        told = {record.segment for record in records}
        # Half a record in the new segment is set aside too.
        assert set(lost) <= told <= {*lost, "00000000000000000003.seg"}
        assert any("missing" in record.reason for record in records)
        age(left)
        assert verify.main(["--journal", str(left)]) in {0, 2 * (spoil is behind_the_archive)}
    assert "nowhere" in capsys.readouterr().out or not lost
    check_start(path)


def test_without_the_beginning_there_is_nothing_to_go_on_with(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The missing file is named, and nothing is changed."""
    segments(directory)[0].unlink()
    before = contents(directory)

    assert repair(directory) == 1
    assert before == contents(directory)
    assert f"restore {directory / '00000000000000000001.seg'} from" in capsys.readouterr().err


def test_a_full_last_segment_has_room_for_the_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the journal goes on in a segment that is full, the next one is made first."""
    path = tmp_path / "journal"
    with opened(path, schema=SCHEMA, clock=lambda: NOW) as journal:
        while journal.log.free_bytes > 400:
            journal.append([DaemonStopped(NOW, "v" * 200, "")])
        sealed = journal.log.seal()
        for _ in range(2):
            journal.append([DaemonStopped(NOW, "", "")])
            journal.log.seal()
    segments(path)[1].unlink()
    status = repair(path)

    assert status == 0
    assert isinstance(events_of(path)[sealed], JournalRepaired)
    assert f"head {sealed + 2}:" in capsys.readouterr().out


def test_an_order_to_prune_that_goes_is_journalled_again(tmp_path: Path) -> None:
    """History that was removed on purpose does not seem lost because its record is."""
    path = tmp_path / "data" / "journal"
    path.parent.mkdir()
    with opened(path, schema=SCHEMA, clock=lambda: NOW) as journal:
        journal.append(facts(6)[:2])
        through = journal.log.seal()
        done = prepare(FS, path, through, VOCABULARY, Projection(), now=NOW)
        retire(FS, path, SCHEMA)
        journal.append([SnapshotTaken(NOW, through, bytes.fromhex(done.digest), 1)])
        journal.log.seal()
        journal.append([DaemonStopped(NOW, "", "")])
        journal.append([HistoryPruned(NOW, 2, 1, 1, "--delete")])
        journal.append([HistoryPruned(NOW, 1, 1, 1, "--delete")])
    prune(FS, path, 2)
    damage(segments(path)[-1], 0)
    images = crash_images(path, ordered_and_recorded)
    for left in [*images, path]:
        assert repair(left) == 0
        events = events_of(left, start=None)
        orders = [event for event in events if isinstance(event, HistoryPruned)]

        assert [2] == [order.through for order in orders]
        assert any(isinstance(event, JournalRepaired) for event in events)
        assert verify.main(["--journal", str(left)]) == 0
    assert len(images) > 10


def test_a_full_disk_leaves_everything_as_it_was(directory: Path) -> None:
    """What needs space comes first: without it the error names the file, and nothing is changed."""
    damage(segments(directory)[1], 0)
    before = contents(directory)
    truncation = plan_truncation(FS, directory, VOCABULARY, Projection(), NOW)
    assert truncation is not None
    for nth in range(1, 5):
        fs = HookedFileSystem()
        fs.fail("write", errno.ENOSPC, nth=nth)
        with pytest.raises(OSError, match="No space left on device: '/"):
            truncate(fs, directory, truncation, NOW)
        left = contents(directory)
        # The copy's space may stay reserved.
        left.pop(directory / SPARE_NAME, None)
        assert before == left


@pytest.mark.parametrize("make_entry", [Path.mkdir, lambda path: path.symlink_to("nowhere")])
@pytest.mark.parametrize("what", ["snapshot", "segment"])
def test_what_is_no_file_is_no_hindrance(
    tmp_path: Path, make_entry: Callable[[Path], object], what: str
) -> None:
    """A directory or a link to nowhere in a file's place is set aside, or stepped over."""
    path = tmp_path / "data" / "journal"
    path.parent.mkdir()
    make(path, compact=True)
    entry = next(path.glob("*.snap")) if what == "snapshot" else segments(path)[-1]
    entry.unlink()
    make_entry(entry)
    damage(segments(path)[0], 1)

    assert repair(path) == 0
    assert facts(6)[:3] == events_of(path)[:3]
    check_start(path)


@pytest.mark.parametrize("make_entry", [Path.mkdir, lambda path: path.symlink_to("nowhere")])
@pytest.mark.parametrize("nth", [1, 2, 3, 4, 5])
def test_what_is_no_file_where_the_journal_is_cut_off(
    directory: Path, make_entry: Callable[[Path], object], nth: int
) -> None:
    """It is moved aside, also by a run after one that failed at any of its renames."""
    path, last = segments(directory)[1:]
    path.unlink()
    make_entry(path)
    fs = HookedFileSystem()
    fs.fail("rename", errno.EIO, nth=nth)
    with contextlib.suppress(OSError):
        repaired_and_recorded(directory, fs)
    status = repair(directory)
    (kept,) = directory.glob(f"{path.name}.torn-*")

    assert status == 0
    assert not kept.is_file()
    assert facts(6)[:2] == events_of(directory)[:2]
    records = events_of(directory)[2:]
    assert {path.name, last.name} == {record.segment for record in records}
    assert kept.name in {record.kept for record in records}
    assert len(records) == 2
    assert verify.main(["--journal", str(directory)]) == 0


@pytest.mark.parametrize("number", [0, 4])
def test_a_stray_file_is_no_reason_to_cut(
    directory: Path, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    """A copy of a segment under another number is to be moved away; nothing behind it goes."""
    stray = directory / f"{number:020d}.seg"
    stray.write_bytes(segments(directory)[0].read_bytes())
    before = contents(directory)
    status = repair(directory)
    said = capsys.readouterr().err
    after = contents(directory)
    stray.unlink()

    assert (1, before) == (status, after)
    assert f"{stray}: the journal goes on in" in said
    assert "move it to another directory" in said
    assert facts(6) == events_of(directory)
