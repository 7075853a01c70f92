"""Checking all of a journal: what is wrong, where, and which head the rest has.

Lock-free and read-only, beside a writer and a compaction. Damage stays where it is, so what was
found to be wrong is looked at again before it is told; files that moved are listed anew.
"""

from __future__ import annotations

from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from journal.check.copies import Copy, choose
from journal.check.files import check_index, check_snapshots, missing, read_snapshots, unreadable
from journal.check.findings import Anchor, Fault, Gap, Kind, Verified
from journal.errors import JournalCorruptError
from journal.format.archive import read_segment
from journal.format.chain import Position, Progress, check_end, check_succession, claimed_position
from journal.format.codec import (
    GENESIS_DIGEST,
    SEGMENT_HEADER_BYTES,
    MalformedError,
    SegmentHeader,
    UnsupportedError,
    decode_frame,
    decode_header,
)
from journal.format.copies import beginnings
from journal.format.index import Keys, build_index
from journal.format.scan import End, list_decoder, scan
from journal.format.segments import SegmentFile, list_archive, list_segments
from journal.fs import FileSystem
from journal.read.indexed import Found

#: Whoever finds files moved away again and again looks at no journal.
_LOOKS = 20


class _MovedError(Exception):
    """The files are not those that were listed."""


def verify(
    fs: FileSystem,
    directory: Path,
    *,
    schema: int,
    event_type: Any,
    keys: Keys,
    wanted: tuple[type, ...] = (),
    anchor: Anchor | None = None,
    progress: Progress | None = None,
) -> Verified:
    """Check every segment, archived copy, link, snapshot and index of `directory`.

    Events of the types `wanted` are kept. Raises JournalCorruptError for a file that claims to be
    a segment and is none, OSError.
    """
    for _ in range(_LOOKS):
        pass_ = _Pass(fs, directory, schema, event_type, keys, wanted, anchor)
        try:
            return pass_.run(progress)
        except _MovedError:
            continue
    raise FileNotFoundError(2, "its files are moved away all the time", str(directory))


