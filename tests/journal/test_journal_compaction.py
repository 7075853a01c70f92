"""Compaction and pruning: the journal gets small, its history stays, and no crash harms it."""

# expected == actual

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from journal import (
    CompactionRunsError,
    JournalCorruptError,
    JournalError,
    Policy,
    Reader,
    find,
    index_sealed,
    plan_pruning,
    prune,
    retire,
)
from journal.compact.prepare import archive_lock
from journal.format.segments import RECOVERED_NAME, SPARE_NAME
from journal.read.indexed import write_index
from tests.crash.simulated.images import crash_images
from tests.kits.journal.building import (
    SCHEMA,
    Cut,
    Event,
    build,
    flipped,
    forged,
    frames_of,
    patched,
    puts,
    read_back,
    segments,
)
from tests.kits.journal.compaction import (
    KEYS,
    VOCABULARY,
    archived,
    compact,
    prepared,
    reopen,
    snapshots,
    state_of,
    tree,
    write_sealed,
)
from tests.kits.journal.disks import FS

DAY = 86_400 * 10**9
#: Enough for three segments of the smallest size, not enough for four.
EVENTS: list[Any] = [*puts(700), *(Cut(f"key-{n}") for n in range(1, 300, 2))]


@pytest.fixture
def through(directory: Path) -> int:
    """Up to where the journal is sealed, which has all of EVENTS."""
    return write_sealed(directory, EVENTS)


def assert_same(directory: Path, events: list[Any]) -> None:
    """The journal opens with the state of `events`, and its history has all of them."""
    assert state_of(events).digest == reopen(directory).state.digest
    assert events == read_back(directory)


def leftovers(directory: Path) -> list[str]:
    """The names that an interrupted run may leave, and a whole one may not."""
    names = set(tree(directory))
    orphans = {
        name
        for name in names
        if name.endswith(".idx")
        and not {re.sub("idx$", "seg", name), re.sub("idx$", "seg.zst", name)} & names
    }
    return sorted(orphans | {name for name in names if name.endswith(".tmp")})


def test_compaction_moves_what_is_sealed(through: int, directory: Path) -> None:
    """Sealed segments go into the archive with their indexes, a snapshot stands for them."""
    count = len(segments(directory)) - 1
    names = [path.name for path in segments(directory)]
    done, gone = compact(directory, through)

    assert len(EVENTS) == through == done.sequence
    assert count > 2
    assert count == done.archived == gone.segments
    assert state_of(EVENTS).digest == done.digest
    assert [f"{name}.zst" for name in names[:-1]] == [path.name for path in archived(directory)]
    assert names[-1:] == [path.name for path in segments(directory)]
    assert done.segment_bytes > 3 * done.archive_bytes
    assert [f"{through:020d}.snap"] == [path.name for path in snapshots(directory)]
    assert snapshots(directory)[0].stat().st_size == done.snapshot_bytes
    assert [] == leftovers(directory)
    assert_same(directory, EVENTS)


def test_a_start_reads_only_what_the_snapshot_does_not_cover(directory: Path) -> None:
    """With a snapshot, a start opens no archived segment: damage there does not stop it."""
    compact(directory, write_sealed(directory, EVENTS))
    for path in archived(directory):
        path.write_bytes(b"")
    opened = reopen(directory)

    assert (1, len(EVENTS)) == (opened.recovered.segments, opened.recovered.snapshot_sequence)
    assert state_of(EVENTS).digest == opened.state.digest


def test_compactions_in_a_row(directory: Path) -> None:
    """Each takes up what came since the one before; two snapshots are kept."""
    events: list[Any] = []
    through = []
    for round_ in range(4):
        more = puts(300, start=300 * round_ + 1)
        events += more
        through.append(write_sealed(directory, more))
        done, gone = compact(directory, through[-1])
        assert done.archived == gone.segments
        assert_same(directory, events)

    assert through[:-3:-1] == [int(path.stem) for path in snapshots(directory)]


