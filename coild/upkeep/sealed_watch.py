"""Tells when a file of the journal is changed that the daemon itself leaves as it is.

Sealed segments, archived ones and snapshots are what history and the next start are made of. The
daemon answers by its memory and the segment that it writes, so a change of the others takes nothing
from what was answered: it goes on, for to end would only bring the start sooner that may be
refused. But its operator should know before that. A compaction changes these files, too, so what is
found while one is at work is taken as it is.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from coild.process.threads import WorkerThread

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
#: A file that is written over changes no name: so many looks may see only whether names changed.
_QUICK_LOOKS = 9
_NAME = re.compile(r"[0-9]{20}\.(seg|snap|seg\.zst)")
_SEGMENT = ".seg"
_TOLD_MAX = 3


class _File(NamedTuple):
    """Which file it is, and its size."""

    device: int
    inode: int
    size: int


class _Directory:
    """One directory, listed anew only if a name in it changed, or after a while."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed: tuple[int, int, int] | None = None
        self._quick_looks = 0
        self._found: dict[Path, _File] = {}

    def scan(self) -> dict[Path, _File]:
        """The files in it that nothing changes; what cannot be looked at is as it was."""
        try:
            found = self._path.stat()
            changed = (found.st_dev, found.st_ino, found.st_mtime_ns)
            if changed == self._changed and self._quick_looks < _QUICK_LOOKS:
                self._quick_looks += 1
                return self._found
            # The time from before: what changes meanwhile is seen by the next look.
            self._found, self._changed, self._quick_looks = self._list(), changed, 0
        except (FileNotFoundError, NotADirectoryError):
            self._found, self._changed = {}, None
        except OSError:
            pass
        return self._found

    def _list(self) -> dict[Path, _File]:
        files: dict[Path, _File] = {}
        with os.scandir(self._path) as entries:
            for entry in entries:
                if _NAME.fullmatch(entry.name):
                    try:
                        found = entry.stat()
                    except FileNotFoundError:
                        continue
                    file = _File(found.st_dev, found.st_ino, found.st_size)
                    files[self._path / entry.name] = file
        return files


class SealedWatch:
    """Looks once a second at the files of a journal that nothing changes."""

    def __init__(self, directory: Path, generation: Callable[[], int]) -> None:
        """`generation` is another number after each compaction, and odd while one is at work."""
        self._directory = directory
        self._generation = generation
        self._directories = (_Directory(directory), _Directory(directory / "archive"))
        self._thread = WorkerThread("sealed-watch")
        # Not later: once the daemon serves, it starts no thread.
        self._thread.start()
        self._known: dict[Path, _File] = {}
        self._known_at = -1
        self._told: dict[Path, str] = {}
        #: What was changed, and what to do; empty if nothing was.
        self.reason = ""

    async def run(self) -> None:
        """Look at the files once a second, for as long as the daemon runs."""
        try:
            while True:
                await self.look()
                await asyncio.sleep(_LOOK_SECONDS)
        finally:
            self._thread.end()

    async def look(self) -> None:
        """Compare the files with what they were, and tell of those that were changed."""
        before = self._generation()
        found = await self._thread.submit(self._scan)
        if before % 2 or before != self._generation():
            return
        if before == self._known_at:
            self._log_changes(self._compare(found))
        else:
            self._known, self._known_at = {}, before
            self._log_changes({})
        self._known = found | self._known

    def _scan(self) -> dict[Path, _File]:
        archived = self._directories[1].scan()
        # The newest one is being written, and the journal looks after it.
        live = self._directories[0].scan()
        segments = [path for path in live if path.suffix == _SEGMENT]
        open_one = max(segments, default=None)
        return archived | {path: file for path, file in live.items() if path != open_one}

    def _compare(self, found: dict[Path, _File]) -> dict[Path, str]:
        """The change of each file that is not as it was."""
        changed = {}
        for path, known in self._known.items():
            now = found.get(path)
            if now is None:
                changed[path] = "was removed"
            elif now[:2] != known[:2]:
                changed[path] = "was replaced"
            elif now != known:
                changed[path] = f"has {now.size} bytes instead of {known.size}"
        return changed

    def _log_changes(self, changed: dict[Path, str]) -> None:
        if changed == self._told:
            return
        names = [f"{path} {what}" for path, what in sorted(changed.items())]
        if len(names) > _TOLD_MAX:
            names[_TOLD_MAX:] = [f"and so on, {len(changed)} files"]
        self.reason = (
            f"beside this daemon, {'; '.join(names)}: what was answered is safe while it runs, but "
            "history may be lost, and the next start be refused: put back what was there, and run "
            f"coild-verify --journal {self._directory} before you stop it"
            if changed
            else ""
        )
        if changed.keys() - self._told.keys():
            logger.error("%s", self.reason)
        elif not changed:
            logger.info("the files of the journal are taken as they are now")
        self._told = changed
