"""The writer: what it confirms is durable, what it cannot keep it does not confirm.

Real threads and a real loop; where the order of things matters, a call of the disk is blocked.
"""

# expected == actual

from __future__ import annotations

import asyncio
import errno
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import journal.write.group_commit
import journal.write.spare
from journal import (
    EventTooLargeError,
    Journal,
    JournalBusyError,
    JournalClockError,
    JournalFailedError,
    JournalFullError,
    JournalLockedError,
)
from journal.format.chain import walk
from journal.format.codec import (
    EVENTS,
    FRAME_HEADER_BYTES,
    MARK,
    SEGMENT_BYTES_MAX,
    SEGMENT_BYTES_MIN,
    SegmentHeader,
    frame_bytes_max,
)
from journal.format.scan import End
from journal.format.segments import SPARE_NAME, list_segments
from journal.write.segment_writer import FRAME_OVERHEAD_BYTES
from journal.write.spare import Spare
from tests.kits.journal.building import (
    SCHEMA,
    SEGMENT_BYTES,
    Cut,
    Event,
    Put,
    build,
    encode,
    frames_of,
    opened,
    puts,
    read_back,
    running,
    segments,
    take,
)
from tests.kits.journal.disks import FS, TIMEOUT_SECONDS, HookedFileSystem
from tests.kits.loop import in_loop

#: How long a thread is given to do what it must not do. A test that passes does not lean on it.
GRACE_SECONDS = 0.2
EVENT_BYTES_MAX = frame_bytes_max(SEGMENT_BYTES) - FRAME_OVERHEAD_BYTES


@pytest.fixture(autouse=True)
def _no_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow machine must not fall idle in the middle of a test."""
    monkeypatch.setattr(journal.write.group_commit, "IDLE_SECONDS", 3600.0)


@pytest.fixture(autouse=True)
def _no_threads_left() -> Iterator[None]:
    """A journal that was closed has no threads."""
    yield
    names = [thread.name for thread in threading.enumerate()]
    assert [] == [name for name in names if name.startswith("journal-")]


@pytest.fixture
def fs() -> HookedFileSystem:
    """A disk that fails when it is told to."""
    return HookedFileSystem()


def kinds(directory: Path) -> list[tuple[int, int]]:
    """Kind and event count of every frame of `directory`."""
    return [
        (frame.kind, frame.count)
        for path in segments(directory)
        for frame in frames_of(path.read_bytes())[1]
    ]


def waiter(journal_: Journal, sequence: int) -> asyncio.Task[None]:
    """A task that waits until `sequence` is durable."""
    return asyncio.create_task(journal_.durable(sequence))


def fill(journal_: Journal) -> int:
    """Append until no more is taken for now; how many events were taken."""
    taken = 0
    try:
        while True:
            journal_.append(Put("k", b"v" * 500))
            taken += 1
    except JournalBusyError:
        return taken


def names(directory: Path) -> set[str]:
    """The names in `directory`."""
    return {path.name for path in directory.iterdir()}


def modes(directory: Path) -> dict[str, int]:
    """The permissions of `directory` and of everything in it, by name."""
    return {
        path.name: stat.S_IMODE(path.stat().st_mode) for path in (directory, *directory.iterdir())
    }


async def let_run() -> None:
    """Let every task that can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


def watch_space(journal_: Journal) -> asyncio.Event:
    """An event that is set whenever the spare segment became ready or could not."""
    loop, keeper, seen = asyncio.get_running_loop(), journal_._keeper, asyncio.Event()
    changed = keeper._changed

    def tell() -> None:
        changed()
        loop.call_soon_threadsafe(seen.set)

    keeper._changed = tell
    return seen


async def healed(journal_: Journal, changed: asyncio.Event) -> None:
    """Wait until the journal takes every event again."""
    while journal_.full_reason is not None:
        await changed.wait()
        changed.clear()


@in_loop
async def test_events_are_kept_in_order(directory: Path) -> None:
    """Events come back in the order of their sequences, which are gapless from 1."""
    events = [*puts(50), Cut("key-1", 7), *puts(49, start=51)]
    async with running(directory) as journal_:
        sequences = [await take(journal_, event) for event in events]
        await journal_.durable(sequences[-1])

        assert list(range(1, 101)) == sequences
        assert (100, 100) == (journal_.last_sequence, journal_.durable_sequence)
        assert events == read_back(directory)


