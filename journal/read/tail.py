"""The end of a journal that is written to: what is there, and what is known to be on disk.

An event is vouched for when something follows it; a daemon that lives marks the end of a silence.
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

#: A daemon that lives marks the end of a silence after half a second.
_MARKED_SECONDS = 1.5
_PAUSE_SECONDS = 0.02
#: Of a frame, as much as tells it from what was never written: its magic is not zero.
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
    """Wait until all that there is now is vouched for, if a daemon may be about to do that.

    So what was answered before a tool was started is shown by it. Returns how many events are not
    vouched for even then; with `through`, of those up to that sequence. What is wrong with the
    journal is for others to tell.
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
        # Also where it was sealed and moved meanwhile: then all of it is vouched for.
        return 0
    return 0


def _is_followed(fs: FileSystem, directory: Path, file: SegmentFile, offset: int) -> bool:
    """Whether anything was begun behind the frames that end at `offset` of the last segment."""
    if list_segments(fs, directory)[-1:] != [file]:
        return True
    return any(read_part(fs, file.path, offset, _BEGUN_BYTES))


def newest_segment_bytes(directory: Path, schema: int, default: int) -> int:
    """The size of the newest segment, which is that of the next ones too.

    `default` if its header does not tell: opening the journal says what is the matter. Raises
    JournalCorruptError for a name that is no segment's, OSError.
    """
    fs = OsFileSystem()
    files = list_segments(fs, directory)
    try:
        return read_header(fs, files[-1], schema).segment_bytes
    except (IndexError, ValueError):
        return default
