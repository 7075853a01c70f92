"""Bit rot: flips bits, zeroes sectors, cuts, swaps and drops files, and checks what detects it.

A small journal is damaged in one way after the other. The expected result is computed from the
damage alone, never from the journal's own report. Damage that no reader can tell from an undamaged
journal is an `Excuse`, counted by its name.
"""

from __future__ import annotations

import functools
import multiprocessing
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from enum import Enum
from typing import Any, NamedTuple

from journal import JournalError, Reader, Recovered, find, read_events
from journal.check.findings import Gap, Kind, Verified
from journal.check.verify import verify
from journal.format.codec import SEGMENT_HEADER_BYTES
from journal.format.segments import NOTE_NAME
from journal.read.indexed import Found
from journal.write.recovery import recover
from tests.crash.damage.rot_sample import (
    ROOT,
    SEGMENT_BYTES,
    Damage,
    Sample,
    Way,
    bits,
    build_sample,
    coarse,
    kind_of,
    nested,
)
from tests.crash.simulated.disk import SimulatedDisk
from tests.kits.journal.building import DECODER, SCHEMA, Event
from tests.kits.journal.compaction import KEYS, NOW, VOCABULARY, State, state_of

#: Found in every segment, in one of them, in none.
QUESTIONS = (b"kshared", b"klast-0", b"kabsent")
#: Amid zeros each bit is looked for by `verify` and a start, and every so many by questions too.
ZEROS_PER_QUESTION = 16
#: Of a file's bits, what one process does at a time.
BITS_AT_ONCE = 4000


class Excuse(Enum):
    """Why damage is not reported: the rest looks like an undamaged journal."""

    #: The newest segment is gone, or zeros begin where a frame did. A head kept elsewhere tells.
    UNWRITTEN = "as if never written"
    #: Nothing whole follows in the last segment. Told, and the bytes are kept.
    TORN = "as an unfinished write"
    #: The oldest segment is gone. Told by where the history begins.
    PRUNED = "as if pruned"
    #: An index is made again, a snapshot has one before it: nothing is lost.
    SPARE = "not needed"


class Rotted(NamedTuple):
    """The number of damages tried, by file, way and what detected them; and the failures."""

    told: Counter[tuple[str, str, str]]
    failures: list[str]

    @property
    def tried(self) -> int:
        """All of them."""
        return self.told.total() + len(self.failures)

    def plus(self, other: Rotted) -> Rotted:
        """Both."""
        return Rotted(self.told + other.told, self.failures + other.failures)

    def table(self) -> list[tuple[str, str, str, int]]:
        """Rows of file, way, what detected it, and how often."""
        return [(*key, count) for key, count in sorted(self.told.items())]


def run(sample: Sample, damages: Iterable[Damage]) -> Rotted:
    """Try each damage, and report what detected it."""
    rotted = Rotted(Counter(), [])
    for damage in damages:
        try:
            told = _Trial(sample, damage).check()
        except Exception as error:  # noqa: BLE001 - a bug, whatever it is, and the next damage
            (*_, place) = traceback.extract_tb(error.__traceback__)
            rotted.failures.append(f"{damage}: {error!r} at {place.name}: {place.line}")
        else:
            rotted.told[kind_of(damage.name), damage.way.value, told] += 1
    return rotted


def run_all(jobs: int | None = None) -> Rotted:
    """Every damage there is, in so many processes; None: one for each processor."""
    sample = build_sample()
    parts = [coarse(sample), *_parts(sample)]
    rotted = run(aligned := build_sample(aligned=True), coarse(aligned))
    # A fork would take threads of its caller along.
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        for part in pool.map(functools.partial(run, sample), parts):
            rotted = rotted.plus(part)
    return rotted


def _parts(sample: Sample) -> Iterator[list[Damage]]:
    for name, data in sample.files.items():
        for start in range(0, 8 * len(data), BITS_AT_ONCE):
            stop = min(start + BITS_AT_ONCE, 8 * len(data))
            yield list(bits(name, range(start, stop)))