@in_loop
async def test_durable_waits_for_the_flush(directory: Path, fs: HookedFileSystem) -> None:
    """As long as the flush of its frame has not returned, an event is not confirmed."""
    async with running(directory, fs=fs) as journal_:
        gate = fs.block("sync_data")
        task = waiter(journal_, journal_.append(Put("a")))
        await gate.wait_entered()
        await let_run()

        assert not task.done()
        assert 0 == journal_.durable_sequence

        gate.release.set()
        await task
        assert 1 == journal_.durable_sequence


@in_loop
async def test_every_frame_is_flushed_once(directory: Path, fs: HookedFileSystem) -> None:
    """One frame costs one write and one flush, whatever it holds."""
    async with running(directory, fs=fs) as journal_:
        for event in puts(5):
            await journal_.durable(journal_.append(event))

        counts = [fs.count(call, "*.seg") for call in ("write", "sync_data", "sync")]
        assert [5, 5, 0] == counts


@in_loop
async def test_a_batch_forms_while_a_flush_runs(directory: Path, fs: HookedFileSystem) -> None:
    """All that is appended during a flush becomes one frame."""
    async with running(directory, fs=fs) as journal_:
        gate = fs.block("sync_data")
        first = waiter(journal_, journal_.append(Put("first")))
        await gate.wait_entered()
        others = [waiter(journal_, journal_.append(event)) for event in puts(50)]
        gate.release.set()
        await asyncio.gather(first, *others)

    assert [(EVENTS, 1), (EVENTS, 50), (MARK, 0)] == kinds(directory)


@in_loop
async def test_a_large_batch_is_cut_into_frames(directory: Path, fs: HookedFileSystem) -> None:
    """What does not fit into one frame goes into the next, in order."""
    events = puts(10, value_bytes=1500)
    async with running(directory, fs=fs) as journal_:
        await journal_.room()
        gate = fs.block("sync_data")
        journal_.append(events[0])
        await gate.wait_entered()
        for event in events[1:]:
            journal_.append(event)
        gate.release.set()
        await journal_.durable(10)

    assert [1, 4, 4, 1] == [count for kind, count in kinds(directory) if kind == EVENTS]
    assert events == read_back(directory)


@in_loop
async def test_cancelling_one_waiter_leaves_the_others(
    directory: Path, fs: HookedFileSystem
) -> None:
    """Who stops waiting disturbs nobody, and their event is kept all the same."""
    async with running(directory, fs=fs) as journal_:
        gate = fs.block("sync_data")
        sequences = [journal_.append(event) for event in puts(3)]
        tasks = [waiter(journal_, sequence) for sequence in (*sequences, 2, 1)]
        await gate.wait_entered()
        tasks[1].cancel()
        await let_run()

        assert [False, True, False, False, False] == [task.done() for task in tasks]

        gate.release.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(None), asyncio.CancelledError, *[type(None)] * 3] == [
            type(result) for result in results
        ]
    assert puts(3) == read_back(directory)


@in_loop
async def test_waiting_for_what_is_durable_already(directory: Path) -> None:
    """What was recovered, or confirmed before, is confirmed at once."""
    build(directory, [puts(3)])
    async with running(directory) as journal_:
        await journal_.durable(3)
        await journal_.durable(0)

        assert (3, 3) == (journal_.last_sequence, journal_.durable_sequence)
        assert 4 == journal_.append(Put("next"))


@in_loop
async def test_segments_roll_over_under_load(directory: Path) -> None:
    """Many writers at once, over many segments: all confirmed, in order, with an unbroken chain."""
    written: dict[int, Any] = {}

    async def work(journal_: Journal, worker: int) -> None:
        for number in range(40):
            event = Put(f"{worker}-{number}", b"v" * (worker * 9 + number))
            sequence = await take(journal_, event)
            written[sequence] = event
            await journal_.durable(sequence)
            assert journal_.durable_sequence >= sequence

    async with running(directory) as journal_:
        await asyncio.gather(*(work(journal_, worker) for worker in range(48)))
        head = journal_.head

    walked = walk(FS, list_segments(FS, directory), SCHEMA, verify_chain=True)
    assert len(walked) > 20
    assert [written[sequence] for sequence in range(1, 48 * 40 + 1)] == read_back(directory)
    assert "1920" == head.split(":")[0]
    assert all(found.end is End.CLEAN for _, _, found in walked)


