"""Plans a repair: what to remove from a damaged journal so that it opens again.

Only live segments behind the newest good snapshot are cut: a start does not read segments that a
snapshot covers, and archived ones were whole once, so a backup has them. Nothing is changed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from journal.errors import JournalCorruptError, JournalUnsupportedError
from journal.format.archive import read_segment
from journal.format.chain import (
    GENESIS,
    DamagedSegmentError,
    Position,
    Walked,
    check_succession,
    read_one,
)
from journal.format.codec import (
    ALIGNMENT,
    SEGMENT_BYTES_MAX,
    SEGMENT_BYTES_MIN,
    MalformedError,
    SegmentHeader,
    UnsupportedError,
    decode_header,
    encode_header,
)
from journal.format.scan import Deliver, list_decoder
from journal.format.segments import (
    SegmentFile,
    list_archive,
    list_history,
    read_part,
    segment_path,
)
from journal.format.snapshot import Snapshot, list_snapshots, read_snapshot
from journal.fs import ReadOnlyFileSystem
from journal.read.replay_start import Restore
from journal.read.vocabulary import State, Vocabulary
from journal.read.vouching import Records, Word, word_on
from journal.repair.losses import Lost, lost_from
from journal.write.journal import DEFAULT_SEGMENT_BYTES


class StraySegmentError(JournalCorruptError):
    """A file named like a segment does not belong to this journal; nothing behind it is damaged."""


class Truncation(msgspec.Struct, frozen=True):
    """The parts to remove so that the journal opens again."""

    reason: str
    #: The last event that stays.
    last_sequence: int
    #: Files and parts of files to remove, in the journal's order, without missing files.
    lost: list[Lost]
    #: The segment that is to end the journal, in place of the one at `path`; None if the journal
    #: ends with the segment before it.
    replacement: bytes | None
    path: Path
    segment_bytes: int
    #: Snapshots of events that are removed.
    snapshots: list[Path]
    #: The snapshot that the journal begins with, and whose record may be removed.
    unvouched: Snapshot | None = None


class _Start(NamedTuple):
    position: Position
    time: int
    files: list[SegmentFile]
    unvouched: Snapshot | None = None


def plan_truncation(
    fs: ReadOnlyFileSystem,
    directory: Path,
    vocabulary: Vocabulary,
    state: State,
    now: int,
) -> Truncation | None:
    """The plan of a repair; None if the journal opens as it is. The caller holds the writer's lock.

    `now` is in ns since the epoch. A snapshot counts as for a start: if the journal vouches for it,
    or is damaged before its record; without `Vocabulary.record_of`, always.

    Raises JournalCorruptError for damage that truncation cannot repair, StraySegmentError for a
    stray file, JournalUnsupportedError, OSError, and the errors of `state`.
    """
    schema, decoder = vocabulary.schema, list_decoder(vocabulary.event_type)
    records = Records.of(decoder, vocabulary.record_of)
    start = _find_start(fs, directory, schema, state.restore, records)
    position, time = start.position, start.time
    before: SegmentHeader | None = None
    for number, file in enumerate(start.files):
        sealed = number < len(start.files) - 1
        looked = _look(fs, file, position, schema, decoder, state.apply_all, sealed=sealed)
        if looked.reason:
            _check_not_stray(fs, start.files[number:], position, schema)
            if file.archived:
                at = looked.walked.found.offset if looked.walked else 0
                raise JournalCorruptError(file.path, at, position.sequence, looked.reason)
            _check_no_copy(fs, directory, file, position, looked.reason)
            damaged = start.files[number:]
            break
        if looked.walked is not None:
            # Only behind a live segment can the journal go on as it is.
            before = None if file.archived else looked.walked.header
            time, position = looked.walked.found.time, looked.walked.end
    else:
        if position.journal_id is None or (start.files and not start.files[-1].archived):
            return None
        looked = _ReadResult(b"", None, "the segment that follows the last one is missing")
        damaged = []
    cut = _cut(directory, damaged, looked, position, before, schema, max(now, time))
    return Truncation(
        reason=looked.reason,
        last_sequence=cut.last_sequence,
        lost=[
            lost_from(
                read_part(fs, file.path),
                file.path,
                0 if number else cut.offset,
                schema,
                cut.last_sequence,
            )
            for number, file in enumerate(damaged)
        ],
        replacement=cut.replacement,
        path=cut.path,
        segment_bytes=cut.segment_bytes,
        snapshots=[
            at.path for at in list_snapshots(fs, directory) if at.sequence > cut.last_sequence
        ],
        unvouched=start.unvouched,
    )


class _ReadResult(NamedTuple):
    """A segment as far as it could be read, and its fault; empty if it has none."""

    data: bytes
    walked: Walked | None
    reason: str


def _look(
    fs: ReadOnlyFileSystem,
    file: SegmentFile,
    position: Position,
    schema: int,
    decoder: msgspec.msgpack.Decoder[list[Any]],
    deliver: Deliver,
    *,
    sealed: bool,
) -> _ReadResult:
    """Read a segment that continues `position`. Raises JournalUnsupportedError, OSError."""
    try:
        walked, data = read_one(
            fs, file, schema, position, decoder, deliver, sealed=sealed, verify_chain=True
        )
    except DamagedSegmentError as error:
        if error.data is None and not file.archived:
            # Its good frames were not read, so nothing of it may be cut off as lost.
            remedy = "so no repair reads it: cut a copy of it back to the length it had"
            reason = f"{error.reason}, {remedy}"
            raise JournalCorruptError(file.path, 0, position.sequence, reason) from None
        return _ReadResult(error.data or b"", error.walked, error.reason)
    except (FileNotFoundError, IsADirectoryError) as error:
        return _ReadResult(b"", None, f"it is no file: {error.strerror}")
    return _ReadResult(data, walked, walked.found.reason)


class _Cut(NamedTuple):
    """Where the damaged segment is cut off, and which segment replaces which."""

    offset: int
    last_sequence: int
    replacement: bytes | None
    path: Path
    segment_bytes: int


def _cut(
    directory: Path,
    damaged: list[SegmentFile],
    looked: _ReadResult,
    position: Position,
    before: SegmentHeader | None,
    schema: int,
    created: int,
) -> _Cut:
    """Raises JournalCorruptError if nothing would be left to go on with."""
    last = position.sequence
    following = segment_path(directory, last + 1)
    if looked.walked is not None:
        # Its own header and its good frames stay.
        _, header, found = looked.walked
        data = looked.data[: found.offset]
        path = damaged[0].path
        return _Cut(found.offset, found.next_sequence - 1, data, path, header.segment_bytes)
    size = before.segment_bytes if before else _size_for(len(looked.data))
    if before is not None and damaged[0].path != following:
        return _Cut(0, last, None, damaged[0].path, size)
    if position.journal_id is None and damaged[0].path != following:
        raise JournalCorruptError(
            following, 0, last, "it is missing, and nothing that is left says how it began"
        )
    fresh = SegmentHeader.begin(schema, size, created, *position)
    return _Cut(0, last, encode_header(fresh), following, size)


def _find_start(
    fs: ReadOnlyFileSystem, directory: Path, schema: int, restore: Restore, records: Records | None
) -> _Start:
    """The newest good snapshot, restored, and the segments behind it."""
    files = list_history(fs, directory)
    for file in list_snapshots(fs, directory):
        try:
            snapshot = read_snapshot(fs, file.path, schema)
            following = [at for at in files if at.first_sequence > file.sequence]
            position = Position.behind(snapshot)
            if following and not _may_follow(fs, following[0], position, schema):
                continue
            word = Word.VOUCHED
            if records is not None and following:
                word = word_on(fs, snapshot, following, schema, records)
            if word in {Word.CONTRADICTED, Word.UNRECORDED}:
                continue
            restore(snapshot)
        except UnsupportedError as error:
            raise JournalUnsupportedError(file.path, str(error)) from None
        except (ValueError, OSError):
            continue  # as a start does: to an older one
        unvouched = snapshot if word is Word.DAMAGED else None
        return _Start(position, snapshot.time, following, unvouched)
    restore(None)
    return _Start(GENESIS, 0, files)


def _may_follow(fs: ReadOnlyFileSystem, file: SegmentFile, position: Position, schema: int) -> bool:
    """Whether a segment continues a snapshot, or another that is missing in between."""
    try:
        header = decode_header(read_segment(fs, file), schema)
    except (MalformedError, FileNotFoundError, IsADirectoryError):
        return True
    if header.first_sequence > position.sequence + 1:
        return header.journal_id == position.journal_id
    try:
        check_succession(file, header, position)
    except JournalCorruptError:
        return False
    return True


def _check_not_stray(
    fs: ReadOnlyFileSystem, files: Sequence[SegmentFile], position: Position, schema: int
) -> None:
    """Raise StraySegmentError if the journal goes on behind the first file as if it were not.

    Also for an archived one that is the last of all, and a copy of one before it: no segment that
    is still to be followed is archived.
    """
    stray, following = files[0], files[1] if len(files) > 1 else None
    if following is not None:
        try:
            check_succession(
                following, decode_header(read_segment(fs, following), schema), position
            )
        except (MalformedError, JournalCorruptError, OSError):
            return
        reason = f"the journal goes on in {following.path.name}: this file is no part of it"
        raise StraySegmentError(stray.path, 0, position.sequence, reason)
    if stray.archived:
        try:
            first = decode_header(read_segment(fs, stray), schema).first_sequence
        except (MalformedError, UnsupportedError, OSError):
            return
        if first != stray.first_sequence and first <= position.sequence:
            reason = f"it is a copy of the segment that begins with {first}, under another name"
            raise StraySegmentError(stray.path, 0, position.sequence, reason)


def _check_no_copy(
    fs: ReadOnlyFileSystem, directory: Path, file: SegmentFile, position: Position, reason: str
) -> None:
    """Raise JournalCorruptError if the archive has what would be lost."""
    for copy in list_archive(fs, directory):
        if copy.first_sequence >= file.first_sequence:
            raise JournalCorruptError(
                file.path,
                0,
                position.sequence,
                f"{reason}; but the archive has a copy, which `zstd -d {copy.path}` gives back",
            )


def _size_for(file_bytes: int) -> int:
    """A segment size as good as that of a file whose header cannot be read."""
    if SEGMENT_BYTES_MIN <= file_bytes <= SEGMENT_BYTES_MAX and file_bytes % ALIGNMENT == 0:
        return file_bytes
    return DEFAULT_SEGMENT_BYTES
