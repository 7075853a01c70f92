"""Checks the files beside the segments of a journal: snapshots, indexes, and missing segments."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

from journal.check.findings import BadIndex, Fault, Gap, Kind, Verified
from journal.format.codec import MalformedError, SegmentHeader, UnsupportedError
from journal.format.index import Index, Keys, OldIndexError
from journal.format.scan import Scan
from journal.format.segments import (
    SegmentFile,
    archive_path,
    list_archive,
    opened,
    segment_path,
)
from journal.format.snapshot import (
    Snapshot,
    SnapshotFile,
    list_snapshots,
    read_snapshot,
    snapshot_path,
)
from journal.fs import ReadOnlyFileSystem

#: Errors that say that a name does not lead to a file: its bytes are gone for good.
_NO_FILE = {errno.EISDIR, errno.ELOOP, errno.ENOENT, errno.ENOTDIR, errno.ENXIO}


def unreadable(kind: Kind, path: Path, last_sequence: int, error: OSError) -> Fault:
    """The fault of what cannot be read: UNREADABLE for a file, as that may pass, else `kind`."""
    if error.errno not in _NO_FILE:
        kind = Kind.UNREADABLE
    return Fault(kind, path, 0, last_sequence, why_unreadable(error))


def why_unreadable(error: OSError) -> str:
    """The reason why a file cannot be read."""
    if error.errno == errno.ENOENT:
        return "it is a link that leads nowhere"
    if error.errno == errno.EISDIR:
        return "it is a directory, where a file should be"
    return f"it cannot be read: {error.strerror}"


def missing(fs: ReadOnlyFileSystem, directory: Path, gap: Gap, last_sequence: int) -> Fault:
    """The fault of a gap; its file is the segment that should begin there. Raises OSError."""
    # A segment is archived before its successor, and only if a snapshot covers it.
    archived = any(file.first_sequence > gap.first for file in list_archive(fs, directory)) or any(
        file.sequence >= gap.first for file in list_snapshots(fs, directory)
    )
    path = archive_path(directory, gap.first) if archived else segment_path(directory, gap.first)
    events = (
        f"the events from {gap.first} on"
        if gap.last is None
        else f"the events {gap.first} to {gap.last}"
    )
    reason = f"this segment is missing: {events} are nowhere"
    return Fault(Kind.MISSING, path, 0, last_sequence, reason, gap)


def check_index(
    fs: ReadOnlyFileSystem,
    file: SegmentFile,
    header: SegmentHeader,
    found: Scan,
    keys: Keys,
    expected: Callable[[], bytes],
) -> BadIndex | Fault | None:
    """The fault of a good segment's index; None for an old one, or for none.

    `expected` gives the segment's true index. Checksums can be forged, so an index with good ones
    must equal it: otherwise it hides events of the segment, which is a fault.
    """
    path = file.index_path
    try:
        with opened(fs, path) as fd:
            index = Index.of_file(fs, fd, header, keys)
            index.check()
            told = index.last_sequence, index.last_time, index.end, index.last_digest
            if told != (found.next_sequence - 1, found.time, found.offset, found.digest):
                raise MalformedError("the index tells of another end of the segment")
            whole = expected()
            if fs.read(fd, len(whole) + 1, 0) == whole:
                return None
    except (FileNotFoundError, OldIndexError):
        return None
    except MalformedError as error:
        return BadIndex(path, str(error))
    except OSError as error:
        return BadIndex(path, why_unreadable(error))
    reason = "it does not list what its segment holds: it was altered"
    return Fault(Kind.INDEX, path, 0, found.next_sequence - 1, reason)


def read_snapshots(fs: ReadOnlyFileSystem, directory: Path, schema: int) -> list[Snapshot | Fault]:
    """All snapshots, oldest first, with a fault in place of each bad one. Raises OSError."""
    files = reversed(list_snapshots(fs, directory))
    return [_read_snapshot(fs, file, schema) for file in files]


def _read_snapshot(fs: ReadOnlyFileSystem, file: SnapshotFile, schema: int) -> Snapshot | Fault:
    try:
        return read_snapshot(fs, file.path, schema)
    except MalformedError as error:
        return Fault(Kind.SNAPSHOT, file.path, 0, file.sequence, str(error))
    except UnsupportedError as error:
        return Fault(Kind.UNSUPPORTED, file.path, 0, file.sequence, str(error))
    except OSError as error:
        return unreadable(Kind.SNAPSHOT, file.path, file.sequence, error)


def check_snapshots(
    fs: ReadOnlyFileSystem, directory: Path, candidates: list[Snapshot | Fault], result: Verified
) -> None:
    """Sort the snapshots into the good and the bad ones. Raises OSError."""
    whole = all(fault.kind is Kind.TORN for fault in result.faults)
    for candidate in candidates:
        if isinstance(candidate, Fault):
            result.faults.append(candidate)
            continue
        head = result.head
        digest = result.boundaries.get(candidate.sequence)
        if digest == candidate.chain_digest and candidate.journal_id == head.journal_id:
            result.snapshots.append(candidate)
        elif digest is None and not whole:
            # The chain's digest there is not known, and the damage is reported already.
            result.snapshots.append(candidate)
        elif digest is None and candidate.sequence > head.sequence:
            gap = Gap(head.sequence + 1, candidate.sequence)
            result.faults.append(missing(fs, directory, gap, head.sequence))
            result.snapshots.append(candidate)
            whole = False
        else:
            if digest is not None:
                reason = (
                    "its digest of the chain is not the one of the segments: it is of another "
                    "journal, or was altered"
                )
            elif candidate.sequence < result.beginning.sequence:
                reason = "the events that follow it are nowhere"
            else:
                reason = "no segment ends with its sequence"
            path = snapshot_path(directory, candidate.sequence)
            result.faults.append(Fault(Kind.SNAPSHOT, path, 0, candidate.sequence, reason))
