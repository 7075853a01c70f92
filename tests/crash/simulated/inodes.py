"""Files and directories that track which of their data is durable.

Contents are `bytes` that are replaced and never changed, so that copies share them.
"""

from __future__ import annotations

from typing import NamedTuple

#: The names of a directory: a file by its content, a directory by its names.
Tree = dict[str, "bytes | Tree"]


class Write(NamedTuple):
    """Bytes that were written."""

    offset: int
    data: bytes


class Length(NamedTuple):
    """A file that was cut off."""

    size: int


class File:
    """An inode: its visible content, its durable content, and the writes between the two."""

    __slots__ = ("durable", "live", "pending")

    def __init__(self, content: bytes = b"") -> None:
        self.live = self.durable = content
        self.pending: list[Write | Length] = []


class Directory:
    """Names: those that are seen, those that are durable, and the changes between the two."""

    __slots__ = ("durable", "live", "pending")

    def __init__(self) -> None:
        self.live: dict[str, Node] = {}
        self.durable: dict[str, Node] = {}
        self.pending: list[NameChange] = []


Node = File | Directory


class NameChange(NamedTuple):
    """A node that got a name, lost it (`name` is None), or got it instead of `source`."""

    number: int
    name: str | None
    source: str | None
    node: Node


def applied(content: bytes, change: Write | Length) -> bytes:
    """`content` after a change; what is beyond its end is zeros."""
    if isinstance(change, Length):
        return content[: change.size].ljust(change.size, b"\0")
    offset, data = change
    if offset > len(content):
        content = content.ljust(offset, b"\0")
    return b"".join((content[:offset], data, content[offset + len(data) :]))


def rename(names: dict[str, Node], change: NameChange) -> None:
    """Apply a change of names. A node that is moved has no other name: there are no links."""
    if change.source is not None:
        for name in [name for name, node in names.items() if node is change.node]:
            del names[name]
    if change.name is not None:
        names[change.name] = change.node


def fill(directory: Directory, tree: Tree) -> None:
    """Put a tree into an empty directory, durably."""
    for name, content in tree.items():
        node: Node
        if isinstance(content, bytes):
            node = File(content)
        else:
            node = Directory()
            fill(node, content)
        directory.live[name] = directory.durable[name] = node


def tree_of(directory: Directory, *, durable: bool) -> Tree:
    """The visible tree of a directory, or the durable one."""
    names = directory.durable if durable else directory.live
    return {
        name: (node.durable if durable else node.live)
        if isinstance(node, File)
        else tree_of(node, durable=durable)
        for name, node in names.items()
    }


def cloned(node: Node, copied: dict[int, Node]) -> Node:
    """A copy of a node and all below it; `copied` has those that were copied, by their id."""
    known = copied.get(id(node))
    if known is not None:
        return known
    if isinstance(node, File):
        file = File(node.live)
        file.durable = node.durable
        file.pending = list(node.pending)
        copied[id(node)] = file
        return file
    directory = Directory()
    copied[id(node)] = directory
    directory.live = {name: cloned(child, copied) for name, child in node.live.items()}
    directory.durable = {name: cloned(child, copied) for name, child in node.durable.items()}
    directory.pending = [
        change._replace(node=cloned(change.node, copied)) for change in node.pending
    ]
    return directory
