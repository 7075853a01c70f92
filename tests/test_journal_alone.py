"""One caller alone: the loop flushes itself, and hands the work back when company comes."""

from __future__ import annotations

import asyncio
import errno
import threading
import time
from pathlib import Path

import pytest

import journal.commit
from journal import Journal, JournalFailedError
from journal.codec import EVENTS, MARK
from journal.commit import ALONE_BATCHES
from journal.fs import OsFileSystem
from tests.journal_kit import PATIENCE_SECONDS, Put, in_loop, running
from tests.test_journal_writer import kinds


class WatchedFileSystem(OsFileSystem):
    """Notes which thread flushes data, flushes nothing, and can be told to fail."""

    def __init__(self) -> None:
        self.flushed_by: list[int] = []
        self.error: OSError | None = None

    def sync(self, fd: int) -> None:
        """See FileSystem."""

    def sync_directory(self, path: Path) -> None:
        """See FileSystem."""

    def sync_data(self, fd: int) -> None:
        """See FileSystem."""
        self.flushed_by.append(threading.get_ident())
        if self.error is not None:
            raise self.error


@pytest.fixture(autouse=True)
def never_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow test machine must look neither idle nor slow."""
    monkeypatch.setattr(journal.commit, "IDLE_SECONDS", 3600.0)
    monkeypatch.setattr(journal.commit, "QUICK_SECONDS", 3600.0)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where the journal of a test is."""
    return tmp_path / "journal"


async def put(journal_: Journal, key: str = "k") -> None:
    """One request: an event, its flush, and the end of the turn of the loop."""
    await journal_.durable(journal_.append(Put(key)))
    await asyncio.sleep(0)


async def alone(journal_: Journal) -> None:
    """Put so many events one by one that the journal knows that the caller is alone."""
    for _ in range(ALONE_BATCHES):
        await put(journal_)


async def alone_on(fs: WatchedFileSystem, journal_: Journal) -> int:
    """Go on until the loop flushes; how many flushes there were.

    The thread may still be on its way out of its last batch when the next event comes.
    """
    await alone(journal_)
    for _ in range(1000):
        await put(journal_)
        if fs.flushed_by[-2:] == [threading.get_ident()] * 2:
            break
    return len(fs.flushed_by)


@in_loop
async def test_the_loop_flushes_for_one_caller(directory: Path) -> None:
    """The flushes of a lone caller move from the thread to the loop after ALONE_BATCHES."""
    fs = WatchedFileSystem()
    async with running(directory, fs=fs) as journal_:
        await alone_on(fs, journal_)
        flushed_by = list(fs.flushed_by)

    assert threading.get_ident() not in flushed_by[:ALONE_BATCHES]
    assert threading.get_ident() == flushed_by[-1]


@in_loop
async def test_company_is_for_the_thread(directory: Path) -> None:
    """A second event in one turn of the loop goes to the thread, and so do the next ones."""
    fs = WatchedFileSystem()
    async with running(directory, fs=fs) as journal_:
        before = await alone_on(fs, journal_)
        await asyncio.gather(*(put(journal_, str(number)) for number in range(8)))
        await put(journal_)
        flushed_by = fs.flushed_by[before:]

    assert [True] + [False] * (len(flushed_by) - 1) == [
        thread == threading.get_ident() for thread in flushed_by
    ]
    assert len(flushed_by) < 9


@in_loop
async def test_a_slow_disk_is_for_the_thread(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that takes longer than QUICK_SECONDS never holds up the loop."""
    monkeypatch.setattr(journal.commit, "QUICK_SECONDS", 0.0)
    fs = WatchedFileSystem()
    async with running(directory, fs=fs) as journal_:
        await alone(journal_)
        await put(journal_)

    assert threading.get_ident() not in fs.flushed_by


@in_loop
async def test_an_event_that_nobody_waits_for_is_flushed(directory: Path) -> None:
    """What a lone caller appends without waiting becomes durable all the same."""
    async with running(directory, fs=WatchedFileSystem()) as journal_:
        await alone(journal_)
        sequence = journal_.append(Put("k"))
        deadline = time.monotonic() + PATIENCE_SECONDS
        while journal_.durable_sequence < sequence and time.monotonic() < deadline:
            await asyncio.sleep(0.001)

    assert sequence == journal_.durable_sequence


@in_loop
async def test_the_loop_s_frames_get_their_mark(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle journal is marked also when the loop wrote its last frame."""
    async with running(directory, fs=WatchedFileSystem()) as journal_:
        monkeypatch.setattr(journal.commit, "IDLE_SECONDS", 0.01)
        await alone(journal_)
        await put(journal_)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while kinds(directory)[-1][0] != MARK and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        await put(journal_)
        while kinds(directory)[-1][0] != MARK and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        found = kinds(directory)

    assert (MARK, 0) == found[-1]
    assert ALONE_BATCHES + 2 == found.count((EVENTS, 1))


@in_loop
async def test_a_failure_on_the_loop_poisons(directory: Path) -> None:
    """A flush that fails on the loop ends the journal like one that fails in the thread."""
    fs, failures = WatchedFileSystem(), list[JournalFailedError]()
    async with running(directory, fs=fs, on_failure=failures.append) as journal_:
        await alone_on(fs, journal_)
        fs.error = OSError(errno.EIO, "Input/output error")
        with pytest.raises(JournalFailedError, match="Input/output error"):
            await put(journal_)
        flushes = len(fs.flushed_by)
        with pytest.raises(JournalFailedError):
            journal_.append(Put("k"))
        await asyncio.sleep(0)

    assert 1 == len(failures)
    assert flushes == len(fs.flushed_by)
