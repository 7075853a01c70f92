"""A disk whose calls fail, one after the other in turn, and what may follow from that.

Every workload is run once for each of its calls and each error, which comes once or from then on.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from journal import (
    Journal,
    JournalError,
    JournalFailedError,
    Reader,
    find,
    read_events,
    retire,
)
from journal.compact.prune import prune
from journal.fs import FileSystem
from journal.repair.plan import plan_truncation
from journal.repair.truncate import truncate
from tests.kits.journal.building import (
    SCHEMA,
    Event,
    Put,
    build,
    flipped,
    frames_of,
    opened,
    puts,
    running,
    segments,
)
from tests.kits.journal.compaction import (
    KEYS,
    NOW,
    VOCABULARY,
    State,
    prepared,
    state_of,
    write_sealed,
)
from tests.kits.journal.disks import CHANGES, FS, Call, HookedFileSystem

#: What a disk says, and the calls that say it again and again once it is so.
OPENS = frozenset({"create", "open", "list_directory", "sync_directory", "make_directory"})
EVERYTHING = CHANGES | OPENS | {"read", "size", "lock", "close"}
ERRORS = {
    errno.EIO: EVERYTHING,
    errno.ENOSPC: CHANGES - {"remove", "sync_directory"},
    errno.EDQUOT: CHANGES - {"remove", "sync_directory"},
    errno.EROFS: CHANGES,
    errno.EMFILE: OPENS,
}
#: Stands for a write of which only a half is done before the disk is full.
SHORT_WRITE = -1

EVENTS = puts(60, value_bytes=400)


class Fault(NamedTuple):
    """The call of this number fails with this error, or SHORT_WRITE; and then all that may."""

    number: int
    error: int
    forever: bool

    def __str__(self) -> str:
        name = "short write" if self.error == SHORT_WRITE else errno.errorcode[self.error]
        return f"{name} {'from' if self.forever else 'at'} call {self.number}"


class ErrorDisk(HookedFileSystem):
    """The real calls until the fault comes; without one, for ever.

    What a failed flush was to save is gone, as a kernel may drop what it could not write.
    """

    def __init__(self, fault: Fault | None = None) -> None:
        super().__init__()
        self.fault = fault
        #: How many calls there had been when the first failed.
        self.failed_at: int | None = None
        #: What was overwritten since the last flush: offset and bytes.
        self._before: dict[int, list[tuple[int, bytes]]] = {}
        self._numbers = itertools.count(1)
        self.around(self._carry_out)

    def _carry_out(self, call: Call, go_on: Callable[[], Any]) -> Any:
        error = self._error_of(call.method)
        fd, *rest = call.arguments
        if error is not None:
            self._fail(call.method, fd, *rest, error=error)
            number = errno.ENOSPC if error == SHORT_WRITE else error
            raise OSError(number, os.strerror(number), call.name)
        if call.method == "write":
            data, offset = rest
            lost = FS.read(fd, len(data), offset).ljust(len(data), b"\0")
            self._before.setdefault(fd, []).append((offset, lost))
        result = go_on()
        if call.method in {"sync", "sync_data", "close"}:
            self._before.pop(fd, None)
        return result

    def _fail(self, method: str, fd: Any, *rest: Any, error: int) -> None:
        """Do what a call does that fails."""
        if method in {"sync", "sync_data"}:
            for offset, data in reversed(self._before.pop(fd, [])):
                FS.write(fd, data, offset)
        elif method == "close":
            # The descriptor is gone all the same: close(2).
            FS.close(fd)
        elif method == "write" and error == SHORT_WRITE:
            data, offset = rest
            FS.write(fd, data[: len(data) // 2], offset)

    def _error_of(self, method: str) -> int | None:
        number = next(self._numbers)
        if self.fault is None:
            return None
        again = self.fault.forever and method in ERRORS.get(self.fault.error, {"write"})
        if number == self.fault.number or (number > self.fault.number and again):
            self.failed_at = self.failed_at or number
            return self.fault.error
        return None


class Outcome(NamedTuple):
    """The results of a workload: the confirmed events, and the errors."""

    confirmed: list[Any]
    errors: list[BaseException]


class Workload(NamedTuple):
    """`prepare` makes a directory; `run` is what the disk may fail under; `check` what holds."""

    name: str
    prepare: Callable[[Path], None]
    run: Callable[[Path, FileSystem], Outcome]
    check: Callable[[Path, Outcome], None]


def _nothing(_directory: Path) -> None:
    """A new journal."""


def _write(directory: Path, fs: FileSystem) -> Outcome:
    """Four clients of a journal that rolls over, seals, and is closed."""
    return _write_by(4, directory, fs)


def _write_alone(directory: Path, fs: FileSystem) -> Outcome:
    """One client: a frame and a flush for each event."""
    return _write_by(1, directory, fs)


def _write_by(clients: int, directory: Path, fs: FileSystem) -> Outcome:
    outcome = Outcome([], [])
    confirmed: dict[int, Any] = {}
    started = False

    async def main() -> None:
        nonlocal started
        failures: list[JournalFailedError] = []
        async with running(directory, fs=fs, on_failure=failures.append) as journal:
            started = True
            await asyncio.gather(
                *(
                    _append_all(journal, EVENTS[number::clients], confirmed, outcome.errors)
                    for number in range(clients)
                )
            )
            try:
                await journal.seal()
            except JournalError as error:
                outcome.errors.append(error)
        assert len(failures) <= 1

    try:
        asyncio.run(main())
    except (OSError, JournalError) as error:
        if started:
            raise AssertionError(f"to close it raises {error!r}") from error
        outcome.errors.append(error)
    outcome.confirmed.extend(confirmed[sequence] for sequence in sorted(confirmed))
    return outcome


async def _append_all(
    journal: Journal,
    events: list[Any],
    confirmed: dict[int, Any],
    errors: list[BaseException],
) -> None:
    """One client: each event is confirmed before the next, until the journal takes no more."""
    for event in events:
        while event not in confirmed.values():
            try:
                sequence = journal.append(event)
                await journal.durable(sequence)
            except JournalError as error:
                errors.append(error)
                if journal._commit.failure is not None or "no space" in str(error):
                    return
                await journal.room()
            else:
                confirmed[sequence] = event


def _check_written(directory: Path, outcome: Outcome) -> None:
    """Confirmed events are there, once, and a healthy disk takes more."""
    with opened(directory) as journal:
        found = list(journal.events)
        journal.append([Put("after")])
    assert set(outcome.confirmed) <= set(found) <= set(EVENTS)
    assert len(found) == len(set(found))
    assert [*found, Put("after")] == _all_events(directory)


def _all_events(directory: Path) -> list[Any]:
    return [event for _, event in read_events(directory, Event, schema=SCHEMA)]


def _torn(directory: Path) -> None:
    build(directory, [EVENTS[:5], EVENTS[5:9]])
    (path,) = segments(directory)
    data = path.read_bytes()
    _, frames = frames_of(data)
    path.write_bytes(flipped(data, frames[-1].offset + 50))


def _recover(directory: Path, fs: FileSystem) -> Outcome:
    """A start that has a torn tail to set aside, one append and a stop."""
    try:
        with opened(directory, fs=fs) as journal:
            journal.append([EVENTS[5]])
    except (OSError, JournalError) as error:
        return Outcome(EVENTS[:5], [error])
    return Outcome(EVENTS[:6], [])


def _check_recovered(directory: Path, outcome: Outcome) -> None:
    """The good part is there, and the append if it was confirmed."""
    with opened(directory) as journal:
        assert journal.events in (EVENTS[:5], EVENTS[:6])
        assert len(outcome.confirmed) <= len(journal.events)
        journal.append([Put("after")])


def _sealed(directory: Path) -> None:
    write_sealed(directory, EVENTS[:30])
    write_sealed(directory, EVENTS[30:])


def _compact(directory: Path, fs: FileSystem) -> Outcome:
    """A whole compaction."""
    try:
        prepared(directory, len(EVENTS), fs)
        retire(fs, directory, SCHEMA)
    except (OSError, JournalError) as error:
        return Outcome([], [error])
    return Outcome([], [])


def _check_compacted(directory: Path, outcome: Outcome) -> None:
    """All history is there, the state is the same, and the next run finishes."""
    del outcome
    assert _all_events(directory) == EVENTS
    prepared(directory, len(EVENTS))
    assert retire(FS, directory, SCHEMA).segments in range(len(EVENTS))
    assert _all_events(directory) == EVENTS
    state = State()
    Reader(directory, Event, schema=SCHEMA).restore(state.restore)
    assert not segments(directory)[:-1]
    assert state.digest == state_of(EVENTS).digest


def _compacted(directory: Path) -> None:
    _sealed(directory)
    _compact(directory, FS)


def _prune(directory: Path, fs: FileSystem) -> Outcome:
    """All archived history goes."""
    try:
        prune(fs, directory, len(EVENTS))
    except (OSError, JournalError) as error:
        return Outcome([], [error])
    return Outcome([], [])


def _check_pruned(directory: Path, outcome: Outcome) -> None:
    """The rest is the newest history without a gap; without an error, all was removed."""
    left = [event for _, event in read_events(directory, Event, schema=SCHEMA, start=None)]
    assert left == (EVENTS[-len(left) :] if left else [])
    assert outcome.errors or not left


def _damaged(directory: Path) -> None:
    _sealed(directory)
    path = segments(directory)[1]
    data = path.read_bytes()
    _, frames = frames_of(data)
    path.write_bytes(flipped(data, frames[0].offset + 50))


def _repair(directory: Path, fs: FileSystem) -> Outcome:
    """Everything behind the first segment is cut off."""
    try:
        order = plan_truncation(fs, directory, VOCABULARY, State(), NOW)
        if order is not None:
            truncate(fs, directory, order, NOW)
    except (OSError, JournalError) as error:
        return Outcome([], [error])
    return Outcome([], [])


def _check_repaired(directory: Path, outcome: Outcome) -> None:
    """A second run finishes; what is good is there, and all that went is kept."""
    again = _repair(directory, FS)
    assert not again.errors
    del outcome
    with opened(directory) as journal:
        assert journal.events
        assert journal.events == EVENTS[: len(journal.events)]
    assert list(directory.glob("*.torn-*"))


def _ask(directory: Path, fs: FileSystem) -> Outcome:
    """Questions to a journal, which needs to write nothing for an answer."""
    reader = Reader(directory, Event, schema=SCHEMA, fs=fs)
    try:
        everything = [event for batch in reader.batches(1) for event in batch.events]
        found = [it.event for it in find(reader, KEYS, b"kkey-7")]
    except (OSError, JournalError) as error:
        return Outcome([], [error])
    assert everything == EVENTS
    assert found == [EVENTS[6]]
    return Outcome([], [])


def _check_asked(directory: Path, outcome: Outcome) -> None:
    """An answer is right or an error, and the journal is as it was."""
    del outcome
    assert _all_events(directory) == EVENTS


WORKLOADS = (
    Workload("write", _nothing, _write, _check_written),
    Workload("write alone", _nothing, _write_alone, _check_written),
    Workload("recover", _torn, _recover, _check_recovered),
    Workload("compact", _sealed, _compact, _check_compacted),
    Workload("prune", _compacted, _prune, _check_pruned),
    Workload("repair", _damaged, _repair, _check_repaired),
    Workload("ask", _compacted, _ask, _check_asked),
)


def calls_of(workload: Workload, directory: Path) -> int:
    """How many calls the workload makes on a healthy disk, with some to spare for threads."""
    workload.prepare(directory)
    disk = ErrorDisk()
    outcome = workload.run(directory, disk)
    assert not [error for error in outcome.errors if not isinstance(error, JournalError)]
    workload.check(directory, outcome)
    return len(disk.calls)


def try_fault(workload: Workload, directory: Path, fault: Fault) -> bool:
    """Run the workload under the fault and check what must hold; whether the fault came."""
    workload.prepare(directory)
    disk = ErrorDisk(fault)
    outcome = workload.run(directory, disk)
    _check_poisoned(disk)
    for error in outcome.errors:
        assert str(error), error
    workload.check(directory, outcome)
    return disk.failed_at is not None


def _check_poisoned(disk: ErrorDisk) -> None:
    """After a failed write or flush of a segment, that writer writes to none any more."""
    if disk.failed_at is None:
        return
    call, name = disk.calls[disk.failed_at - 1]
    if call in {"write", "sync_data"} and name.endswith(".seg"):
        later = [it for it in disk.calls[disk.failed_at :] if it[0] in {"write", "sync_data"}]
        assert not [it for it in later if it[1].endswith(".seg")], "it goes on to write"