def test_a_second_run_has_nothing_to_do(through: int, directory: Path) -> None:
    """A compaction of what is compacted changes nothing."""
    first = compact(directory, through)[0]
    before = tree(directory)
    done, gone = compact(directory, through)

    assert (first.digest, 0, (0, 0, 0)) == (
        done.digest,
        done.archived,
        (gone.segments, gone.bytes, gone.snapshots),
    )
    assert before == tree(directory)


def test_only_the_end_of_a_sealed_segment_can_be_a_snapshot(through: int, directory: Path) -> None:
    """Another sequence is refused, and nothing is published."""
    for sequence in (through - 1, through + 1):
        with pytest.raises(ValueError, match="no sealed segment ends"):
            prepared(directory, sequence)
    assert [] == snapshots(directory)


def test_retire_without_a_snapshot(directory: Path) -> None:
    """Where there is no snapshot, nothing is covered and nothing goes."""
    write_sealed(directory, EVENTS)
    before = segments(directory)

    assert 0 == retire(FS, directory, SCHEMA).segments
    assert before == segments(directory)


def test_retire_with_a_damaged_snapshot(directory: Path) -> None:
    """A snapshot that went bad covers nothing: retire refuses, and the segments stay."""
    prepared(directory, write_sealed(directory, EVENTS))
    (path,) = snapshots(directory)
    path.write_bytes(flipped(path.read_bytes(), 150))
    before = tree(directory)

    with pytest.raises(JournalCorruptError, match="digest"):
        retire(FS, directory, SCHEMA)
    assert before == tree(directory)


def test_retire_keeps_what_the_archive_lacks(directory: Path) -> None:
    """A covered segment without a copy in the archive stays."""
    prepared(directory, write_sealed(directory, EVENTS))
    lacking = archived(directory)[1]
    lacking.unlink()
    retire(FS, directory, SCHEMA)

    assert lacking.name.removesuffix(".zst") in {path.name for path in segments(directory)}
    assert_same(directory, EVENTS)


def test_retire_keeps_what_the_archive_has_differently(directory: Path) -> None:
    """A covered segment whose copy has other bytes, or none that can be read, stays."""
    prepared(directory, write_sealed(directory, EVENTS))
    first, second = archived(directory)[:2]
    first.write_bytes(flipped(first.read_bytes(), 40))
    second.write_bytes(archived(directory)[2].read_bytes())
    names = [path.name for path in segments(directory)]
    retire(FS, directory, SCHEMA)

    assert [*names[:2], names[-1]] == [path.name for path in segments(directory)]
    assert_same(directory, EVENTS)


@pytest.mark.parametrize("frame", [1, -2])
@pytest.mark.parametrize("number", [0, 1])
def test_a_segment_that_lost_its_end_does_not_replace_its_copy(
    directory: Path, number: int, frame: int
) -> None:
    """A compaction was stopped before `retire`, then a live segment cut at a frame's border."""
    through = write_sealed(directory, EVENTS)
    prepared(directory, through)
    path = segments(directory)[number]
    data = path.read_bytes()
    end = frames_of(data)[1][frame].end
    path.write_bytes(data[:end] + bytes(len(data) - end))
    before = tree(directory)

    with pytest.raises(JournalCorruptError, match=r"does not end where .*seg begins") as caught:
        compact(directory, through)
    assert path == caught.value.file
    assert before == tree(directory)


def test_a_newest_segment_that_lost_its_end_gets_no_snapshot(through: int, directory: Path) -> None:
    """A snapshot of fewer events than the next segment continues would be of another state."""
    path = segments(directory)[-2]
    data = path.read_bytes()
    end = frames_of(data)[1][2].end
    path.write_bytes(data[:end] + bytes(len(data) - end))

    with pytest.raises(JournalCorruptError, match="does not end where"):
        prepared(directory, through)
    assert [] == snapshots(directory)


@pytest.mark.parametrize("sequence", [1, 10**9])
def test_a_directory_named_like_a_snapshot_is_stepped_over(directory: Path, sequence: int) -> None:
    """Older or newer, it stops no compaction and no pruning, and stays."""
    path = directory / f"{sequence:020d}.snap"
    events: list[Any] = []
    for round_ in range(3):
        more = puts(300, start=300 * round_ + 1)
        events += more
        through = write_sealed(directory, more)
        path.mkdir(exist_ok=True)
        assert compact(directory, through)[1].segments
    assert_same(directory, events)
    prune(FS, directory, through)

    assert path.is_dir()
    assert [] == archived(directory)
    assert state_of(events).digest == reopen(directory).state.digest


