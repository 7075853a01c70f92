"""Prunes history: removes the archived segments that an operator ordered, and nothing else.

Only archived segments are removed, the oldest first, so that the rest has no gap. The writer
records what will be removed before `prune` removes it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import NamedTuple

import msgspec

from journal.compact.prepare import archive_lock
from journal.format.archive import header_of
from journal.format.segments import SegmentFile, list_archive, list_history, opened
from journal.format.snapshot import list_snapshots
from journal.fs import FileSystem


class Policy(msgspec.Struct, frozen=True, omit_defaults=True):
    """Bounds of the archive that is kept; None is no bound. Durations in ns, sizes in bytes."""

    keep_age: int | None = None
    keep_bytes: int | None = None
    delete: bool = False
    #: Ages are used even if the clock seems wrong; the caller judges that.
    trust_clock: bool = False

    @property
    def prunes(self) -> bool:
        """Whether the policy has any bound."""
        return self.keep_age is not None or self.keep_bytes is not None or self.delete


class Pruning(msgspec.Struct, frozen=True):
    """The archived segments to remove: those up to the sequence `through`, and their bytes."""

    through: int
    segments: int
    bytes: int


class Coming(NamedTuple):
    """The segments that a compaction would archive before it prunes, for a dry run."""

    #: The bytes that a segment will take in the archive, by its first sequence.
    sizes: Mapping[int, int]
    #: The sequence of their last event.
    last_sequence: int


class _Archived(NamedTuple):
    """An archived segment: its bytes there, its last event, and the file that follows it."""

    size: int
    last_sequence: int
    successor: SegmentFile | None


def plan_pruning(
    fs: FileSystem,
    directory: Path,
    schema: int,
    policy: Policy,
    now: int,
    coming: Coming | None = None,
) -> Pruning | None:
    """The segments to remove by `policy` at the time `now` (ns since the epoch); None if none.

    With `coming`, as if those segments were archived already. Raises JournalCorruptError,
    JournalUnsupportedError, OSError.
    """
    archived = _archived(fs, directory, coming)
    total = sum(file.size for file in archived)
    going = None
    for number, (size, last_sequence, successor) in enumerate(archived, start=1):
        too_old = policy.keep_age is not None and (
            # Every segment counts as at least 1 ns old, also one that is yet to be made, or that
            # was made while the clock was ahead.
            min(header_of(fs, successor, schema).created if successor else now, now - 1)
            < now - policy.keep_age
        )
        too_many = policy.keep_bytes is not None and total > policy.keep_bytes
        if not (policy.delete or too_old or too_many):
            break
        total -= size
        going = Pruning(
            through=last_sequence,
            segments=number,
            bytes=size + (going.bytes if going else 0),
        )
    return going


def _archived(fs: FileSystem, directory: Path, coming: Coming | None) -> list[_Archived]:
    """The archived segments, oldest first, then those of `coming`."""
    files = list_history(fs, directory)
    sizes = coming.sizes if coming else {}
    archived = []
    for file, successor in zip_longest(files, files[1:]):
        if not file.archived and file.first_sequence not in sizes:
            continue
        size = size_of(fs, file) if file.archived else sizes[file.first_sequence]
        # Without `coming` there is a successor: the open segment is never archived.
        last = successor.first_sequence - 1 if successor else coming.last_sequence if coming else 0
        archived.append(_Archived(size, last, successor))
    return archived


def prune(fs: FileSystem, directory: Path, through: int) -> None:
    """Remove the archived segments that end at `through` or before, and snapshots from before.

    On return the removal is durable. Raises CompactionRunsError, OSError.
    """
    with archive_lock(fs, directory) as custody:
        files = list_history(fs, directory)
        # Such a snapshot has lost the segment that follows it.
        for snapshot in list_snapshots(fs, directory)[1:]:
            if snapshot.sequence < through:
                # A directory has lost nothing, and is not ours.
                with contextlib.suppress(IsADirectoryError):
                    fs.remove(snapshot.path)
        fs.sync_directory(directory)
        for file, successor in pairwise(files):
            if file.archived and successor.first_sequence - 1 <= through:
                custody.check()
                fs.remove(file.path)
                with contextlib.suppress(FileNotFoundError):
                    fs.remove(file.index_path)
                fs.sync_directory(file.path.parent)


def size_of(fs: FileSystem, file: SegmentFile) -> int:
    """The bytes of a segment's file."""
    with opened(fs, file.path) as fd:
        return fs.size(fd)


def archive_bytes(fs: FileSystem, directory: Path) -> int:
    """The bytes of all archived segments."""
    return sum(size_of(fs, file) for file in list_archive(fs, directory))