@in_loop
async def test_a_full_segment_waits_for_the_next(directory: Path, fs: HookedFileSystem) -> None:
    """While the next segment is being made there is an end to what is taken, and room is told."""
    build(directory, [[]])
    blocked = fs.block("write", name=SPARE_NAME)
    async with running(directory, fs=fs) as journal_:
        await blocked.wait_entered()
        taken = fill(journal_)
        with pytest.raises(JournalBusyError, match="the next segment is being prepared"):
            journal_.append(Put("k", b"v" * 500))
        room = asyncio.create_task(journal_.room())
        await journal_.durable(taken)
        await let_run()

        assert 15 < taken < 24
        assert not room.done()

        blocked.release.set()
        await room
        await journal_.durable(journal_.append(Put("k", b"v" * 500)))
    assert taken + 1 == len(read_back(directory))


@in_loop
async def test_a_queue_that_fills_all_space_waits_for_the_flush(
    directory: Path, fs: HookedFileSystem
) -> None:
    """While a flush takes long, no more is taken than the segment and its spare can hold."""
    async with running(directory, fs=fs) as journal_:
        await journal_.room()
        gate = fs.block("sync_data")
        taken = fill(journal_)
        room = asyncio.create_task(journal_.room())
        await gate.wait_entered()
        await let_run()

        assert not room.done()

        gate.release.set()
        await room
        await journal_.durable(await take(journal_, Put("k", b"v" * 500)))
    assert taken + 1 == len(read_back(directory))
    assert taken * 500 < 2 * SEGMENT_BYTES


def test_the_next_spare_waits_until_this_one_has_its_name(
    directory: Path, fs: HookedFileSystem
) -> None:
    """Preparing the next segment never touches the one that is just coming into use."""
    with opened(directory, fs=fs) as log:
        header: SegmentHeader = log.recovered.header
    spare = Spare(fs, directory, SEGMENT_BYTES)
    spare.prepare()
    gate = fs.block("rename", name=SPARE_NAME)
    published: list[tuple[int, Path]] = []
    publisher = threading.Thread(target=lambda: published.append(spare.publish(header)))
    preparer = threading.Thread(target=spare.prepare)
    publisher.start()
    assert gate.entered.wait(TIMEOUT_SECONDS)
    preparer.start()
    preparer.join(GRACE_SECONDS)
    gate.release.set()
    publisher.join()
    preparer.join()
    fd, path = published[0]
    fs.close(fd)

    assert header == frames_of(path.read_bytes())[0]
    assert spare.ready
    assert bytes(SEGMENT_BYTES) == spare.path.read_bytes()
    spare.close()


@pytest.mark.parametrize("call", ["write", "sync_data"])
@in_loop
async def test_a_failed_disk_poisons_the_journal(
    directory: Path, fs: HookedFileSystem, call: str
) -> None:
    """After a failed write or flush everyone is told, and nothing is ever written again."""
    failures: list[JournalFailedError] = []
    async with running(directory, fs=fs, on_failure=failures.append) as journal_:
        await journal_.durable(journal_.append(Put("good")))
        gate = fs.block("sync_data")
        in_flight = waiter(journal_, journal_.append(Put("in flight")))
        await gate.wait_entered()
        fs.fail(call, errno.EIO, name="*.seg")
        queued = [waiter(journal_, journal_.append(event)) for event in puts(3)]
        await let_run()
        gate.release.set()
        await in_flight
        results = await asyncio.gather(*queued, return_exceptions=True)

        assert [JournalFailedError] * 3 == [type(result) for result in results]
        assert all(str(journal_.path) in str(result) for result in results)
        assert all("Input/output error" in str(result) for result in results)
        assert [failures[0]] == failures
        writes = fs.count("write", "*.seg"), fs.count("sync_data")
        for essential in (True, False):
            with pytest.raises(JournalFailedError, match="Input/output error"):
                journal_.append(Put("late"), essential=essential)
        with pytest.raises(JournalFailedError):
            await journal_.durable(journal_.last_sequence)
        await journal_.room()
        await journal_.durable(2)

    assert writes == (fs.count("write", "*.seg"), fs.count("sync_data"))
    assert 1 == len(failures)
    with opened(directory) as again:
        # A failed flush leaves open whether the frame got to the disk: here it did.
        expected = [Put("good"), Put("in flight"), *(puts(3) if call == "sync_data" else [])]
        assert expected == again.events
        assert not again.recovered.set_aside