def test_a_damaged_snapshot_with_a_higher_number_goes(through: int, directory: Path) -> None:
    """The newest good one is what counts; without any, nothing is removed."""
    later = directory / f"{10**9:020d}.snap"
    later.write_bytes(b"no snapshot")
    gone = compact(directory, through)[1]

    assert (True, 1) == (gone.segments > 0, gone.snapshots)
    assert not later.exists()


def test_two_at_once(through: int, directory: Path) -> None:
    """While one is at work, another is told so, and touches nothing."""
    with archive_lock(FS, directory):
        before = tree(directory)
        with pytest.raises(CompactionRunsError, match="another compaction"):
            prepared(directory, through)
        with pytest.raises(CompactionRunsError):
            retire(FS, directory, SCHEMA)
        with pytest.raises(CompactionRunsError):
            prune(FS, directory, through)
        assert before == tree(directory)

    compact(directory, through)


@pytest.mark.parametrize("offset", [0, 40, -1, -20, -70])
def test_a_damaged_copy_is_made_again(through: int, directory: Path, offset: int) -> None:
    """A copy that went bad is replaced while the segment itself is still there."""
    prepared(directory, through)
    path = archived(directory)[1]
    good = path.read_bytes()
    path.write_bytes(flipped(good, offset % len(good)))
    done, gone = compact(directory, through)

    assert 1 == done.archived
    assert gone.segments == len(archived(directory))
    assert good == path.read_bytes()
    assert_same(directory, EVENTS)


def test_a_copy_of_another_segment_is_made_again(through: int, directory: Path) -> None:
    """A copy that is whole, but of another segment, is no copy."""
    prepared(directory, through)
    first, second = archived(directory)[:2]
    second.write_bytes(first.read_bytes())

    assert 1 == compact(directory, through)[0].archived
    assert_same(directory, EVENTS)


def test_what_was_altered_is_not_archived(through: int, directory: Path) -> None:
    """A frame with a fitting checksum and a wrong digest is noticed before it is archived."""
    path = segments(directory)[1]
    data = path.read_bytes()
    frame = frames_of(data)[1][2]
    first = frame.first_sequence
    path.write_bytes(forged(data, frame, puts(10, start=first, value_bytes=20)))

    with pytest.raises(JournalCorruptError, match="was altered"):
        prepared(directory, through)
    assert [] == archived(directory)


def fall_back(directory: Path) -> list[Any]:
    """Make a journal of two snapshots, and a tail behind the second; its events."""
    compact(directory, write_sealed(directory, EVENTS))
    more = puts(400, start=2000)
    compact(directory, write_sealed(directory, more))
    tail = puts(50, start=3000)
    build(directory, [tail])
    return [*EVENTS, *more, *tail]


@pytest.mark.parametrize("offset", [0, 20, 60, 119, 120, -1])
def test_a_damaged_snapshot_falls_back_to_the_one_before(directory: Path, offset: int) -> None:
    """The one before and the archive behind it give the same state; what was rejected is told."""
    events = fall_back(directory)
    newest, older = snapshots(directory)
    data = newest.read_bytes()
    newest.write_bytes(flipped(data, offset % len(data)))
    opened = reopen(directory)

    assert state_of(events).digest == opened.state.digest
    assert int(older.stem) == opened.recovered.snapshot_sequence
    assert [newest] == [rejected.path for rejected in opened.recovered.rejected]
    assert opened.recovered.rejected[0].reason


