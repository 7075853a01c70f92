"""The end of the open segment: its events, and which of them are known to be on disk.

An event is vouched for when something follows it; an idle daemon writes a mark to that end.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path

from journal.errors import JournalCorruptError, JournalError
from journal.format.archive import read_header
from journal.format.chain import read_one, read_stable
from journal.format.scan import Scan
from journal.format.segments import SegmentFile, list_segments, read_part
from journal.fs import FileSystem, OsFileSystem
from journal.read.view import View

#: A running daemon writes a mark after half a second without events.
_MARKED_SECONDS = 1.5
_PAUSE_SECONDS = 0.02
#: Enough of a frame to tell it from unwritten zeros: its magic is not zero.
_BEGUN_BYTES = 8


def read_head(fs: FileSystem, directory: Path, schema: int) -> tuple[SegmentFile, Scan]:
    """The last segment and where it ends, without the ones before it.

    Raises JournalCorruptError, JournalUnsupportedError, OSError.
    """
    with View.of(fs, directory, sys.maxsize) as view:
        files = list_segments(view, directory)
        if not files:
            raise JournalCorruptError(directory, 0, 0, "its newest segments are missing")
        read = partial(read_one, view, files[-1], schema, None, sealed=False)
        walked, _ = read_stable(read)
    return walked.file, walked.found


def wait_vouched(directory: Path, schema: int, *, through: int | None = None) -> int:
    """Wait until all events there are now are vouched for, if a daemon may be about to do that.

    So a tool shows every event that was confirmed before it was started. Returns how many events
    are still not vouched for; with `through`, of those up to that sequence. Damage is for others to
    report.
    """
    fs = OsFileSystem()
    deadline = time.monotonic() + _MARKED_SECONDS
    try:
        file, found = read_head(fs, directory, schema)
        vouched = found.vouched[0]
        wanted = found.next_sequence - 1
        if through is not None:
            wanted = min(wanted, through)
        while wanted > vouched and not _is_followed(fs, directory, file, found.offset):
            quiet = time.time() - file.path.stat().st_mtime > _MARKED_SECONDS
            if quiet or time.monotonic() > deadline:
                return wanted - vouched
            time.sleep(_PAUSE_SECONDS)
    except (JournalError, OSError):
        # Also if it was sealed and moved meanwhile: then all of it is vouched for.
        return 0
    return 0


def _is_followed(fs: FileSystem, directory: Path, file: SegmentFile, offset: int) -> bool:
    """Whether anything was begun behind the frames that end at `offset` of the last segment."""
    if list_segments(fs, directory)[-1:] != [file]:
        return True
    return any(read_part(fs, file.path, offset, _BEGUN_BYTES))


def newest_segment_bytes(directory: Path, schema: int, default: int) -> int:
    """The size of the newest segment, which the next ones have too.

    `default` if its header cannot be read: opening the journal reports the fault. Raises
    JournalCorruptError for a file `*.seg` that is not named like a segment, OSError.
    """
    fs = OsFileSystem()
    files = list_segments(fs, directory)
    try:
        return read_header(fs, files[-1], schema).segment_bytes
    except (IndexError, ValueError):
        return default