@pytest.mark.parametrize(("call", "nth"), [("sync", 1), ("rename", 1), ("sync_directory", 1)])
@in_loop
async def test_a_failed_roll_over_poisons_the_journal(
    directory: Path, fs: HookedFileSystem, call: str, nth: int
) -> None:
    """A segment that cannot be published fails the events that need it, and no others."""
    failures: list[JournalFailedError] = []
    confirmed: list[Any] = []
    async with running(directory, fs=fs, on_failure=failures.append) as journal_:
        await journal_.room()
        fs.fail(call, errno.EIO, nth=nth)

        async def confirm_all() -> None:
            for event in puts(100, value_bytes=500):
                await journal_.durable(journal_.append(event))
                confirmed.append(event)

        with pytest.raises(JournalFailedError, match="Input/output error"):
            await confirm_all()

    assert 1 == len(failures)
    assert confirmed == read_back(directory)
    with opened(directory) as again:
        assert confirmed == again.events


@in_loop
async def test_a_failure_wakes_those_who_wait_for_room(
    directory: Path, fs: HookedFileSystem
) -> None:
    """Who waits for room in a journal that fails is woken, and told so by `append`."""
    async with running(directory, fs=fs) as journal_:
        await journal_.room()
        blocked = fs.block("open", name=SPARE_NAME)
        stalled = fs.block("rename", name=SPARE_NAME)
        fs.fail("rename", errno.EIO, name=SPARE_NAME)
        fill(journal_)
        await stalled.wait_entered()
        room = asyncio.create_task(journal_.room())
        await let_run()

        assert not room.done()

        stalled.release.set()
        await room
        with pytest.raises(JournalFailedError):
            journal_.append(Put("k"))
        blocked.release.set()


