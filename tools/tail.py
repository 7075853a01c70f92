"""The end of a journal, which is shown only when something follows it."""

from __future__ import annotations

import time
from pathlib import Path

from coild.vocabulary import VOCABULARY
from journal import JournalError, OsFileSystem
from journal.format.segments import SegmentFile, list_segments, read_part
from journal.fs import FileSystem
from journal.read.head import read_head
from tools import common

#: A daemon that lives marks the end of a silence after half a second.
_MARKED_SECONDS = 1.5
_PAUSE_SECONDS = 0.02
#: Of a frame, as much as tells it from what was never written: its magic is no zero.
_BEGUN_BYTES = 8


def tell_unvouched(prog: str, directory: Path, *, through: int | None = None) -> None:
    """Wait as `wait_vouched`, and say on stderr what is still left out then."""
    if left := wait_vouched(directory, through=through):
        say_unvouched(prog, directory, left)


def say_unvouched(prog: str, directory: Path, left: int) -> None:
    """Say on stderr that so many events are left out, and why."""
    events, them = ("1 event", "it") if left == 1 else (f"{left} events", "them")
    common.notice(
        prog,
        f"{events} at the end of {directory} left out: written, but not known to be on disk yet; "
        "coild was killed, or is waiting for the disk: its next start, or the end of the wait, "
        f"shows {them}",
    )


def wait_vouched(directory: Path, *, through: int | None = None) -> int:
    """Wait until all that there is now is vouched for, if a daemon may be about to do that.

    So what was answered before a tool was started is shown by it. Returns how many events are not
    vouched for even then; with `through`, of those up to that sequence. What is wrong with the
    journal is for others to tell.
    """
    fs = OsFileSystem()
    deadline = time.monotonic() + _MARKED_SECONDS
    try:
        file, found = read_head(fs, directory, VOCABULARY.schema)
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