def test_a_damaged_snapshot_goes_when_there_is_a_newer_good_one(directory: Path) -> None:
    """Nothing can fall back to it, and it would be reported for ever; the one before it stays."""
    events = fall_back(directory)
    damaged, older = snapshots(directory)
    damaged.write_bytes(flipped(damaged.read_bytes(), 60))
    more = puts(20, start=5000)
    _, retired = compact(directory, write_sealed(directory, more))

    assert 1 == retired.snapshots
    assert not damaged.exists()
    assert [older] == snapshots(directory)[1:]
    assert state_of([*events, *more]).digest == reopen(directory).state.digest


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("nowhere")])
def test_a_snapshot_that_is_no_file_falls_back(
    directory: Path, make: Callable[[Path], object]
) -> None:
    """What cannot be read is no reason not to start: the one before and the archive are there."""
    events = fall_back(directory)
    newest, older = snapshots(directory)
    newest.unlink()
    make(newest)
    opened = reopen(directory)

    assert state_of(events).digest == opened.state.digest
    assert int(older.stem) == opened.recovered.snapshot_sequence
    ((path, reason),) = opened.recovered.rejected
    assert newest == path
    assert "it cannot be read" in reason


def test_without_a_good_snapshot_everything_is_replayed(directory: Path) -> None:
    """With both snapshots damaged, the archive from the first event on gives the same state."""
    events = fall_back(directory)
    both = snapshots(directory)
    for path in both:
        path.write_bytes(path.read_bytes()[:-1])
    opened = reopen(directory)

    assert state_of(events).digest == opened.state.digest
    assert 0 == opened.recovered.snapshot_sequence
    assert both == [rejected.path for rejected in opened.recovered.rejected]


def test_a_fallback_that_fails_names_the_snapshot(directory: Path) -> None:
    """If the archive cannot stand in for a bad snapshot, the error tells of both."""
    fall_back(directory)
    for path in snapshots(directory):
        path.write_bytes(b"")
    archived(directory)[1].unlink()

    with pytest.raises(JournalCorruptError, match=r"a segment is missing.*cut short") as raised:
        reopen(directory)
    assert archived(directory)[1] == raised.value.file


@pytest.mark.parametrize(
    ("more", "lost", "words"),
    [
        ([], segments, "the events after it are nowhere"),
        (
            puts(800, start=2000),
            lambda directory: segments(directory)[:1],
            r"a segment is missing|of another journal",
        ),
        (
            [],
            lambda directory: [*segments(directory), *snapshots(directory)],
            "the segment that follows this one is missing",
        ),
    ],
    ids=["behind the snapshot", "the first behind it", "behind the archive"],
)
def test_a_segment_behind_what_is_compacted_is_missed(
    directory: Path, more: list[Any], lost: Callable[[Path], list[Path]], words: str
) -> None:
    """A journal that ends with its snapshot or its archive, or has a gap there, is refused."""
    compact(directory, write_sealed(directory, EVENTS))
    if more:
        write_sealed(directory, more)
    for path in lost(directory):
        path.unlink()

    with pytest.raises(JournalCorruptError, match=words):
        reopen(directory)


def test_a_snapshot_of_another_journal(directory: Path) -> None:
    """A good snapshot that the segment behind it does not continue is not used."""
    other = directory.with_name("other")
    compact(other, write_sealed(other, puts(len(EVENTS))))
    write_sealed(directory, EVENTS)
    (path,) = snapshots(other)
    (directory / path.name).write_bytes(path.read_bytes())
    opened = reopen(directory)

    assert state_of(EVENTS).digest == opened.state.digest
    assert "another journal" in opened.recovered.rejected[0].reason


def small(directory: Path) -> tuple[list[Any], int]:
    """A journal that was compacted once, and has two more sealed segments."""
    first = puts(300)
    compact(directory, write_sealed(directory, first))
    more = puts(500, start=301)
    return [*first, *more], write_sealed(directory, more)


def test_a_crash_at_every_step(directory: Path) -> None:
    """Wherever a compaction ends, the journal opens as it was, and the next run finishes it."""
    events, through = small(directory)
    images = crash_images(directory, lambda copy, fs: compact(copy, through, fs))

    assert len(images) > 30
    for image in images:
        assert_same(image, events)
        compact(image, through)
        assert 1 == len(segments(image)), image
        assert [] == leftovers(image), image
        assert_same(image, events)


