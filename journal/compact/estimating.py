"""Estimates what a compaction would move and a pruning after it remove, without doing either."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from journal.compact.prune import Coming, Policy, Pruning, archive_bytes, plan_pruning
from journal.format.archive import compress
from journal.format.segments import SegmentFile, list_segments, opened
from journal.fs import FileSystem

#: What is compressed of a segment to tell how well the rest will.
_SAMPLE_BYTES = 1 << 20


class Estimate(NamedTuple):
    """How many segments would be archived, their bytes, and about how many those take there.

    `archive_bytes_now` is what the archive has before, `pruning` what would go of it then.
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
    """An estimate of what would be archived of a journal that ends with `last`, and then pruned.

    The segment that is written is sealed first, unless it has no event. With a `last` of 0 nothing
    would be archived. `now` is as for `plan_pruning`. A writer may be at work; what it begins
    meanwhile does not count. Raises JournalCorruptError, JournalUnsupportedError, OSError.
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
    """A segment's bytes, and about how many the archive takes, as its beginning compresses."""
    with opened(fs, file.path) as fd:
        size = fs.size(fd)
        sample = fs.read(fd, _SAMPLE_BYTES, 0)
    return size, round(len(compress(sample)) * size / max(1, len(sample)))
