"""The file formats of a journal: segments, snapshots, archive, indexes, and their chain."""

from journal.format.codec import MalformedError, UnsupportedError
from journal.format.segments import journal_of
from journal.format.snapshot import list_snapshots, read_snapshot, snapshot_path

__all__ = [
    "MalformedError",
    "UnsupportedError",
    "journal_of",
    "list_snapshots",
    "read_snapshot",
    "snapshot_path",
]