def test_a_crash_of_a_reader_that_indexes(through: int, directory: Path) -> None:
    """Half an index that a reader left is removed by the next compaction, and so is an orphan."""
    (directory / f"{1:020d}.idx.4711.tmp").write_bytes(b"half")
    compact(directory, through)
    (directory / f"{1:020d}.idx").write_bytes(b"of a segment that moved")
    (directory / "archive" / f"{2:020d}.idx").write_bytes(b"of a segment that was pruned")
    compact(directory, through)

    assert [] == leftovers(directory)


def test_an_unfinished_spare_is_the_writers(through: int, directory: Path) -> None:
    """A compaction beside a live writer leaves the writer's own files alone."""
    for name in (SPARE_NAME, RECOVERED_NAME):
        (directory / name).write_bytes(b"")
    compact(directory, through)

    assert {SPARE_NAME, RECOVERED_NAME} <= set(tree(directory))


def test_index_sealed_makes_what_is_missing(directory: Path) -> None:
    """Each sealed segment gets an index once; the open one has none."""
    write_sealed(directory, EVENTS)
    count = len(segments(directory)) - 1

    assert count == len(index_sealed(FS, directory, VOCABULARY))
    assert {} == index_sealed(FS, directory, VOCABULARY)
    assert count == len(list(directory.glob("*.idx")))
    write_index(FS, next(iter(directory.glob("*.idx"))), b"rubbish")
    assert 1 == len(index_sealed(FS, directory, VOCABULARY))


def older(directory: Path) -> list[Any]:
    """A journal of an older schema, whose last segment has events."""
    build(directory, [EVENTS[n : n + 10] for n in range(0, 400, 10)], schema=SCHEMA - 1)
    assert 2 == len(segments(directory))
    return EVENTS[:400]


def test_the_last_segment_of_an_older_schema_gets_the_new_number(directory: Path) -> None:
    """The open segment goes on under the new number, its frames as they were; others stay."""
    events = older(directory)
    before = [path.read_bytes() for path in segments(directory)]
    assert state_of(events).digest == reopen(directory).state.digest
    after = [path.read_bytes() for path in segments(directory)]

    assert before[0] == after[0]
    assert before[1][4096:] == after[1][4096:]
    header, frames = frames_of(after[1])
    assert SCHEMA == header.schema
    old = patched(before[1], 24, SCHEMA.to_bytes(4, "little"))
    assert old[12:4096] == after[1][12:4096]
    assert sum(frame.count for frame in frames) == len(events) - header.previous_sequence
    assert events == read_back(directory)


def aged(directory: Path) -> list[int]:
    """Compact a journal of which each segment is a day younger than the one before it."""
    day = [0]

    def clock() -> int:
        return day[0] * DAY

    through = []
    for number in range(5):
        day[0] = number
        through.append(write_sealed(directory, puts(200, start=200 * number + 1), clock=clock))
        compact(directory, through[-1])
    return through


def test_nothing_goes_that_is_not_asked_for(directory: Path) -> None:
    """Without a bound, or within all bounds, nothing is to be pruned."""
    aged(directory)
    size = sum(path.stat().st_size for path in archived(directory))

    assert plan_pruning(FS, directory, SCHEMA, Policy(), 100 * DAY) is None
    assert plan_pruning(FS, directory, SCHEMA, Policy(keep_age=5 * DAY), 5 * DAY) is None
    assert plan_pruning(FS, directory, SCHEMA, Policy(keep_bytes=size), 5 * DAY) is None


def test_pruning_by_age(directory: Path) -> None:
    """What goes has no event that is young enough to stay."""
    through = aged(directory)

    for now, count in ((4 * DAY, 2), (4 * DAY + 1, 3)):
        planned = plan_pruning(FS, directory, SCHEMA, Policy(keep_age=2 * DAY), now)
        assert planned is not None
        assert (through[count - 1], count) == (planned.through, planned.segments)


def test_pruning_by_size(directory: Path) -> None:
    """The oldest go until the rest is small enough, and no more."""
    through = aged(directory)
    sizes = [path.stat().st_size for path in archived(directory)]

    for kept in range(len(sizes)):
        planned = plan_pruning(
            FS, directory, SCHEMA, Policy(keep_bytes=sum(sizes[len(sizes) - kept :])), 0
        )
        gone = len(sizes) - kept
        assert planned is not None
        assert (through[gone - 1], gone, sum(sizes[:gone])) == (
            planned.through,
            planned.segments,
            planned.bytes,
        )


