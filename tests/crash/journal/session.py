"""A journal's program without its threads: it does what the writer does, call by call.

Beside it stands what the outside world knows: which events were handed over, and how many of them
it was told are durable. A crash may come before every call that changes the disk.
"""

from __future__ import annotations

import contextlib
import random
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import msgspec

from journal import Policy, Vocabulary, prepare, retire
from journal.compact.prune import plan_pruning, prune
from journal.format.codec import FRAME_MAGIC
from journal.fs import FileSystem
from journal.read.vouching import RecordOf
from journal.write.custody import Custody, acquire_lock
from journal.write.recovery import Recovered, recover
from journal.write.segment_writer import FRAME_OVERHEAD_BYTES, Log
from journal.write.spare import Spare
from tests.crash.simulated.disk import SimulatedDisk
from tests.kits.journal.building import DECODER, SCHEMA, Cut, Event, Put, encode
from tests.kits.journal.compaction import VOUCHED_KEYS, State, index_record

DIRECTORY = Path("/journal")
SEGMENT_BYTES = 16 * 1024
_TICK = 1_000_000
_BEGINNING = 10**18


class Known(NamedTuple):
    """The events that callers of the journal know at a moment."""

    #: All events that were handed to the journal, in order.
    submitted: tuple[Any, ...]
    #: How many of them were confirmed.
    acknowledged: int
    #: Up to which sequence history was ordered to be pruned.
    pruned: int
    schema: int
    #: Whether the journal was damaged on purpose: until it is repaired it may be refused.
    damaged: bool = False
    #: The last event of the journal as a repair left it, which has to be told of; -1 if none was.
    repaired: int = -1


class CrashPoint(NamedTuple):
    """The disk before a call, and what is known then."""

    number: int
    call: str
    disk: SimulatedDisk
    known: Known


class Opened(NamedTuple):
    """A journal that was opened."""

    fs: FileSystem
    custody: Custody
    recovered: Recovered
    log: Log
    spare: Spare
    state: State

    @property
    def head(self) -> int:
        """The sequence of the last event."""
        return self.log.next_sequence - 1

    @property
    def unrecorded(self) -> int:
        """How many repairs the journal has yet to tell of."""
        return len(getattr(self.recovered, "set_aside", ()))

    def close(self) -> None:
        """Write a mark and let go."""
        self.log.mark()
        self.spare.close()
        self.log.close()
        self.custody.close()


class Clock:
    """Time that goes on by itself."""

    def __init__(self, start: int = _BEGINNING) -> None:
        self._now = start

    def __call__(self) -> int:
        """The time, in ns since the epoch."""
        self._now += _TICK
        return self._now


def open_journal(
    fs: FileSystem,
    schema: int,
    clock: Callable[[], int],
    *,
    state: Any = None,
    decoder: msgspec.msgpack.Decoder[list[Any]] = DECODER,
    record_of: RecordOf | None = None,
) -> Opened:
    """Do what `Journal.open` does, by default with the toy events. Raises as it does."""
    fs.make_directory(DIRECTORY)
    custody = acquire_lock(fs, DIRECTORY)
    state = state or State()
    try:
        recovered = recover(
            fs,
            DIRECTORY,
            schema=schema,
            segment_bytes=SEGMENT_BYTES,
            now=clock(),
            decoder=decoder,
            deliver=state.apply_all,
            restore=state.restore,
            record_of=record_of,
        )
    except BaseException:
        custody.close()
        raise
    spare = Spare(fs, DIRECTORY, SEGMENT_BYTES)
    log = Log(fs, recovered, spare, schema, clock, custody)
    return Opened(fs, custody, recovered, log, spare, state)


def vocabulary(schema: int) -> Vocabulary:
    """The vocabulary of the events."""
    return Vocabulary(schema=schema, event_type=Event, keys=VOUCHED_KEYS)


@contextlib.contextmanager
def seeded_ids(seed: str) -> Iterator[random.Random]:
    """Make what is random in a journal the same in every run; what it is made from."""
    ids = random.Random(seed)  # noqa: S311
    with mock.patch.object(secrets, "token_bytes", ids.randbytes):
        yield ids


