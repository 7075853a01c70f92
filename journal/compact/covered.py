"""The snapshot that covers every segment but the last: then there is nothing to be archived."""

from __future__ import annotations

from pathlib import Path

from journal.format.codec import MalformedError, UnsupportedError
from journal.format.segments import list_segments
from journal.format.snapshot import Snapshot, list_snapshots, read_snapshot
from journal.fs import FileSystem


def covering(fs: FileSystem, directory: Path, schema: int) -> Snapshot | None:
    """The newest snapshot, if it is whole and the only segment begins after it.

    Raises JournalCorruptError for a name that is no segment's, OSError.
    """
    newest = list_snapshots(fs, directory)[:1]
    segments = list_segments(fs, directory)
    if not newest or [newest[0].sequence + 1] != [each.first_sequence for each in segments]:
        return None
    try:
        return read_snapshot(fs, newest[0].path, schema)
    except (MalformedError, UnsupportedError):
        return None
