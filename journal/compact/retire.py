"""Removes segments that a snapshot and the archive replace, and snapshots that are too old."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import NamedTuple

import msgspec

from journal.compact.prepare import archive_lock, sealed_segments
from journal.errors import JournalCorruptError
from journal.format.codec import MalformedError, UnsupportedError
from journal.format.copies import is_archived
from journal.format.segments import ARCHIVE_NAME, SegmentFile, file_bytes, list_segments
from journal.format.snapshot import (
    Snapshot,
    SnapshotFile,
    list_snapshots,
    read_snapshot,
    snapshot_path,
    state_digest,
)
from journal.fs import FileSystem
from journal.read.vouching import SnapshotRecord

#: If the newest one is damaged, the one before it and the archive give the same state.
SNAPSHOTS_KEPT = 2


class Retired(msgspec.Struct, frozen=True):
    """The counts of what `retire` removed: segments, their bytes, and snapshots."""

    segments: int
    bytes: int
    snapshots: int


class Taken(NamedTuple):
    """A snapshot that was just recorded, and the snapshot that it was made from (0: none)."""

    record: SnapshotRecord
    before: int = 0


def retire(fs: FileSystem, directory: Path, schema: int, taken: Taken | None = None) -> Retired:
    """Remove the segments that a good snapshot covers and the archive has, and old snapshots.

    The good snapshot is `taken`, whose record is durable; without it, the newest undamaged one, for
    a journal whose snapshots have no records. Raises CompactionRunsError, OSError,
    JournalCorruptError if there is no good snapshot where there should be one.
    """
    with archive_lock(fs, directory) as custody:
        snapshots = list_snapshots(fs, directory)
        if taken is None:
            newest = _newest(fs, snapshots, schema)
            if newest is None:
                return Retired(0, 0, 0)
        else:
            newest = _recorded(fs, directory, taken.record, schema)
        # `prepare` made the names of snapshot and copies durable, but it may have been interrupted
        # in an earlier run.
        fs.sync_directory(directory / ARCHIVE_NAME)
        fs.sync_directory(directory)
        segments = freed = 0
        for file, _ in sealed_segments(fs, directory, newest.sequence):
            # `prepare` judges copies that differ: until then neither may be removed.
            if not is_archived(fs, directory, file):
                continue
            # Never from a directory that replaced the one that was checked.
            custody.check()
            freed += _remove_segment(fs, file)
            segments += 1
        custody.check()
        kept = None
        if taken is not None and taken.before != taken.record.sequence:
            kept = {taken.record.sequence, taken.before}
        removed = _remove_snapshots(fs, snapshots, schema, kept)
        fs.sync_directory(directory)
    return Retired(segments, freed, removed)


def _recorded(fs: FileSystem, directory: Path, record: SnapshotRecord, schema: int) -> SnapshotFile:
    """The recorded snapshot. Raises JournalCorruptError if its file has another one."""
    path = snapshot_path(directory, record.sequence)
    reason = "its state is not the one that the journal has just recorded: it was altered"
    try:
        snapshot = read_snapshot(fs, path, schema)
    except (MalformedError, UnsupportedError) as error:
        reason = str(error)
    else:
        if state_digest(snapshot.state) == record.digest:
            return SnapshotFile(record.sequence, path)
    raise JournalCorruptError(path, 0, record.sequence, reason)


def _newest(fs: FileSystem, snapshots: list[SnapshotFile], schema: int) -> SnapshotFile | None:
    """The newest good snapshot, without those that are not files or cannot be read.

    Raises JournalCorruptError if there are only damaged ones, and for one of a newer version.
    """
    damaged: JournalCorruptError | None = None
    for snapshot in snapshots:
        try:
            read_snapshot(fs, snapshot.path, schema)
        except MalformedError as error:
            damaged = damaged or JournalCorruptError(
                snapshot.path, 0, snapshot.sequence, str(error)
            )
        except UnsupportedError as error:
            raise JournalCorruptError(snapshot.path, 0, snapshot.sequence, str(error)) from None
        except OSError:
            continue
        else:
            return snapshot
    if damaged:
        raise damaged
    return None


def _remove_segment(fs: FileSystem, file: SegmentFile) -> int:
    """Remove a segment and its index; the segment's bytes.

    The oldest first, and the segment before its index: the rest is a valid journal.
    """
    size = file_bytes(fs, file.path)
    fs.remove(file.path)
    with contextlib.suppress(FileNotFoundError):
        fs.remove(file.index_path)
    return size


def _remove_snapshots(
    fs: FileSystem, snapshots: list[SnapshotFile], schema: int, kept: set[int] | None
) -> int:
    """Remove all but the newest good snapshots; the number removed.

    With `kept`, only snapshots of these sequences are good: others have no record in the journal.
    """
    good = removed = 0
    for snapshot in snapshots:
        try:
            read_snapshot(fs, snapshot.path, schema)
        except MalformedError:
            pass  # a damaged snapshot is of no use as a fallback
        except (OSError, UnsupportedError):
            # A directory is not ours to remove, and what cannot be read now may be good.
            continue
        else:
            good += 1
            if good <= SNAPSHOTS_KEPT if kept is None else snapshot.sequence in kept:
                continue
        fs.remove(snapshot.path)
        removed += 1
    return removed


def covering(fs: FileSystem, directory: Path, schema: int) -> Snapshot | None:
    """The newest snapshot, if it is whole and covers all segments but the last.

    Raises JournalCorruptError for a name that is not a segment's, OSError.
    """
    newest = list_snapshots(fs, directory)[:1]
    segments = list_segments(fs, directory)
    if not newest or [newest[0].sequence + 1] != [each.first_sequence for each in segments]:
        return None
    try:
        return read_snapshot(fs, newest[0].path, schema)
    except (MalformedError, UnsupportedError):
        return None
