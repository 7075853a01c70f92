"""Sealing a live journal: a boundary that never changes again, and no event is put at risk."""

# expected == actual

from __future__ import annotations

import asyncio
import errno
from pathlib import Path

import pytest

import journal.write.group_commit
import journal.write.spare
from journal import Journal, JournalBusyError, JournalFailedError, JournalFullError
from tests.kits.journal.building import Put, puts, read_back, running, segments, take
from tests.kits.journal.compaction import compact, reopen, state_of
from tests.kits.journal.disks import HookedFileSystem
from tests.kits.loop import in_loop


@pytest.fixture(autouse=True)
def _no_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow machine must not fall idle in the middle of a test."""
    monkeypatch.setattr(journal.write.group_commit, "IDLE_SECONDS", 3600.0)


@pytest.fixture
def fs() -> HookedFileSystem:
    """A disk that fails when it is told to."""
    return HookedFileSystem()


def fill(journal_: Journal, count: int) -> int:
    """Append up to `count` essential events, until no more is taken; how many were."""
    for taken in range(count):
        try:
            journal_.append(Put("k", b"v" * 500), essential=True)
        except (JournalFullError, JournalBusyError):
            return taken
    return count


@in_loop
async def test_what_was_queued_is_before_the_boundary(directory: Path) -> None:
    """All events that were appended before are durable and sealed when `seal` returns."""
    async with running(directory) as journal_:
        for event in puts(20):
            journal_.append(event)
        assert 20 == await journal_.seal()
        assert 20 == journal_.durable_sequence
        assert 1 == journal_.sealed
        assert [1, 21] == [int(path.stem) for path in segments(directory)]
        sealed = segments(directory)[0].read_bytes()
        await journal_.durable(await take(journal_, puts(1, start=21)[0]))
        assert sealed == segments(directory)[0].read_bytes()
    assert puts(21) == read_back(directory)


@in_loop
async def test_an_empty_segment_is_not_sealed(directory: Path) -> None:
    """Where nothing came since the last seal, there is nothing to do, however often."""
    async with running(directory) as journal_:
        assert [0, 0] == [await journal_.seal(), await journal_.seal()]
        await take(journal_, puts(1)[0])
        assert [1, 1, 1] == [await journal_.seal() for _ in range(3)]
        assert 2 == len(segments(directory))
        await take(journal_, puts(1, start=2)[0])
    assert puts(2) == read_back(directory)


@in_loop
async def test_appends_and_seals_at_once(directory: Path) -> None:
    """Under load every seal is a boundary between two segments, and no event is lost."""
    boundaries: list[int] = []
    written: dict[int, Put] = {}

    async with running(directory) as journal_:

        async def work(worker: int) -> None:
            for number in range(60):
                event = Put(f"{worker}-{number}", b"v" * 50)
                sequence = await take(journal_, event)
                written[sequence] = event
                await journal_.durable(sequence)

        async def seal() -> None:
            for _ in range(10):
                before = journal_.last_sequence
                boundaries.append(await journal_.seal())
                assert before <= boundaries[-1] <= journal_.durable_sequence
                await asyncio.sleep(0.002)

        await asyncio.gather(*(work(worker) for worker in range(8)), seal(), seal())

    firsts = {int(path.stem) for path in segments(directory)}
    assert {boundary + 1 for boundary in boundaries} <= firsts
    assert [written[sequence] for sequence in sorted(written)] == read_back(directory)


@in_loop
async def test_a_full_disk_refuses_to_seal(
    directory: Path, fs: HookedFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without room for another segment, the rest of this one stays for essential events."""
    monkeypatch.setattr(journal.write.spare, "RETRY_SECONDS", 0.01)
    fs.fail("open", errno.ENOSPC, name="spare.tmp", forever=True)
    async with running(directory, fs=fs) as journal_:
        while journal_.full_reason is None:
            await asyncio.sleep(0.001)
        with pytest.raises(JournalFullError, match="No space"):
            await journal_.seal()
        taken = fill(journal_, 1000)
        await journal_.durable(taken)
        assert taken > 10
        assert 1 == len(segments(directory))
        # It heals by itself.
        fs.heal()
        while not journal_._log.spare.ready:
            await asyncio.sleep(0.001)
        assert taken == await journal_.seal()
    assert [Put("k", b"v" * 500)] * taken == read_back(directory)