class _Trial:
    """One damage, and all readers of the journal after it."""

    def __init__(self, sample: Sample, damage: Damage) -> None:
        self.sample = sample
        self.damage = damage
        self.files = damage.applied(sample.files)
        self.tree = nested(self.files)
        self.kind = kind_of(damage.name)
        #: How many of the events can still be told.
        self.until = len(sample.events)
        self.excuse = self._excuse()

    def check(self) -> str:
        """What detected the damage. Raises AssertionError if a wrong answer went unnoticed."""
        told = self._verify()
        opening = self._open()
        if self.damage.at % ZEROS_PER_QUESTION and self.damage.amid_zeros(self.sample.files):
            return f"{told}; start: {opening}"
        self._ask(self._read, list(enumerate(self.sample.events[: self.until], start=1)))
        for key in QUESTIONS:
            answers = self.sample.answers(key, self.until)
            self._ask(functools.partial(self._find, key), answers)
        return f"{told}; start: {opening}"

    def _disk(self) -> SimulatedDisk:
        return SimulatedDisk.holding(self.tree)

    def _excuse(self) -> Excuse | None:
        sample, damage = self.sample, self.damage
        if damage.way is Way.DROP:
            if "index" in self.kind or self.kind == "snapshot":
                return Excuse.SPARE
            if damage.name == sample.last:
                self.until = sample.segments[sample.last][0].previous_sequence
                return Excuse.UNWRITTEN
            # The archive is listed from the oldest on.
            if damage.name == min(name for name in sample.files if name.endswith(".zst")):
                return Excuse.PRUNED
            return None
        if damage.name != sample.last or damage.way not in {Way.BIT, Way.SECTOR}:
            return None
        return self._excuse_of_tail()

    def _excuse_of_tail(self) -> Excuse | None:
        """A bit or a sector of the last segment."""
        good, bad = self.sample.files[self.sample.last], self.files[self.sample.last]
        header, frames = self.sample.segments[self.sample.last]
        first = self.damage.first_changed(self.sample.files)
        if first < SEGMENT_HEADER_BYTES:
            return None
        whole = [frame for frame in frames if frame.end <= first]
        if any(good[it.offset : it.end] == bad[it.offset : it.end] for it in frames[len(whole) :]):
            return None
        end = whole[-1].end if whole else SEGMENT_HEADER_BYTES
        rest = len(bad[end:].rstrip(b"\0"))
        if rest > header.frame_bytes_max:
            return None
        self.until = header.previous_sequence + sum(frame.count for frame in whole)
        return Excuse.TORN if rest else Excuse.UNWRITTEN

    def _gap(self) -> Gap | None:
        """The missing events if a sector of a sealed segment took all of its last frames."""
        if self.damage.way is not Way.SECTOR or self.kind != "segment":
            return None
        header, frames = self.sample.segments[self.damage.name]
        whole = [frame for frame in frames if frame.end <= self.damage.at]
        until = header.previous_sequence + sum(frame.count for frame in whole)
        return Gap(until + 1, header.previous_sequence + sum(frame.count for frame in frames))

    def _verify(self) -> str:
        found = verify(self._disk(), ROOT, VOCABULARY, anchor=self.sample.anchor)
        damaged = {ROOT / self.damage.name, ROOT / self.damage.other}
        gap = self._gap()
        faults = [it for it in found.faults if it.file in damaged or (gap and it.gap == gap)]
        indexes = [bad for bad in found.bad_indexes if bad.path in damaged]
        if self.excuse is None:
            assert faults if "index" not in self.kind else indexes, "verify says nothing"
            return "verify"
        self._check_excuse(self.excuse, found)
        return self.excuse.value

    def _check_excuse(self, excuse: Excuse, found: Verified) -> None:
        kinds = [fault.kind for fault in found.faults]
        if excuse is Excuse.TORN:
            assert kinds == [Kind.TORN], kinds
        else:
            assert not kinds, kinds
        assert found.count == self.until - found.beginning.sequence
        assert (found.beginning.sequence > 0) is (excuse is Excuse.PRUNED)
        # The mark is behind the head's event too.
        rolled_back = excuse in {Excuse.UNWRITTEN, Excuse.TORN} and not self._keeps_all()
        assert found.anchored is not rolled_back

    def _keeps_all(self) -> bool:
        good, bad = self.sample.files[self.sample.last], self.files.get(self.sample.last, b"")
        end = self.sample.segments[self.sample.last][1][-1].end
        return good[:end] == bad[:end]

    def _open(self) -> str:
        state, disk = State(), self._disk()
        try:
            recovered = recover(
                disk,
                ROOT,
                schema=SCHEMA,
                segment_bytes=SEGMENT_BYTES,
                now=NOW,
                decoder=DECODER,
                deliver=state.apply_all,
                restore=state.restore,
            )
        except JournalError:
            assert self._may_be_refused(), "refused without need"
            return "refused"
        return self._check_opened(state, recovered, disk)

    def _may_be_refused(self) -> bool:
        """Whether a start may refuse it: a live segment, or the newest snapshot's version."""
        newest = max(name for name in self.sample.files if name.endswith(".snap"))
        versioned = self.damage.name == newest and self.damage.way is Way.BIT
        return self.excuse is None and (self.kind == "segment" or versioned)

    def _check_opened(self, state: State, recovered: Recovered, disk: SimulatedDisk) -> str:
        expected = self.sample.events[: self.until]
        assert state.count == self.until
        whole = self.until == len(self.sample.events)
        assert state.digest == (self.sample.digest if whole else state_of(expected).digest)
        assert recovered.tail.next_sequence == self.until + 1
        names = disk.list_directory(ROOT)
        kept = [name for name in names if ".torn-" in name]
        assert bool(kept) is (NOTE_NAME in names) is (self.excuse is Excuse.TORN)
        if self.excuse is Excuse.TORN:
            return "set aside"
        assert self.excuse is not None or self.kind != "segment", "a damaged segment is taken"
        if recovered.rejected:
            assert self.kind == "snapshot"
            return "the snapshot before, or all history"
        return "not read" if self.excuse is None else "same state"

    def _ask(self, question: Callable[[], Iterator[Any]], expected: list[Any]) -> None:
        """An answer is right, or right up to an error of the journal's own."""
        answer: list[Any] = []
        try:
            answer += question()
        except JournalError:
            assert self.excuse in {None, Excuse.PRUNED}, "a question is refused without need"
            assert "index" not in self.kind, "an index is believed over its segment"
            return
        assert answer == expected

    def _read(self) -> Iterator[tuple[int, Any]]:
        return read_events(ROOT, Event, schema=SCHEMA, fs=self._disk())

    def _find(self, key: bytes) -> Iterator[Found]:
        return find(Reader(ROOT, Event, schema=SCHEMA, fs=self._disk()), KEYS, key, start=1)
