"""Finds where a replay begins: at the newest snapshot that is vouched for, or at the start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from journal.errors import JournalCorruptError, JournalUnsupportedError
from journal.format.archive import read_header
from journal.format.chain import GENESIS, Position
from journal.format.codec import UnsupportedError
from journal.format.segments import SegmentFile, list_history
from journal.format.snapshot import Snapshot, SnapshotFile, list_snapshots, read_snapshot
from journal.fs import ReadOnlyFileSystem
from journal.read.vouching import Records, Word, word_on

#: Replaces the caller's state by a snapshot's, or the empty one. Raises ValueError for a snapshot
#: that it cannot use.
Restore = Callable[[Snapshot | None], None]


class RejectedSnapshot(NamedTuple):
    """A snapshot that could not be used, and why."""

    path: Path
    reason: str


class UnrecordedSnapshot(RejectedSnapshot):
    """An undamaged snapshot of which the journal has no record.

    A crash between writing it and its record leaves it.
    """


class ReplayStart(NamedTuple):
    """Where a replay begins, and the segments from there on."""

    position: Position
    snapshot: Snapshot | None
    files: list[SegmentFile]
    rejected: tuple[RejectedSnapshot, ...]


def find_replay_start(
    fs: ReadOnlyFileSystem,
    directory: Path,
    schema: int,
    restore: Restore | None,
    *,
    records: Records | None = None,
    until: int | None = None,
) -> ReplayStart:
    """Restore the newest good snapshot, of a sequence up to `until`; return what follows it.

    If it is damaged, cannot be read, or has no record of its state among `records`, the one before
    is used, in the end none: then the archive is read. Without `records`, every undamaged snapshot
    counts.
    Raises JournalCorruptError, JournalUnsupportedError, OSError.
    """
    # The snapshots first: of one that a compaction beside us makes later, nothing may follow in a
    # list of segments that is older.
    snapshots = list_snapshots(fs, directory)
    files = list_history(fs, directory)
    rejected: list[RejectedSnapshot] = []
    if restore is None:
        return ReplayStart(GENESIS, None, files, ())
    for file in snapshots:
        if until is not None and file.sequence > until:
            continue
        following = [segment for segment in files if segment.first_sequence > file.sequence]
        try:
            snapshot = _read(fs, file, schema)
            if not following:
                raise JournalCorruptError(
                    file.path,
                    0,
                    file.sequence,
                    "the segment that follows this snapshot is missing: "
                    "the events after it are nowhere",
                )
            _check_fit(fs, snapshot, following[0], schema)
            if records is not None:
                # A replay of everything refuses damage before the record.
                word = word_on(fs, snapshot, following, schema, records)
                _check_word(word, snapshot, trust_damaged=until is None)
            restore(snapshot)
        except UnsupportedError as error:
            raise JournalUnsupportedError(file.path, str(error)) from None
        except _UnrecordedError as error:
            rejected.append(UnrecordedSnapshot(file.path, str(error)))
        except ValueError as error:
            rejected.append(RejectedSnapshot(file.path, str(error)))
        else:
            return ReplayStart(Position.behind(snapshot), snapshot, following, tuple(rejected))
    restore(None)
    return ReplayStart(GENESIS, None, files, tuple(rejected))


class _UnrecordedError(ValueError):
    """The journal has no record of a snapshot."""


def _check_word(word: Word, snapshot: Snapshot, *, trust_damaged: bool) -> None:
    """Raise ValueError unless the journal vouches for a snapshot.

    `trust_damaged` is for a caller that reads all that follows anyway, and refuses damage there.
    """
    match word:
        case Word.CONTRADICTED:
            raise ValueError(
                f"its state has digest {snapshot.digest}, the journal's record of it another: "
                "it was altered"
            )
        case Word.UNRECORDED:
            raise _UnrecordedError(
                "the journal has no record of it: the compaction that made it did not get that far"
            )
        case Word.DAMAGED if not trust_damaged:
            raise ValueError("the journal is damaged before its record of it")


def _read(fs: ReadOnlyFileSystem, file: SnapshotFile, schema: int) -> Snapshot:
    try:
        return read_snapshot(fs, file.path, schema)
    except OSError as error:
        raise ValueError(f"it cannot be read: {error.strerror}") from None


def _check_fit(
    fs: ReadOnlyFileSystem, snapshot: Snapshot, following: SegmentFile, schema: int
) -> None:
    """Raise ValueError if a whole segment behind the snapshot says that it continues another."""
    header = read_header(fs, following, schema)
    expected = (snapshot.journal_id, snapshot.sequence, snapshot.chain_digest)
    if expected != (header.journal_id, header.previous_sequence, header.previous_digest):
        raise ValueError(f"{following.path.name} does not continue it: it is of another journal")