def test_pruning_everything(directory: Path) -> None:
    """`delete` takes the whole archive; the journal opens with its state, and has the rest."""
    through = aged(directory)
    tail = puts(40, start=5000)
    build(directory, [tail])
    planned = plan_pruning(FS, directory, SCHEMA, Policy(delete=True), 0)
    assert planned is not None
    assert (through[-1], len(through)) == (planned.through, planned.segments)
    prune(FS, directory, planned.through)

    events = [*puts(1000), *tail]
    assert [] == archived(directory)
    assert [] == leftovers(directory)
    assert state_of(events).digest == reopen(directory).state.digest
    batches = list(Reader(directory, Event, schema=SCHEMA).batches())
    assert [(1001, tail)] == [(batch.first_sequence, batch.events) for batch in batches]
    with pytest.raises(JournalCorruptError, match="the events 1 to 1000 are nowhere"):
        list(Reader(directory, Event, schema=SCHEMA).batches(1))
    assert plan_pruning(FS, directory, SCHEMA, Policy(delete=True), 0) is None


def test_after_pruning_the_rest_can_be_asked(directory: Path) -> None:
    """What was not pruned is found, with its sequences."""
    through = aged(directory)
    prune(FS, directory, through[1])

    reader = Reader(directory, Event, schema=SCHEMA)
    assert [401] == [found.sequence for found in find(reader, KEYS, b"kkey-401")]
    assert [] == list(find(reader, KEYS, b"kkey-400"))
    assert state_of(puts(1000)).digest == reopen(directory).state.digest


def test_the_snapshot_before_works_after_pruning_up_to_it(directory: Path) -> None:
    """Pruning up to the older snapshot keeps it: a damaged newest one falls back to it."""
    through = aged(directory)
    newest, older_ = snapshots(directory)
    prune(FS, directory, through[-2])
    newest.write_bytes(b"")
    opened = reopen(directory)

    assert int(older_.stem) == opened.recovered.snapshot_sequence
    assert state_of(puts(1000)).digest == opened.state.digest


def test_no_fallback_to_what_was_pruned(directory: Path) -> None:
    """If the only snapshot goes bad after its history was pruned, the journal is refused."""
    through = aged(directory)
    prune(FS, directory, through[-1])
    (newest,) = snapshots(directory)
    newest.write_bytes(newest.read_bytes()[:-1])

    with pytest.raises(JournalCorruptError, match=r"a segment is missing.*unusable snapshots"):
        reopen(directory)


def test_a_crash_at_every_step_of_pruning(directory: Path) -> None:
    """Wherever pruning ends, the journal opens, has no gap, and the next run finishes it."""
    through = aged(directory)[2]
    events = puts(1000)
    images = crash_images(directory, lambda copy, fs: prune(fs, copy, through))

    assert images
    for image in images:
        assert state_of(events).digest == reopen(image).state.digest
        batches = list(Reader(image, Event, schema=SCHEMA).batches())
        rest = [event for batch in batches for event in batch.events]
        assert events[len(events) - len(rest) :] == rest
        prune(FS, image, through)
        compact(image, len(events))
        assert 2 == len(archived(image))
        assert [] == leftovers(image), image


def test_a_damaged_archive_file_in_the_plan(directory: Path) -> None:
    """A file whose age cannot be read is an error: nothing is planned past it."""
    aged(directory)
    path = archived(directory)[1]
    path.write_bytes(path.read_bytes()[:-1])

    with pytest.raises(JournalError, match="cut short"):
        plan_pruning(FS, directory, SCHEMA, Policy(keep_age=DAY), 100 * DAY)


def test_a_segment_that_was_cut_is_not_compacted(through: int, directory: Path) -> None:
    """Damage is found before anything is published."""
    path = segments(directory)[0]
    path.write_bytes(path.read_bytes()[:-1])

    with pytest.raises(JournalCorruptError):
        prepared(directory, through)
    assert [] == snapshots(directory)
    assert [] == archived(directory)
