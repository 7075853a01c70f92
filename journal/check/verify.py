"""Checks all of a journal: its faults, where they are, and its head.

Lock-free and read-only, beside a writer and a compaction. Real damage stays where it is, so a fault
in the last segment is reported only if a second read finds it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from journal.check.files import check_index, check_snapshots, missing, read_snapshots, unreadable
from journal.check.findings import Anchor, Fault, Gap, Kind, Verified
from journal.errors import JournalUnsupportedError
from journal.format.chain import (
    DamagedSegmentError,
    Position,
    Progress,
    Walked,
    claimed_position,
    read_one,
    read_stable,
)
from journal.format.codec import (
    GENESIS_DIGEST,
    SEGMENT_HEADER_BYTES,
    decode_frame,
)
from journal.format.copies import beginnings
from journal.format.index import build_index
from journal.format.scan import End, list_decoder
from journal.format.segments import SegmentFile, list_archive, list_segments
from journal.fs import FileSystem
from journal.read.indexed import Found
from journal.read.view import View
from journal.read.vocabulary import State, Vocabulary
from journal.write.recovery import replay


def verify(
    fs: FileSystem | View,
    directory: Path,
    vocabulary: Vocabulary,
    *,
    wanted: tuple[type, ...] = (),
    anchor: Anchor | None = None,
    progress: Progress | None = None,
) -> Verified:
    """Check every segment, archived copy, link, snapshot and index of `directory`.

    Events of the types `wanted` are kept. Raises JournalCorruptError for a file `*.seg` that is not
    named like a segment, OSError.
    """
    with View.of(fs, directory) as view:
        return _Check(view, directory, vocabulary, wanted, anchor).run(progress)


class _Copy(NamedTuple):
    """One copy of a segment, read whole."""

    walked: Walked
    data: bytes
    events: list[Found]


@dataclass
class _Check:
    """The check of one view of a journal."""

    fs: View
    directory: Path
    vocabulary: Vocabulary
    wanted: tuple[type, ...]
    anchor: Anchor | None
    result: Verified = field(default_factory=Verified)
    #: The ends of segments by the snapshots.
    ends: set[Position] = field(default_factory=set)
    #: The number of events read of each segment, by its first sequence.
    counts: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.schema, self.keys = self.vocabulary.schema, self.vocabulary.keys
        self.decoder = list_decoder(self.vocabulary.event_type)

    def run(self, progress: Progress | None) -> Verified:
        """Check the whole journal; the result. Raises as `verify`."""
        candidates = read_snapshots(self.fs, self.directory, self.schema)
        self.ends = {Position.behind(at) for at in candidates if not isinstance(at, Fault)}
        files = self._list()
        order = sorted(files)
        if order:
            self.result.beginning = Position(max(0, order[0] - 1), GENESIS_DIGEST, None)
        position: Position | None = None
        for done, first in enumerate(order, start=1):
            if position is not None and first > position.sequence + 1:
                gap = Gap(position.sequence + 1, first - 1)
                fault = missing(self.fs, self.directory, gap, position.sequence)
                self.result.faults.append(fault)
                position = None
            behind = files[order[done]] if done < len(order) else []
            position = self._check(files[first], position, behind)
            if progress is not None:
                progress(done, len(files))
        self.result.count = sum(self.counts.values())
        if position is not None and (
            all(file.archived for file in files[order[-1]])
            or order[-1] <= position.sequence in {end.sequence for end in self.ends}
        ):
            # The open segment is never archived, and no snapshot has its events.
            last = position.sequence
            fault = missing(self.fs, self.directory, Gap(last + 1, None), last)
            self.result.faults.append(fault)
        check_snapshots(self.fs, self.directory, candidates, self.result)
        return self.result

    def _list(self) -> dict[int, list[SegmentFile]]:
        """The copies of each segment by its first sequence, the live one first."""
        files: dict[int, list[SegmentFile]] = {}
        for file in list_segments(self.fs, self.directory):
            files.setdefault(file.first_sequence, []).append(file)
        for file in list_archive(self.fs, self.directory):
            files.setdefault(file.first_sequence, []).append(file)
        return files

    def _check(
        self, copies: list[SegmentFile], before: Position | None, behind: list[SegmentFile]
    ) -> Position | None:
        """Check all copies of a segment; return where its successor, the copies `behind`, begins.

        None if that is unknown: then the successor's own header is trusted.
        """
        sealed = bool(behind)
        good: list[_Copy] = []
        bad: list[Fault] = []
        for file in copies:
            outcome = self._check_copy(file, before, sealed=sealed)
            if isinstance(outcome, Fault):
                bad.append(outcome)
            else:
                good.append(outcome)
        if not good:
            self.result.faults += bad
            return None
        copy, faults = _choose(good, bad, self._ends_of(copies, behind))
        self.result.faults += faults
        return self._accept(copy, copies, sealed=sealed)

    def _ends_of(self, copies: list[SegmentFile], behind: list[SegmentFile]) -> set[Position]:
        """Where a segment with two copies ends, by the segment behind it and by the snapshots."""
        if len(copies) == 1 or not behind:
            return set()
        between = range(copies[0].first_sequence, behind[0].first_sequence)
        ends = beginnings(self.fs, behind, self.schema) | self.ends
        return {end for end in ends if end.sequence in between}

    def _check_copy(
        self, file: SegmentFile, before: Position | None, *, sealed: bool
    ) -> _Copy | Fault:
        """Read one file; a torn tail is noted."""
        last = _last_before(file, before)
        read = partial(self._read, file, before, sealed=sealed)
        try:
            walked, (data, events) = read() if sealed or file.archived else read_stable(read)
        except DamagedSegmentError as error:
            if error.walked is not None and error.data is not None:
                # The good frames before the damage count.
                self._find_anchor(error.data, error.walked)
                self.result.head = self.result.vouched = error.walked.end
                self._count(error.walked)
            return Fault(Kind.SEGMENT, file.path, error.offset, error.last_sequence, error.reason)
        except JournalUnsupportedError as error:
            return Fault(Kind.UNSUPPORTED, file.path, 0, last, error.reason)
        except OSError as error:
            return unreadable(Kind.SEGMENT, file.path, last, error)
        found = walked.found
        if found.end is End.TORN:
            torn = Fault(Kind.TORN, file.path, found.offset, found.next_sequence - 1, found.reason)
            self.result.faults.append(torn)
        return _Copy(walked, data, events)

    def _read(
        self, file: SegmentFile, before: Position | None, *, sealed: bool
    ) -> tuple[Walked, tuple[bytes, list[Found]]]:
        """Read one file; return its bytes and the wanted events too. Raises as `read_one`."""
        events: list[Found] = []
        sequence = file.first_sequence

        def keep(batch: list[Any]) -> None:
            nonlocal sequence
            for number, event in enumerate(batch, start=sequence):
                if isinstance(event, self.wanted):
                    events.append(Found(number, event))
            sequence += len(batch)

        walked, data = read_one(
            self.fs,
            file,
            self.schema,
            before,
            self.decoder,
            keep,
            sealed=sealed,
            verify_chain=True,
        )
        return walked, (data, events)

    def _accept(self, copy: _Copy, copies: list[SegmentFile], *, sealed: bool) -> Position:
        """Add a good segment to the result; return where its successor begins."""
        result, (file, header, found), end = self.result, copy.walked, copy.walked.end
        if not result.segments and not result.faults:
            result.beginning = claimed_position(header)
        result.segments += 1
        self._count(copy.walked)
        result.events += copy.events
        result.head = result.vouched = end
        if not sealed and not file.archived:
            result.vouched = Position(*found.vouched, header.journal_id)
        result.boundaries[header.previous_sequence] = header.previous_digest
        if end.sequence > header.previous_sequence:
            # A segment with marks alone ends where the one before it does.
            result.boundaries[end.sequence] = end.digest
        self._find_anchor(copy.data, copy.walked)
        if sealed:
            expected = cache(partial(build_index, copy.data, header, self.decoder, self.keys))
            for file in copies:
                bad = check_index(self.fs, file, header, found, self.keys, expected)
                if isinstance(bad, Fault):
                    result.altered_indexes.append(bad)
                elif bad:
                    result.bad_indexes.append(bad)
        return end

    def _count(self, walked: Walked) -> None:
        """Note the number of events of a segment, of the copy that has more."""
        first = walked.header.first_sequence
        self.counts[first] = max(self.counts.get(first, 0), walked.found.next_sequence - first)

    def _find_anchor(self, data: bytes, walked: Walked) -> None:
        """Look for the anchor's digest at the header and behind each frame."""
        _, header, found = walked
        place = Anchor(header.previous_sequence, header.previous_digest)
        if self.anchor is None or not place.sequence <= self.anchor.sequence < found.next_sequence:
            return
        offset, view = SEGMENT_HEADER_BYTES, memoryview(data)
        while place != self.anchor and offset < found.offset:
            frame = decode_frame(view, offset, header)
            offset = frame.end
            place = Anchor(frame.first_sequence + frame.count - 1, frame.digest)
        self.result.anchored |= place == self.anchor


