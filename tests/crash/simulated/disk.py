"""A disk in memory that tracks which of its data is durable.

For every file it has the content that a process sees, the durable content, and the writes in
between; for every directory the same with names. Only a flush makes data durable: flushing a file
does not flush its name, and flushing the directory does not flush the file's content.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Self

from journal.fs import Identity
from tests.crash.simulated.inodes import (
    Directory,
    File,
    Length,
    NameChange,
    Node,
    Tree,
    Write,
    applied,
    cloned,
    fill,
    rename,
    tree_of,
)

__all__ = ["SimulatedDisk", "Tree"]


class _Open(NamedTuple):
    file: File
    write: bool


class SimulatedDisk:
    """A `journal.fs.FileSystem` in memory, with one directory `/` that is durable."""

    def __init__(self) -> None:
        self.root = Directory()
        #: Called before each call that changes anything or flushes, with a text that names it.
        self.before: Callable[[str], None] | None = None
        #: The file whose last write was the last change of all, if it was a write.
        self.written: File | None = None
        self._open: dict[int, _Open] = {}
        self._open_directories: dict[int, Directory] = {}
        self._locks: dict[int, int] = {}
        self._fd = 2
        self._number = 0

    @classmethod
    def holding(cls, tree: Tree) -> Self:
        """A disk with exactly `tree`, all of it durable."""
        disk = cls()
        fill(disk.root, tree)
        return disk

    def clone(self) -> Self:
        """The disk as it is after the process was killed: no descriptor, no lock."""
        copy = type(self)()
        copied: dict[int, Node] = {}
        copy.root = cloned(self.root, copied)  # type: ignore[assignment]
        copy._number = self._number
        if self.written is not None and id(self.written) in copied:
            copy.written = copied[id(self.written)]  # type: ignore[assignment]
        return copy

    def tree(self) -> Tree:
        """The tree that a process sees."""
        return tree_of(self.root, durable=False)

    def durable_tree(self) -> Tree:
        """The tree that is left if only flushed data survives."""
        return tree_of(self.root, durable=True)

    def make_directory(self, path: Path) -> None:
        """See FileSystem."""
        self._enter("make_directory", path.name)
        parent, name = self._parent(path)
        if name not in parent.live:
            self._name(parent, name, None, Directory())

    def list_directory(self, path: Path) -> list[str]:
        """See FileSystem."""
        return list(self._directory(path).live)

    def sync_directory(self, path: Path) -> None:
        """See FileSystem."""
        self._enter("sync_directory", path.name)
        directory = self._directory(path)
        directory.durable = dict(directory.live)
        directory.pending.clear()

    def create(self, path: Path) -> int:
        """See FileSystem."""
        fd = self._opened(path, write=True, create=True, call="create")
        file = self._at(fd).file
        if file.live:
            file.live = b""
            file.pending.append(Length(0))
        return fd

    def open(self, path: Path, *, write: bool = False, create: bool = False) -> int:
        """See FileSystem."""
        return self._opened(path, write=write, create=create, call="open")

    def open_directory(self, path: Path) -> int:
        """See FileSystem."""
        directory = self._directory(path)
        self._fd += 1
        self._open_directories[self._fd] = directory
        return self._fd

    def identity(self, fd: int) -> Identity:
        """See FileSystem."""
        return Identity(0, id(self._node(fd)))

    def look_up(self, path: Path) -> tuple[Identity, int]:
        """See FileSystem."""
        parent, name = self._parent(path)
        node = parent.live.get(name) if name else parent
        if node is None:
            raise _error(errno.ENOENT, path)
        return Identity(0, id(node)), len(node.live) if isinstance(node, File) else 0

    def close(self, fd: int) -> None:
        """See FileSystem."""
        node = self._node(fd)
        self._open.pop(fd, None)
        self._open_directories.pop(fd, None)
        if self._locks.get(id(node)) == fd:
            del self._locks[id(node)]

    def size(self, fd: int) -> int:
        """See FileSystem."""
        return len(self._at(fd).file.live)

    def names(self, fd: int) -> int:
        """See FileSystem."""
        return _count(self.root, self._at(fd).file)

    def read(self, fd: int, size: int, offset: int) -> bytes:
        """See FileSystem."""
        # A slice of all is no copy.
        return self._at(fd).file.live[offset : offset + size]

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        """See FileSystem."""
        file, writable = self._at(fd)
        if not writable:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        self._enter("write", f"{self._name_of(file)} {offset}+{len(data)}")
        if not data:
            return
        change = Write(offset, bytes(data))
        file.live = applied(file.live, change)
        file.pending.append(change)
        self.written = file

    def sync(self, fd: int) -> None:
        """See FileSystem."""
        file = self._at(fd).file
        self._enter("sync", self._name_of(file))
        file.durable = file.live
        file.pending.clear()

    def sync_data(self, fd: int) -> None:
        """See FileSystem."""
        self.sync(fd)

    def rename(self, source: Path, target: Path) -> None:
        """See FileSystem. Within one directory only: the journal asks for no more."""
        self._enter("rename", f"{source.name} {target.name}")
        parent, name = self._parent(source)
        if name not in parent.live:
            raise _error(errno.ENOENT, source)
        node = parent.live[name]
        other, new = self._parent(target)
        if other is not parent:
            raise _error(errno.EXDEV, target)
        replaced = parent.live.get(new)
        if replaced is node:
            return
        if isinstance(replaced, Directory):
            if not isinstance(node, Directory):
                raise _error(errno.EISDIR, target)
            if replaced.live:
                raise _error(errno.ENOTEMPTY, target)
        elif replaced is not None and isinstance(node, Directory):
            raise _error(errno.ENOTDIR, target)
        self._name(parent, new, name, node)

    def remove(self, path: Path) -> None:
        """See FileSystem."""
        self._enter("remove", path.name)
        parent, name = self._parent(path)
        if name not in parent.live:
            raise _error(errno.ENOENT, path)
        node = parent.live[name]
        if isinstance(node, Directory):
            raise _error(errno.EISDIR, path)
        self._name(parent, None, name, node)

    def lock(self, fd: int) -> bool:
        """See FileSystem."""
        return self._locks.setdefault(id(self._node(fd)), fd) == fd

    def _enter(self, call: str, what: str) -> None:
        if self.before is not None:
            self.before(f"{call} {what}")
        self.written = None

    def _opened(self, path: Path, *, write: bool, create: bool, call: str) -> int:
        parent, name = self._parent(path)
        node = parent.live.get(name) if name else parent
        if create:
            self._enter(call, name)
        if node is None:
            if not create:
                raise _error(errno.ENOENT, path)
            node = File()
            self._name(parent, name, None, node)
        elif isinstance(node, Directory):
            raise _error(errno.EISDIR, path)
        self._fd += 1
        self._open[self._fd] = _Open(node, write)
        return self._fd

    def _name(self, directory: Directory, name: str | None, source: str | None, node: Node) -> None:
        self._number += 1
        change = NameChange(self._number, name, source, node)
        rename(directory.live, change)
        directory.pending.append(change)

    def _node(self, fd: int) -> Node:
        return self._open_directories.get(fd) or self._at(fd).file

    def _at(self, fd: int) -> _Open:
        try:
            return self._open[fd]
        except KeyError:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None

    def _parent(self, path: Path) -> tuple[Directory, str]:
        """The directory that has the name of `path`, and that name; empty for the root."""
        *parts, name = path.parts
        directory = self.root
        for part in parts[1:]:
            node = directory.live.get(part)
            if node is None:
                raise _error(errno.ENOENT, path)
            if not isinstance(node, Directory):
                raise _error(errno.ENOTDIR, path)
            directory = node
        return directory, name if parts else ""

    def _directory(self, path: Path) -> Directory:
        parent, name = self._parent(path)
        node = parent.live.get(name) if name else parent
        if node is None:
            raise _error(errno.ENOENT, path)
        if not isinstance(node, Directory):
            raise _error(errno.ENOTDIR, path)
        return node

    def _name_of(self, wanted: Node) -> str:
        if self.before is None:
            return ""
        places = [self.root]
        for directory in places:
            for name, node in directory.live.items():
                if node is wanted:
                    return name
                if isinstance(node, Directory):
                    places.append(node)
        return "a removed file"


def _error(code: int, path: Path) -> OSError:
    return OSError(code, os.strerror(code), str(path))


def _count(directory: Directory, file: File) -> int:
    return sum(
        _count(node, file) if isinstance(node, Directory) else node is file
        for node in directory.live.values()
    )
