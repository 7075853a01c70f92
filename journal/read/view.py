"""A view of a journal as it was at one moment, whatever happens to its files meanwhile.

A compaction moves segments into the archive, an order to prune removes them from there, a repair
replaces one file by another. But an open file can be read whatever becomes of its
name. So a view opens all files that it lists, and readers read through it: a file that is missing
from a view was missing when it was made. The journal says whether that was ordered.

Names are read one after the other, so one list may have a new name and lack an older one. If a
second list has nothing new, the two have all files that were there when the first ended.
"""

from __future__ import annotations

import contextlib
import errno
import resource
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from journal.format.segments import ARCHIVE_NAME, list_archive, list_segments
from journal.format.snapshot import list_snapshots
from journal.fs import FileSystem, ReadOnlyFileSystem

#: Files held open at a time: a process may usually open twice as many.
HELD_MAX = 512
#: Lists until one has nothing new; a journal's files change a few times a minute at most.
_LOOKS_MAX = 20


class View(ReadOnlyFileSystem):
    """A file system on which the journal in `directory` stands still: see `of`.

    Once it is made, its snapshots and segments are open, also in the archive, and it has all that
    were there at one moment. Later files are not in it, only later events in its last segment. If
    there are more than HELD_MAX files, the newest of the archive are opened only when they are
    read: a prune removes the oldest first. Other files, such as indexes, are read as they are.
    Nothing is locked or changed.

    Raises OSError, JournalCorruptError for a file `*.seg` that is not named like a segment.
    """

    def __init__(self, directory: Path, disk: FileSystem, start: int | None = None) -> None:
        """With `start`, only the segments from that sequence on are held."""
        self.directory = directory
        #: For writes beside the view.
        self.disk = disk
        self._start = start
        self._held: dict[Path, int] = {}
        self._descriptors: set[int] = set()
        self._names: dict[Path, list[str]] = {}

    @classmethod
    @contextlib.contextmanager
    def of(cls, fs: FileSystem | View, directory: Path, start: int | None = None) -> Iterator[View]:
        """`fs` if it is a view already, else a new one."""
        if isinstance(fs, View):
            yield fs
            return
        view = cls(directory, fs, start)
        try:
            view._look()
            yield view
        finally:
            view._release()

    def _release(self) -> None:
        self._held.clear()
        while self._descriptors:
            self.disk.close(self._descriptors.pop())

    def list_directory(self, path: Path) -> list[str]:
        """See ReadOnlyFileSystem."""
        return self._names[path] if path in self._names else self.disk.list_directory(path)

    def open(self, path: Path) -> int:
        """See ReadOnlyFileSystem."""
        return self._held[path] if path in self._held else self.disk.open(path)

    def close(self, fd: int) -> None:
        """See ReadOnlyFileSystem."""
        if fd not in self._descriptors:
            self.disk.close(fd)

    def size(self, fd: int) -> int:
        """See ReadOnlyFileSystem."""
        return self.disk.size(fd)

    def read(self, fd: int, size: int, offset: int) -> bytes:
        """See ReadOnlyFileSystem."""
        return self.disk.read(fd, size, offset)

    def _look(self) -> None:
        """Open the listed files, until no file is new and only pruned ones are gone."""
        self._names = self._list()
        for _ in range(_LOOKS_MAX):
            self._release()
            listed = self._files()
            lost = {path for path in self._wanted() if not self._hold(path)}
            names, self._names = self._names, self._list()
            now = self._files()
            # A name that leads nowhere is reported when it is read.
            lost = {path for path in lost if path.name not in now}
            archive = self.directory / ARCHIVE_NAME
            if now <= listed and all(path.parent == archive for path in lost):
                # The order to prune was given before, so it is in the listed segments.
                last = max((path.name for path in lost), default="")
                self._names = names | {archive: [name for name in names[archive] if name > last]}
                return
        raise FileNotFoundError(
            errno.ENOENT, "its files are moved away all the time", str(self.directory)
        )

    def _list(self) -> dict[Path, list[str]]:
        archive = self.directory / ARCHIVE_NAME
        names = {self.directory: self.disk.list_directory(self.directory), archive: []}
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            names[archive] = self.disk.list_directory(archive)
        return names

    def _files(self) -> set[str]:
        """The listed names of snapshots and segments."""
        names = chain.from_iterable(self._names.values())
        return {name for name in names if name.endswith((".snap", ".seg", ".zst"))}

    def _wanted(self) -> list[Path]:
        """The files to hold. The oldest segments, which are removed first, are opened last.

        So if one of them is gone, those before it are as well: a prune removes them in order.
        """
        live = list_segments(self, self.directory)
        archived = list_archive(self, self.directory)
        if self._start is not None:
            firsts = [file.first_sequence for file in (*archived, *live)]
            first = max((first for first in firsts if first <= self._start), default=0)
            live = [file for file in live if file.first_sequence >= first]
            archived = [file for file in archived if file.first_sequence >= first]
        wanted = [file.path for file in list_snapshots(self, self.directory)]
        wanted += (file.path for file in reversed(live))
        room = min(HELD_MAX, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
        oldest = archived[: max(0, room - len(wanted))]
        return [*wanted[:room], *(file.path for file in reversed(oldest))]

    def _hold(self, path: Path) -> bool:
        """Open a file; False if it is gone."""
        try:
            self._held[path] = self.disk.open(path)
            self._descriptors.add(self._held[path])
        except FileNotFoundError:
            return False
        except OSError:
            pass  # readers of it get the same error and report it
        return True