@in_loop
async def test_a_full_disk_takes_essential_events_only(
    directory: Path, fs: HookedFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without room for the next segment only essential events are taken, until there is room."""
    monkeypatch.setattr(journal.write.spare, "RETRY_SECONDS", 0.005)
    failures: list[JournalFailedError] = []
    build(directory, [puts(1)])
    fs.fail("write", errno.ENOSPC, name=SPARE_NAME, forever=True)
    async with running(directory, fs=fs, on_failure=failures.append) as journal_:
        changed = watch_space(journal_)
        await journal_.room()

        assert "No space left on device" == journal_.full_reason
        assert SPARE_NAME not in names(directory)
        with pytest.raises(JournalFullError, match="No space left on device"):
            journal_.append(Put("ordinary"))

        await journal_.durable(journal_.append(Cut("essential"), essential=True))
        with pytest.raises(JournalFullError, match="No space left on device"):
            journal_.append(Put("ordinary"))
        assert 2 == journal_.last_sequence

        fs.heal()
        await healed(journal_, changed)
        await journal_.durable(await take(journal_, Put("ordinary again")))
    assert [*puts(1), Cut("essential"), Put("ordinary again")] == read_back(directory)
    assert [] == failures


@pytest.mark.parametrize("segment_bytes", [SEGMENT_BYTES, SEGMENT_BYTES + 5])
@pytest.mark.parametrize("one_by_one", [True, False])
@in_loop
async def test_essential_events_stop_at_the_end_of_their_space(
    directory: Path,
    fs: HookedFileSystem,
    monkeypatch: pytest.MonkeyPatch,
    *,
    one_by_one: bool,
    segment_bytes: int,
) -> None:
    """On a full disk essential events use up the segment, marks included, and never fail it."""
    if one_by_one:
        # Idle at once: a mark behind every event, the most that its space can be used up.
        monkeypatch.setattr(journal.write.group_commit, "IDLE_SECONDS", 0.0)
    failures: list[JournalFailedError] = []
    events: list[Any] = []
    build(directory, [[]], segment_bytes=segment_bytes)
    fs.fail("write", errno.ENOSPC, name=SPARE_NAME, forever=True)
    async with running(
        directory, fs=fs, on_failure=failures.append, segment_bytes=segment_bytes
    ) as journal_:
        await journal_.room()

        async def use_up() -> None:
            for number in range(10_000):
                event = Cut(f"key-{number}")
                mark = fs.block("sync_data", nth=2) if one_by_one else None
                sequence = journal_.append(event, essential=True)
                events.append(event)
                if mark is not None:
                    await journal_.durable(sequence)
                    await mark.wait_entered()
                    mark.release.set()

        with pytest.raises(JournalFullError, match="No space left on device"):
            await use_up()
        fs.heal()
        await journal_.durable(len(events))

    assert [] == failures
    assert 1 == len(segments(directory))
    assert events == read_back(directory)
    _, frames = frames_of(segments(directory)[0].read_bytes())
    if one_by_one:
        assert segment_bytes - frames[-1].end < 4 * FRAME_OVERHEAD_BYTES
        assert [EVENTS, MARK] * len(events) == [frame.kind for frame in frames[1:]]


@in_loop
async def test_a_disk_that_fills_up_under_load(
    directory: Path, fs: HookedFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills up and empties again costs refusals, no event that was taken."""
    monkeypatch.setattr(journal.write.spare, "RETRY_SECONDS", 0.005)
    failures: list[JournalFailedError] = []
    confirmed: list[Any] = []
    refused = 0
    async with running(directory, fs=fs, on_failure=failures.append) as journal_:
        changed = watch_space(journal_)
        for number in range(200):
            if number == 60:
                fs.fail("open", errno.ENOSPC, name=SPARE_NAME, forever=True)
            event = Put(f"key-{number}", b"v" * 400)
            try:
                sequence = await take(journal_, event)
            except JournalFullError:
                refused += 1
                fs.heal()
                await healed(journal_, changed)
                continue
            await journal_.durable(sequence)
            confirmed.append(event)

    assert [] == failures
    assert 1 == refused
    assert 199 == len(confirmed)
    assert confirmed == read_back(directory)


@in_loop
async def test_an_idle_journal_is_marked_once(
    directory: Path, fs: HookedFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A journal that fell idle writes one mark, and waking up for nothing adds none."""
    monkeypatch.setattr(journal.write.group_commit, "IDLE_SECONDS", 0.0)
    async with running(directory, fs=fs) as journal_:
        mark = fs.block("sync_data", nth=2)
        await journal_.durable(journal_.append(Put("a")))
        await mark.wait_entered()
        mark.release.set()
        journal_._commit._wakeups.put(True)

    assert [(EVENTS, 1), (MARK, 0)] == kinds(directory)


@pytest.mark.parametrize(("free", "marked"), [(61, False), (69, True)])
def test_a_mark_is_not_worth_a_segment(directory: Path, *, free: int, marked: bool) -> None:
    """Where a mark would need a segment that is not ready, there is none."""
    with opened(directory, segment_bytes=SEGMENT_BYTES + 5) as journal_:
        log = journal_.log
        while log.free_bytes > 2000 + free:
            log.append([encode(b"v" * 1000)])
        # The list's header and that of the binary take four bytes.
        log.append([encode(b"v" * (log.free_bytes - free - FRAME_HEADER_BYTES - 4))])

        assert free == log.free_bytes

        log.mark()
        assert marked == log.marked
        assert 1 == len(segments(directory))


@in_loop
async def test_closing_writes_what_is_queued_and_a_mark(
    directory: Path, fs: HookedFileSystem
) -> None:
    """Closing writes what was appended before it and vouches for it; nothing is taken after."""
    async with running(directory, fs=fs) as journal_:
        gate = fs.block("sync_data")
        journal_.append(Put("first"))
        await gate.wait_entered()
        tasks = [waiter(journal_, journal_.append(event)) for event in puts(3)]
        closing = asyncio.create_task(journal_.close())
        await let_run()

        assert not closing.done()

        gate.release.set()
        await asyncio.gather(closing, *tasks)
        await journal_.close()
        with pytest.raises(JournalFailedError, match="closed"):
            journal_.append(Put("late"))
        with pytest.raises(JournalFailedError, match="closed"):
            await journal_.durable(5)
    assert [(EVENTS, 1), (EVENTS, 3), (MARK, 0)] == kinds(directory)


@in_loop
async def test_the_space_of_the_next_segment_is_handed_on(
    directory: Path, fs: HookedFileSystem
) -> None:
    """A spare stays when its writer ends, and is the next one's, whatever is in it by then."""
    async with running(directory, fs=fs) as journal_:
        await journal_.durable(await take(journal_, puts(1)[0]))
        await journal_.room()
    assert bytes(SEGMENT_BYTES) == (directory / SPARE_NAME).read_bytes()

    before = (directory / SPARE_NAME).stat()
    (directory / SPARE_NAME).write_bytes(os.urandom(SEGMENT_BYTES))
    fs.fail("create", errno.ENOSPC, name=SPARE_NAME, forever=True)
    async with running(directory, fs=fs) as journal_:
        await journal_.room()
        taken = [await take(journal_, event) for event in puts(60, start=2, value_bytes=400)]
        await journal_.durable(taken[-1])
        assert journal_.full_reason is None
    # It became the second segment.
    assert before.st_ino == segments(directory)[1].stat().st_ino
    assert [*puts(1), *puts(60, start=2, value_bytes=400)] == read_back(directory)


@in_loop
async def test_closing_an_empty_journal_writes_nothing(directory: Path) -> None:
    """A journal without events needs no mark, and one that was marked needs no second."""
    async with running(directory):
        pass
    assert [] == kinds(directory)

    build(directory, [puts(1), []])
    async with running(directory):
        pass
    assert [(EVENTS, 1), (MARK, 0)] == kinds(directory)


@in_loop
async def test_closing_a_journal_that_never_started(directory: Path) -> None:
    """A journal that was opened and not started gives its lock back."""
    journal_ = open_only(directory)
    await journal_.close()

    async with running(directory) as again:
        assert 0 == again.last_sequence


@in_loop
async def test_closing_goes_on_when_the_spare_is_gone(directory: Path) -> None:
    """Closing gives the lock back even if someone removed the spare's file."""
    async with running(directory) as journal_:
        await journal_.room()
        (directory / SPARE_NAME).unlink()

    async with running(directory) as again:
        assert 0 == again.last_sequence


@in_loop
async def test_failing_while_closed_is_told(directory: Path, fs: HookedFileSystem) -> None:
    """Who still waits when the last flush fails during closing is told so."""
    failures: list[JournalFailedError] = []
    async with running(directory, fs=fs, on_failure=failures.append) as journal_:
        fs.fail("sync_data", errno.EIO)
        task = waiter(journal_, journal_.append(Put("a")))
        await journal_.close()
        with pytest.raises(JournalFailedError, match="Input/output error"):
            await task

    assert 1 == len(failures)


def open_only(directory: Path, **options: Any) -> Journal:
    """Open a journal without starting it."""
    defaults: dict[str, Any] = {"segment_bytes": SEGMENT_BYTES, "fs": FS}
    return Journal.open(
        directory, Event, schema=SCHEMA, replay=lambda _events: None, **(defaults | options)
    )


@in_loop
async def test_one_writer(directory: Path) -> None:
    """A second writer is refused, told who the first is, and disturbs nothing."""
    async with running(directory) as journal_:
        with pytest.raises(JournalLockedError, match=f"in use by process {os.getpid()}$") as raised:
            open_only(directory)
        await journal_.durable(journal_.append(Put("a")))

        assert directory == raised.value.directory
    assert [Put("a")] == read_back(directory)


@in_loop
async def test_everything_is_the_owners_alone(directory: Path) -> None:
    """Nobody but the owner reads the journal, its spare and its lock, whatever the umask."""
    before = os.umask(0)
    try:
        async with running(directory) as journal_:
            await journal_.room()
            found = modes(directory)
    finally:
        os.umask(before)

    files = ("LOCK", SPARE_NAME, f"{1:020d}.seg")
    assert {directory.name: 0o700} | dict.fromkeys(files, 0o600) == found


@pytest.mark.parametrize("before", [0, 1])
@in_loop
async def test_an_event_that_is_too_large(directory: Path, before: int) -> None:
    """An event that fits into no frame is refused at once, and the journal goes on."""
    largest = Put("k", b"x" * (EVENT_BYTES_MAX - len(encode(Put("k", bytes(300)))) + 300))
    larger = Put("kk", largest.value)
    async with running(directory) as journal_:
        for event in puts(before):
            journal_.append(event)
        with pytest.raises(EventTooLargeError, match=f"{EVENT_BYTES_MAX + 1} bytes does not fit"):
            journal_.append(larger, essential=True)
        await journal_.durable(await take(journal_, largest))

    assert EVENT_BYTES_MAX == len(encode(largest))
    assert [*puts(before), largest] == read_back(directory)


@in_loop
async def test_time_never_runs_backwards(directory: Path) -> None:
    """When the clock is set back, frames keep the latest time there was, after a restart too."""
    ticks = iter([100, 200, 50, 60, 300])
    now = 0

    def clock() -> int:
        return now

    for reopened in range(5):
        now = next(ticks)
        async with running(directory, clock=clock) as journal_:
            await journal_.durable(journal_.append(Put(f"{reopened}")))
            if reopened == 1:
                now = 20
                await journal_.durable(journal_.append(Put("same run")))

    _, frames = frames_of(segments(directory)[0].read_bytes())
    times = [frame.time for frame in frames if frame.kind == EVENTS]
    assert [100, 200, 200, 200, 200, 300] == times
    assert sorted(frame.time for frame in frames) == [frame.time for frame in frames]


@in_loop
async def test_the_head_names_the_content(directory: Path) -> None:
    """The head is the last sequence and the last frame's digest, before and after a restart."""
    async with running(directory) as journal_:
        genesis = journal_.head
        await journal_.durable(journal_.append(Put("a")))
        head = journal_.head
    _, frames = frames_of(segments(directory)[0].read_bytes())
    async with running(directory) as journal_:
        reopened = journal_.head

    assert f"0:{'0' * 32}" == genesis
    assert f"1:{frames[0].digest.hex()}" == head
    # The mark that closing wrote is a frame, too.
    assert f"1:{frames[1].digest.hex()}" == reopened


@pytest.mark.parametrize("segment_bytes", [0, SEGMENT_BYTES_MIN - 1, SEGMENT_BYTES_MAX + 1])
def test_segment_sizes_have_bounds(directory: Path, segment_bytes: int) -> None:
    """A segment size out of bounds is refused before anything is made."""
    with pytest.raises(ValueError, match="a segment has 16384 to 1073741824 bytes"):
        open_only(directory, segment_bytes=segment_bytes)

    assert not directory.exists()


@in_loop
async def test_any_segment_size_rolls_over(directory: Path) -> None:
    """A segment size that is no multiple of the alignment works like any other."""
    events = puts(120, value_bytes=300)
    async with running(directory, segment_bytes=SEGMENT_BYTES + 5) as journal_:
        for event in events:
            await journal_.durable(await take(journal_, event))

    assert len(segments(directory)) > 2
    assert events == read_back(directory)


@pytest.mark.parametrize("now", [-(10**9), -1, 1 << 64])
def test_a_clock_that_no_journal_can_hold_begins_none(directory: Path, now: int) -> None:
    """Times are ns since the epoch in 64 bits: any other is refused before anything is made."""
    with pytest.raises(JournalClockError, match="from 1970 to 2554: set the clock"):
        Journal.open(directory, Event, schema=SCHEMA, replay=print, clock=lambda: now)

    assert not directory.exists()


@pytest.mark.parametrize("now", [0, (1 << 64) - 1])
@in_loop
async def test_the_first_and_the_last_time_there_is(directory: Path, now: int) -> None:
    """A journal can be begun, written and read at both."""
    async with running(directory, clock=lambda: now) as journal_:
        await journal_.durable(await take(journal_, puts(1)[0]))

    assert puts(1) == read_back(directory)