def _choose(
    good: Sequence[_Copy], bad: Sequence[Fault], ends: set[Position]
) -> tuple[_Copy, list[Fault]]:
    """The copy that counts, of one or more `good` ones, and the faults of the others.

    `ends` is where the segment ends by its successor and the snapshots. If it is empty, all `good`
    copies count. A copy that ends elsewhere is valid, but lacks events or has altered ones.
    """
    true = [copy for copy in good if copy.walked.end in ends] or good
    chosen = true[0]
    faults = list(bad)
    if not ends or chosen.walked.end in ends:
        # No event is lost: the other copy is damaged, not the segment.
        faults = [
            fault._replace(kind=Kind.COPY) if fault.kind is Kind.SEGMENT else fault for fault in bad
        ]
    for copy in good:
        if copy.data == chosen.data:
            continue
        reason = (
            "the two copies of this segment differ"
            if copy in true
            else "it does not end where the next segment begins, as its other copy does"
        )
        file, header, _ = copy.walked
        faults.append(Fault(Kind.COPY, file.path, 0, header.previous_sequence, reason))
    return chosen, faults


def _last_before(file: SegmentFile, before: Position | None) -> int:
    """The last sequence that is known to come before a segment."""
    return before.sequence if before else max(0, file.first_sequence - 1)


def opens(fs: FileSystem, directory: Path, vocabulary: Vocabulary, state: State) -> None:
    """Read what `Journal.open` reads, without its lock and its changes. Raises what that raises."""
    schema, decoder = vocabulary.schema, list_decoder(vocabulary.event_type)
    replay(fs, directory, schema, decoder, state.apply_all, state.restore, vocabulary.record_of)