class _Pass:
    """One look at everything."""

    def __init__(
        self,
        fs: FileSystem,
        directory: Path,
        schema: int,
        event_type: Any,
        keys: Keys,
        wanted: tuple[type, ...],
        anchor: Anchor | None,
    ) -> None:
        self._fs = fs
        self._directory = directory
        self._schema = schema
        self._decoder = list_decoder(event_type)
        self._keys = keys
        self._wanted = wanted
        self._anchor = anchor
        self._result = Verified()
        #: Where the snapshots say that a segment ends.
        self._ends: set[Position] = set()
        #: How many events could be read of each segment, by its first sequence.
        self._counts: dict[int, int] = {}

    def run(self, progress: Progress | None) -> Verified:
        """Look. Raises as `verify`, and _MovedError."""
        # Before the segments are listed: those that a snapshot covers are there by then.
        candidates = read_snapshots(self._fs, self._directory, self._schema)
        self._ends = {Position.behind(at) for at in candidates if not isinstance(at, Fault)}
        files = self._list()
        order = sorted(files)
        if order:
            self._result.beginning = Position(max(0, order[0] - 1), GENESIS_DIGEST, None)
        position: Position | None = None
        for done, first in enumerate(order, start=1):
            if position is not None and first > position.sequence + 1:
                self._miss(position.sequence, order[done - 2], first)
                position = None
            behind = files[order[done]] if done < len(order) else []
            position = self._check(files[first], position, behind)
            if progress is not None:
                progress(done, len(files))
        self._result.count = sum(self._counts.values())
        if position is not None and (
            all(file.archived for file in files[order[-1]])
            or order[-1] <= position.sequence in {end.sequence for end in self._ends}
        ):
            # The segment that is being written is never archived, nor is a snapshot of its events.
            last = position.sequence
            fault = missing(self._fs, self._directory, Gap(last + 1, None), last)
            self._result.faults.append(fault)
        check_snapshots(self._fs, self._directory, candidates, self._result)
        return self._result

    def _miss(self, last: int, before: int, behind: int) -> None:
        """Tell of a gap between two segments. Raises _MovedError if they are not neighbours now."""
        now = sorted(self._list())
        if (before, behind) not in pairwise(now):
            raise _MovedError
        gap = Gap(last + 1, behind - 1)
        self._result.faults.append(missing(self._fs, self._directory, gap, last))

    def _list(self) -> dict[int, list[SegmentFile]]:
        """The copies of each segment by its first sequence, the live one first."""
        files: dict[int, list[SegmentFile]] = {}
        for file in list_segments(self._fs, self._directory):
            files.setdefault(file.first_sequence, []).append(file)
        for file in list_archive(self._fs, self._directory):
            files.setdefault(file.first_sequence, []).append(file)
        return files

    def _check(
        self, copies: list[SegmentFile], before: Position | None, behind: list[SegmentFile]
    ) -> Position | None:
        """Check all copies of a segment; where its successor, the copies `behind`, begins.

        None is unknown: then the successor is taken at its word.
        """
        sealed = bool(behind)
        good: list[Copy] = []
        bad: list[Fault] = []
        for file in copies:
            outcome: Copy | Fault | None
            try:
                outcome = self._check_copy(file, before, sealed=sealed)
            except FileNotFoundError:
                outcome = self._moved(file, before, sealed=sealed)
            if isinstance(outcome, Fault):
                bad.append(outcome)
            elif outcome is not None:
                good.append(outcome)
        if not good:
            self._result.faults += bad
            return None
        copy, faults = choose(good, bad, self._ends_of(copies, behind))
        self._result.faults += faults
        return self._accept(copy, sealed=sealed)

    def _ends_of(self, copies: list[SegmentFile], behind: list[SegmentFile]) -> set[Position]:
        """What the segment behind it and the snapshots say of the end of one with two copies."""
        if len(copies) == 1 or not behind:
            return set()
        between = range(copies[0].first_sequence, behind[0].first_sequence)
        ends = beginnings(self._fs, behind, self._schema) | self._ends
        return {end for end in ends if end.sequence in between}

    def _moved(
        self, file: SegmentFile, before: Position | None, *, sealed: bool
    ) -> Copy | Fault | None:
        """The segment at its new place, or None if it is checked there anyway."""
        now = self._list().get(file.first_sequence)
        if not now:
            # Pruned: then nothing that was listed is to be relied on.
            raise _MovedError
        try:
            return self._check_copy(file if file in now else now[0], before, sealed=sealed)
        except FileNotFoundError as error:
            if file not in now:
                raise _MovedError from None
            # Who moves a segment takes its name away for good.
            return unreadable(Kind.SEGMENT, file.path, _last_before(file, before), error)

    def _check_copy(
        self, file: SegmentFile, before: Position | None, *, sealed: bool
    ) -> Copy | Fault:
        """Read one file until what is found twice at the same place must be so."""
        seen: Fault | None = None
        while True:
            outcome = self._read(file, before, sealed=sealed)
            if isinstance(outcome, Fault):
                fault = outcome
            elif outcome.found.end is End.TORN:
                found = outcome.found
                fault = Fault(
                    Kind.TORN, file.path, found.offset, found.next_sequence - 1, found.reason
                )
            else:
                return outcome
            if file.archived or sealed or (seen and seen[:3] == fault[:3]):
                if fault.kind is Kind.TORN:
                    self._result.faults.append(fault)
                return outcome
            seen = fault

    def _read(self, file: SegmentFile, before: Position | None, *, sealed: bool) -> Copy | Fault:
        last = _last_before(file, before)
        events: list[Found] = []
        sequence = file.first_sequence

        def keep(batch: list[Any]) -> None:
            nonlocal sequence
            for number, event in enumerate(batch, start=sequence):
                if isinstance(event, self._wanted):
                    events.append(Found(number, event))
            sequence += len(batch)

        try:
            data = read_segment(self._fs, file)
            header = decode_header(data, self._schema)
            check_succession(file, header, before or claimed_position(header))
            found = scan(data, header, self._decoder, keep, verify_chain=True)
            check_end(file, found, sealed=sealed)
        except MalformedError as error:
            return Fault(Kind.SEGMENT, file.path, 0, last, str(error))
        except UnsupportedError as error:
            return Fault(Kind.UNSUPPORTED, file.path, 0, last, str(error))
        except FileNotFoundError:
            raise
        except OSError as error:
            return unreadable(Kind.SEGMENT, file.path, last, error)
        except JournalCorruptError as error:
            if error.offset:
                # What is good before the damage counts as far as it goes.
                end = Position(found.next_sequence - 1, found.digest, header.journal_id)
                self._find_anchor(data, header, end)
                self._result.head = self._result.vouched = end
                self._count(header, end)
            return Fault(Kind.SEGMENT, file.path, error.offset, error.last_sequence, error.reason)
        return Copy(file, header, found, data, events)

    def _accept(self, copy: Copy, *, sealed: bool) -> Position:
        """Take note of a good segment; where its successor begins."""
        result, header, found, end = self._result, copy.header, copy.found, copy.end
        if not result.segments and not result.faults:
            result.beginning = claimed_position(header)
        result.segments += 1
        self._count(header, end)
        result.events += copy.events
        result.head = result.vouched = end
        if not sealed and not copy.file.archived:
            result.vouched = Position(*found.vouched, header.journal_id)
        result.boundaries[header.previous_sequence] = header.previous_digest
        if end.sequence > header.previous_sequence:
            # Marks alone end nothing: the segment before them does.
            result.boundaries[end.sequence] = end.digest
        self._find_anchor(copy.data, header, end)
        if sealed:
            expected = cache(partial(build_index, copy.data, header, self._decoder, self._keys))
            for file in {copy.file, *self._list().get(copy.file.first_sequence, [])}:
                bad = check_index(self._fs, file, header, found, self._keys, expected)
                if isinstance(bad, Fault):
                    result.altered_indexes.append(bad)
                elif bad:
                    result.bad_indexes.append(bad)
        return end

    def _count(self, header: SegmentHeader, end: Position) -> None:
        """Note how many events a segment gave, of whichever copy gave more."""
        first = header.first_sequence
        self._counts[first] = max(self._counts.get(first, 0), end.sequence - first + 1)

    def _find_anchor(self, data: bytes, header: SegmentHeader, end: Position) -> None:
        """Look for the anchor's digest at the header and behind each frame."""
        anchor = self._anchor
        if anchor is None or not header.previous_sequence <= anchor.sequence <= end.sequence:
            return
        if (header.previous_sequence, header.previous_digest) == anchor:
            self._result.anchored = True
        offset, sequence, digest = SEGMENT_HEADER_BYTES, header.previous_sequence, b""
        view = memoryview(data)
        while digest != end.digest and sequence <= anchor.sequence:
            try:
                frame = decode_frame(view, offset, header)
            except MalformedError:
                return
            offset, digest = frame.end, frame.digest
            sequence = frame.first_sequence + frame.count - 1
            if (sequence, digest) == anchor:
                self._result.anchored = True


def _last_before(file: SegmentFile, before: Position | None) -> int:
    """The last sequence that is known to come before a segment."""
    return before.sequence if before else max(0, file.first_sequence - 1)
