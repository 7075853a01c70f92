"""Estimates what a compaction would archive and a prune after it remove, without doing either."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from journal.compact.prune import Coming, Policy, Pruning, archive_bytes, plan_pruning
from journal.format.archive import compress
from journal.format.segments import SegmentFile, list_segments, opened
from journal.fs import FileSystem

#: The bytes of a segment that are compressed to estimate the rest.
_SAMPLE_BYTES = 1 << 20


class Estimate(NamedTuple):
    """The number of segments to archive, their bytes, and about how many bytes they take there.

    `archive_bytes_now` is the archive's size before; `pruning` is what would be removed after.
    """

    segments: int
    segment_bytes: int
    archive_bytes: int
    archive_bytes_now: int
    pruning: Pruning | None


def estimate(
    fs: FileSystem,
    directory: Path,
    schema: int,
    last: int,
    policy: Policy | None = None,
    now: int = 0,
) -> Estimate:
    """Estimate the compaction and pruning of a journal that ends with `last`.

    The open segment counts as sealed, unless it has no event. With a `last` of 0 nothing
    would be archived. `now` is as for `plan_pruning`. A writer may run; segments that it begins
    meanwhile do not count. Raises JournalCorruptError, JournalUnsupportedError, OSError.
    """
    files = [file for file in list_segments(fs, directory) if file.first_sequence <= last]
    sizes = {file.first_sequence: _compressed(fs, file) for file in files}
    coming = Coming({first: size for first, (_, size) in sizes.items()}, last) if files else None
    return Estimate(
        segments=len(files),
        segment_bytes=sum(size for size, _ in sizes.values()),
        archive_bytes=sum(archived for _, archived in sizes.values()),
        archive_bytes_now=archive_bytes(fs, directory),
        pruning=plan_pruning(fs, directory, schema, policy, now, coming) if policy else None,
    )


def _compressed(fs: FileSystem, file: SegmentFile) -> tuple[int, int]:
    """A segment's bytes, and an estimate of those in the archive, from its beginning."""
    with opened(fs, file.path) as fd:
        size = fs.size(fd)
        sample = fs.read(fd, _SAMPLE_BYTES, 0)
    return size, round(len(compress(sample)) * size / max(1, len(sample)))
