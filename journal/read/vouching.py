"""Finds the snapshots that the journal vouches for: those whose record is in its chain.

A snapshot is a file like any other, and its checksums can be forged. So its state
counts only if an event behind it says that a state with this digest was kept. The events are
chained, so altering one alters the head of the journal as well. A compaction publishes a
snapshot before its record, and removes what it covers after that: a crash in between leaves a
snapshot without a record, and everything before it is still there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Any, NamedTuple

import msgspec

from journal.format.archive import read_segment
from journal.format.codec import MalformedError, UnsupportedError, decode_header
from journal.format.scan import Scan, advance
from journal.format.segments import SegmentFile
from journal.format.snapshot import Snapshot, state_digest
from journal.fs import ReadOnlyFileSystem


class SnapshotRecord(NamedTuple):
    """An event's record of a snapshot: the state after the event `sequence` has this digest."""

    sequence: int
    digest: bytes


#: The record that an event is; None for any other event.
RecordOf = Callable[[Any], SnapshotRecord | None]


class Records(NamedTuple):
    """How the records of snapshots are found among the events of a journal."""

    decoder: msgspec.msgpack.Decoder[list[Any]]
    record_of: RecordOf
    #: Records that a repair removed, and that are to be appended again.
    again: tuple[SnapshotRecord, ...] = ()

    @classmethod
    def of(
        cls,
        decoder: msgspec.msgpack.Decoder[list[Any]] | None,
        record_of: RecordOf | None,
        again: Sequence[bytes] = (),
    ) -> Records | None:
        """Records among the events that a decoder decodes, and the encoded ones `again`.

        None without `record_of`: then every undamaged snapshot counts.
        """
        if record_of is None or decoder is None:
            return None
        found = []
        for data in again:
            try:
                (event,) = decoder.decode(b"\x91" + data)
            except (ValueError, RecursionError):
                continue  # a note that was altered vouches for nothing
            if record := record_of(event):
                found.append(record)
        return cls(decoder, record_of, tuple(found))


class Word(Enum):
    """A journal's record of a snapshot."""

    #: It has the record of exactly this state.
    VOUCHED = auto()
    #: It has the record of another state.
    CONTRADICTED = auto()
    #: It has no record of it.
    UNRECORDED = auto()
    #: It is damaged before a record was found.
    DAMAGED = auto()


class _FoundError(Exception):
    """The record was reached."""

    def __init__(self, record: SnapshotRecord) -> None:
        self.record = record
        super().__init__()


def word_on(
    fs: ReadOnlyFileSystem,
    snapshot: Snapshot,
    following: Sequence[SegmentFile],
    schema: int,
    records: Records,
) -> Word:
    """The record of a snapshot in the segments `following` it, one at least.

    The first record counts: an event that is appended later does not change it. Reads only up to
    it, usually a few frames. Raises OSError.
    """

    def look(events: list[Any]) -> None:
        for event in events:
            record = records.record_of(event)
            if record is not None and record.sequence == snapshot.sequence:
                raise _FoundError(record)

    try:
        whole = _read(fs, following, schema, records, look)
    except _FoundError as found:
        return _compare(snapshot, found.record)
    except (MalformedError, UnsupportedError):
        return Word.DAMAGED
    for record in records.again:
        if record.sequence == snapshot.sequence:
            return _compare(snapshot, record)
    # If the segment right behind it is missing, the record may have been there.
    adjoining = following[0].first_sequence == snapshot.sequence + 1
    return Word.UNRECORDED if whole and adjoining else Word.DAMAGED


def _compare(snapshot: Snapshot, record: SnapshotRecord) -> Word:
    same = record.digest == state_digest(snapshot.state)
    return Word.VOUCHED if same else Word.CONTRADICTED


def _read(
    fs: ReadOnlyFileSystem,
    files: Sequence[SegmentFile],
    schema: int,
    records: Records,
    look: Callable[[list[Any]], None],
) -> bool:
    """Give the events of the files to `look`; whether each ends where the next one begins."""
    for number, file in enumerate(files):
        data = read_segment(fs, file)
        header = decode_header(data, schema)
        cursor = Scan.at_start(header)
        advance(data, header, cursor, records.decoder, look)
        if number + 1 < len(files) and cursor.next_sequence != files[number + 1].first_sequence:
            return False
    return True