@in_loop
async def test_a_disk_that_fills_up_after_a_seal(
    directory: Path, fs: HookedFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every event that was taken before, while and after a seal took the spare has its room."""
    monkeypatch.setattr(journal.write.spare, "RETRY_SECONDS", 0.01)
    # Large enough that a segment's rest is more than what a roll-over may waste.
    async with running(directory, fs=fs, segment_bytes=1 << 18) as journal_:
        await take(journal_, puts(1)[0])
        while not journal_._log.spare.ready:
            await asyncio.sleep(0.001)
        # From here on there is the open segment and the spare, and nothing else.
        fs.fail("open", errno.ENOSPC, name="spare.tmp", forever=True)
        sealing = asyncio.create_task(journal_.seal())
        await asyncio.sleep(0)
        taken = 1 + fill(journal_, 10)
        assert 1 <= await sealing <= taken
        taken += fill(journal_, 10_000)
        await journal_.durable(journal_.last_sequence)
        assert taken == journal_.last_sequence
        assert taken > 15
        assert 2 == len(segments(directory))
        with pytest.raises(JournalFullError):
            await journal_.seal()
    assert taken == len(read_back(directory))


@in_loop
async def test_seal_waits_for_the_spare(directory: Path, fs: HookedFileSystem) -> None:
    """While the next segment is being filled, `seal` waits and appends go on."""
    gate = fs.block("open", name="spare.tmp")
    async with running(directory, fs=fs) as journal_:
        await take(journal_, puts(1)[0])
        await gate.wait_entered()
        sealing = asyncio.create_task(journal_.seal())
        await journal_.durable(journal_.append(puts(1, start=2)[0]))
        assert not sealing.done()
        gate.release.set()
        assert 2 == await sealing
    assert puts(2) == read_back(directory)


@in_loop
async def test_a_seal_that_fails(directory: Path, fs: HookedFileSystem) -> None:
    """A write error while sealing ends the journal for all who wait, and nothing is lost."""
    failures: list[JournalFailedError] = []
    async with running(directory, fs=fs, on_failure=failures.append) as journal_:
        await journal_.durable(await take(journal_, puts(1)[0]))
        while not journal_._log.spare.ready:
            await asyncio.sleep(0.001)
        fs.fail("rename", errno.EIO, name="spare.tmp")
        with pytest.raises(JournalFailedError, match="Input/output"):
            await journal_.seal()
        with pytest.raises(JournalFailedError):
            await journal_.seal()
        await asyncio.sleep(0)
    assert 1 == len(failures)
    assert puts(1) == read_back(directory)


@in_loop
async def test_seal_after_close(directory: Path) -> None:
    """A closed journal seals nothing."""
    async with running(directory) as journal_:
        pass

    with pytest.raises(JournalFailedError, match="closed"):
        await journal_.seal()


@in_loop
async def test_the_tail_is_what_no_snapshot_covers(directory: Path) -> None:
    """`tail_bytes` grows with the frames, across segments, and shrinks by what is covered."""
    async with running(directory) as journal_:
        assert 0 == journal_.tail_bytes
        for event in puts(500):
            await take(journal_, event)
        await journal_.seal()
        sealed = journal_.tail_bytes
        assert sealed > 500 * 20
        await journal_.durable(await take(journal_, puts(1, start=501)[0]))
        assert journal_.tail_bytes > sealed
        journal_.covered(sealed)
        assert 0 < journal_.tail_bytes < 200


def test_a_compaction_beside_the_writer(directory: Path) -> None:
    """What is compacted while the writer goes on is the same journal after a restart."""

    async def main() -> None:
        async with running(directory) as journal_:
            for number in range(1, 6):
                for event in puts(100, start=100 * number - 99):
                    await take(journal_, event)
                through = await journal_.seal()
                compacting = asyncio.create_task(asyncio.to_thread(compact, directory, through))
                await asyncio.sleep(0)
                await take(journal_, Put(f"beside-{number}"))
                assert through == (await compacting)[0].sequence

    asyncio.run(main())
    events = read_back(directory)

    assert 505 == len(events)
    assert state_of(events).digest == reopen(directory).state.digest
