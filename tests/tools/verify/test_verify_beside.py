"""`coild-verify` beside whoever moves files away: nothing is wrong that was not wrong before."""

from __future__ import annotations

import shutil
import threading
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from coild.rules.events import SCHEMA, DaemonStarted, HistoryPruned, SnapshotTaken
from coild.rules.projection import Projection
from coild.vocabulary import VOCABULARY
from journal import prepare, prune, retire
from journal.fs import FileSystem
from tests.kits.daemon.process import TIMEOUT_SECONDS, Daemon
from tests.kits.journal.building import Opened, segments
from tests.kits.journal.disks import FS, Call, HookedFileSystem
from tests.kits.journal.verify import NOW, Made, facts, opened_plain
from tests.tools.test_compact import SMALL, churn, compact, load
from tools.verify.check import check
from tools.verify.cli import main

#: How many changes others make at a time, and at how many calls of the file system from the next.
PACES = ((1, 1), (1, 2), (1, 5), (1, 11), (4, 1), (7, 2), (15, 3), (40, 9), (1000, 1))
#: No look at so small a journal makes more calls.
CALLS_MAX = 2000


class Worker(HookedFileSystem):
    """Does work in a thread of its own, one change of the disk at each `step`."""

    def __init__(self, work: Callable[[FileSystem], None]) -> None:
        super().__init__()
        self.before({"rename", "remove"}, self._take_turn)
        self._may = threading.Semaphore(0)
        self._stands = threading.Semaphore(0)
        self.done = False
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(work,))
        self._thread.start()
        self._wait()

    def step(self, changes: int) -> None:
        """Make the next changes, and go on up to the one after them."""
        for _ in range(changes):
            if self.done:
                return
            self._may.release()
            self._wait()

    def finish(self) -> None:
        """Do the rest. Raises what the work raised."""
        self.step(CALLS_MAX)
        self._thread.join()
        if self._failed:
            raise self._failed

    def _take_turn(self) -> None:
        self._stands.release()
        assert self._may.acquire(timeout=TIMEOUT_SECONDS)

    def _wait(self) -> None:
        assert self._stands.acquire(timeout=TIMEOUT_SECONDS)

    def _run(self, work: Callable[[FileSystem], None]) -> None:
        try:
            work(self)
        except BaseException as error:  # noqa: BLE001 - raised again by `finish`
            self._failed = error
        finally:
            self.done = True
            self._stands.release()


class BusyFileSystem(HookedFileSystem):
    """A disk on which a worker makes changes at the call `first` and at every `stride` after."""

    def __init__(self, worker: Worker, first: int, changes: int, stride: int) -> None:
        super().__init__()
        #: How many calls looked for a file or read it.
        self.looks = 0
        self._worker = worker
        self._first = first
        self._changes = changes
        self._stride = stride
        self.around(self._list)
        self.before({"list_directory", "open", "read"}, self._enter)

    def _list(self, call: Call, go_on: Callable[[], Any]) -> Any:
        """What changes while a directory is read may be seen or not."""
        if call.method != "list_directory":
            return go_on()
        before = FS.list_directory(*call.arguments)
        after = go_on()
        seen = self.looks % 2
        return [
            name
            for name in sorted({*before, *after})
            if name in (before if zlib.crc32(name.encode()) % 2 == seen else after)
        ]

    def _enter(self) -> None:
        self.looks += 1
        behind = self.looks - self._first
        if behind >= 0 and behind % self._stride == 0:
            self._worker.step(self._changes)


def work(directory: Path, journal: Opened, fs: FileSystem) -> None:
    """What a daemon and a compaction do to a journal: roll over, archive, remove, prune; twice."""
    for _ in range(2):
        for _ in range(3):
            through = journal.log.seal()
            journal.append([DaemonStarted(NOW + 100, "0", "node", "boot")])
        state = Projection()
        prepare(fs, directory, through, VOCABULARY, state, now=NOW)
        digest = bytes.fromhex(state.digest())
        journal.append([SnapshotTaken(NOW + 100, through, digest, 1)])
        retire(fs, directory, SCHEMA)
        journal.append([HistoryPruned(NOW + 100, through, 1, 1, "delete")])
        prune(fs, directory, through)


@pytest.mark.parametrize(("changes", "stride"), PACES)
def test_whatever_call_others_come_between_nothing_is_wrong(
    directory: Path, changes: int, stride: int
) -> None:
    """Roll-over, archiving, removal and pruning, file by file, begun at each call in turn."""
    for first in range(1, CALLS_MAX):
        with opened_plain(directory) as journal:
            made = Made(directory, journal)
            worker = Worker(partial(work, directory, journal))
            fs = BusyFileSystem(worker, first, changes, stride)
            try:
                checked = check(fs, directory, deep=True)
            finally:
                worker.finish()

            verified = checked.verified
            assert ([], []) == (checked.faults, verified.bad_indexes), f"at call {first}"
            assert verified.head.sequence >= int(made.heads[-1].partition(":")[0])
            assert verified.head.sequence - verified.beginning.sequence == verified.count
        shutil.rmtree(directory)
        if fs.looks < first:
            break
    else:
        pytest.fail("a look never ends")


def overlooking(name: str) -> HookedFileSystem:
    """A disk that misses a name the second time a directory is read, as one that is new may be.

    The first time is for the snapshots.
    """
    fs = HookedFileSystem()

    def overlook(call: Call, go_on: Callable[[], Any]) -> Any:
        found = go_on()
        if call.method == "list_directory" and fs.count("list_directory", call.name) == 2:
            found.remove(name)
        return found

    fs.around(overlook)
    return fs


def test_a_segment_that_was_overlooked_is_not_missing(directory: Path) -> None:
    """A gap counts when it is found twice: its segments came while the names were read."""
    with opened_plain(directory) as journal:
        for fact in facts(3):
            journal.append([fact])
            journal.log.seal()
        for path in segments(directory)[1:-1]:
            fs = overlooking(path.name)
            checked = check(fs, directory)

            assert ([], 5) == (checked.faults, checked.verified.count)


def test_beside_a_busy_daemon_and_its_compactions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Good all the while, but for a write that is just being made."""
    statuses: list[int] = []
    done = threading.Event()
    with Daemon(tmp_path / "data", *SMALL) as daemon:
        churn(daemon, 100)

        def watch() -> None:
            journal = str(daemon.data_dir / "journal")
            turn = 0
            while not done.is_set():
                turn += 1
                statuses.append(main(["--journal", journal, *["--deep"] * (turn % 2)]))

        watcher = threading.Thread(target=watch)
        with load(daemon):
            watcher.start()
            try:
                for _ in range(3):
                    # As a process: this one's stderr is the watcher's, too.
                    assert 0 == compact("--data-dir", str(daemon.data_dir)).returncode
                pruned = compact("--data-dir", str(daemon.data_dir), "--delete")
            finally:
                done.set()
                watcher.join()

    assert 0 == pruned.returncode, pruned.stderr
    assert statuses
    assert {0, 1} >= set(statuses), capsys.readouterr().err
