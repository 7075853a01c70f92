"""The end of a journal, which is shown only when something follows it."""

from __future__ import annotations

import time
from pathlib import Path

from coild.replay import VOCABULARY
from journal import JournalError, OsFileSystem
from journal.head import read_head
from tools import common

#: A daemon that lives marks the end of a silence after half a second.
_MARKED_SECONDS = 1.5
_PAUSE_SECONDS = 0.05


def wait_vouched(prog: str, directory: Path) -> None:
    """Wait until all that there is now is vouched for, if a daemon may be about to do that.

    So what was answered before a tool was started is shown by it. If it is not, that is said on
    stderr. What is wrong with the journal is for others to tell.
    """
    wanted: int | None = None
    deadline = time.monotonic() + _MARKED_SECONDS
    while True:
        try:
            file, found = read_head(OsFileSystem(), directory, VOCABULARY.schema)
            quiet = time.time() - file.path.stat().st_mtime > _MARKED_SECONDS
        except (JournalError, OSError):
            return
        if wanted is None:
            wanted = found.next_sequence - 1
        if (left := wanted - found.vouched[0]) <= 0:
            return
        if quiet or time.monotonic() > deadline:
            break
        time.sleep(_PAUSE_SECONDS)
    what = "1 event is" if left == 1 else f"{left} events are"
    common.notice(
        prog,
        f"{what} at the end of {directory} and not vouched for yet, so left out: coild was killed, "
        "or is waiting for the disk; its next start, or the end of the wait, shows them",
    )