class Session:
    """One life of a journal, with all moments at which it could have ended."""

    def __init__(self, seed: str) -> None:
        self.choice = random.Random(seed)  # noqa: S311
        self.moments: list[CrashPoint] = []
        self.schema = SCHEMA
        self.clock = Clock()
        self.submitted: list[Any] = []
        self.acknowledged = 0
        self.pruned = 0
        self.damaged = False
        self.repaired = -1
        self.disk = SimulatedDisk()
        self.disk.before = self._remember
        self.opened: Opened | None = None
        #: Called before calls to the disk: someone else who is at work meanwhile.
        self._meanwhile: Callable[[], None] | None = None

    @property
    def journal(self) -> Opened:
        """The journal, open."""
        assert self.opened is not None
        return self.opened

    def known(self) -> Known:
        """The events known now."""
        return Known(
            tuple(self.submitted),
            self.acknowledged,
            self.pruned,
            self.schema,
            self.damaged,
            self.repaired,
        )

    def open(self) -> None:
        """Recover the journal; what it holds is known from then on."""
        self.opened = open_journal(self.disk, self.schema, self.clock)
        del self.submitted[self.opened.head :]
        self.acknowledged = len(self.submitted)
        self.damaged = False
        if self.opened.unrecorded:
            for _ in range(self.opened.unrecorded):
                self.append(1)
            forget(self.disk)

    def append(self, count: int = 1, value_bytes_max: int = 200) -> None:
        """Append a group of events, as large as will fit into a frame."""
        room = self.journal.log.frame_bytes_max - FRAME_OVERHEAD_BYTES
        group: list[bytes] = []
        for _ in range(count):
            event = self._event(value_bytes_max)
            data = encode(event)
            if len(data) > room:
                break
            room -= len(data)
            group.append(data)
            self.submitted.append(event)
        assert group
        self.journal.log.append(group)
        self.acknowledged = len(self.submitted)

    def fill(self) -> None:
        """Append until the segment is all but full."""
        log = self.journal.log
        while log.free_bytes > log.frame_bytes_max:
            self.append(4, 1000)

    def compact(self, meanwhile: Callable[[], None] | None = None) -> None:
        """Seal, prepare, record, retire, record; `meanwhile` is called before the calls between."""
        through = self.journal.log.seal()
        self._meanwhile = meanwhile
        keys = vocabulary(self.schema)
        done = prepare(self.disk, DIRECTORY, through, keys, State(), now=self.clock())
        self._meanwhile = None
        self.vouch(done.indexes)
        self.append()
        self._meanwhile = meanwhile
        retire(self.disk, DIRECTORY, self.schema)
        self._meanwhile = None
        self.append()

    def vouch(self, indexes: Mapping[int, bytes]) -> None:
        """Record indexes."""
        event = index_record(indexes)
        self.submitted.append(event)
        self.journal.log.append([encode(event)])
        self.acknowledged = len(self.submitted)

    def prune(self) -> None:
        """Record, then remove all of the archive."""
        pruning = plan_pruning(self.disk, DIRECTORY, self.schema, Policy(delete=True), self.clock())
        assert pruning is not None
        self.append()
        self.pruned = pruning.through
        prune(self.disk, DIRECTORY, pruning.through)

    def close(self) -> None:
        """End cleanly."""
        self.journal.close()
        self.opened = None

    def kill(self) -> None:
        """End like a killed process: all writes are there, durable or not."""
        self._become(self.disk.clone())

    def become(self, disk: SimulatedDisk) -> None:
        """Go on with what a crash left of the disk."""
        self._become(disk.clone())

    def _become(self, disk: SimulatedDisk) -> None:
        self.disk.before = None
        self.disk = disk
        self.disk.before = self._remember
        self.opened = None

    def end(self) -> list[CrashPoint]:
        """All moments, the last one behind everything."""
        self._remember("the end")
        return self.moments

    def _remember(self, call: str) -> None:
        meanwhile, self._meanwhile = self._meanwhile, None
        if meanwhile is not None:
            # Its own calls are remembered too, but do not wait for others.
            meanwhile()
            self._meanwhile = meanwhile
        self.moments.append(CrashPoint(len(self.moments), call, self.disk.clone(), self.known()))

    def _event(self, value_bytes_max: int) -> Any:
        choice = self.choice
        key = f"key-{choice.randrange(8)}"
        if choice.random() < 0.1:
            return Cut(key, choice.randrange(100))
        size = choice.randrange(value_bytes_max)
        match choice.randrange(5):
            case 0:  # zeros look like what was never written
                return Put(key, bytes(size))
            case 1:  # and what was written before looks like a frame
                return Put(key, self._earlier(size))
            case _:
                return Put(key, choice.randbytes(size))

    def _earlier(self, size: int) -> bytes:
        """Bytes of the segment as it is, from where a frame may begin."""
        fd = self.disk.open(self.journal.log.path)
        data = self.disk.read(fd, SEGMENT_BYTES, 4096)
        self.disk.close(fd)
        start = data.find(FRAME_MAGIC, self.choice.randrange(len(data)))
        return data[start : start + size] if start >= 0 else FRAME_MAGIC[:size]


def forget(fs: FileSystem) -> None:
    """Take note that all repairs were recorded."""
    from journal.write import repair_note as set_aside  # noqa: PLC0415

    set_aside.forget(fs, DIRECTORY)
