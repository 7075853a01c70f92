"""The disks that a crash leaves: every one that a real disk could, or a sample where they are many.

All data that was flushed is there. Of the rest, each piece is kept or lost:

- A write falls into sectors. Each is kept, lost (what is durable stays, zeros where the file had
  grown) or garbage; but of a sector only the bytes that were written.
- A file whose length changed may have its old length, its new one, or one in between.
- A name that was made, changed or removed has its old state or its new one; a rename is atomic.

Files whose content does not matter (temporary ones, indexes, locks) are not varied together with
the others: that would give many disks that are all alike.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import NamedTuple

from tests.crash.simulated.disk import SimulatedDisk
from tests.crash.simulated.fates import Bounds, Content, contents_of, sectors
from tests.crash.simulated.inodes import Directory, File, Node, Tree, Write, applied, rename

DIGEST_BYTES = 8

#: Names of files that recovery does not read: what is in them must not matter.
UNREAD = re.compile(r"LOCK|.*\.tmp|.*\.idx|.*\.torn-\d+")


class State(NamedTuple):
    """A disk that a crash leaves, and the fates of the pieces."""

    choice: str
    disk: SimulatedDisk
    digest: bytes


class _Dirty(NamedTuple):
    """The possible contents of a file that was not flushed, and whether recovery reads it."""

    contents: list[Content]
    unread: bool


def states(disk: SimulatedDisk, choice: random.Random, bounds: Bounds) -> Iterator[State]:
    """The disks that a crash at this moment leaves, each once."""
    seen: set[bytes] = set()
    for name, killed in kills(disk):
        digest = tree_digest({"live": killed.tree(), "durable": killed.durable_tree()})
        if digest not in seen:
            seen.add(digest)
            yield State(name, killed, digest)
    for name, left in _power_cuts(disk, choice, bounds):
        digest = tree_digest(left)
        if digest not in seen:
            seen.add(digest)
            yield State(name, SimulatedDisk.holding(left), digest)


def tree_digest(tree: Tree) -> bytes:
    """A digest that identifies a tree."""
    digest = blake2b(digest_size=DIGEST_BYTES)
    for name, content in sorted(tree.items()):
        digest.update(name.encode() + b"\0")
        digest.update(
            b"f" + _content_digest(content)
            if isinstance(content, bytes)
            else b"d" + tree_digest(content)
        )
    return digest.digest()


@functools.lru_cache(maxsize=1 << 12)
def _content_digest(content: bytes) -> bytes:
    return blake2b(content, digest_size=DIGEST_BYTES).digest()


def kills(disk: SimulatedDisk) -> Iterator[tuple[str, SimulatedDisk]]:
    """The disks that `kill -9` leaves: all writes; of the last one perhaps only its beginning."""
    yield "killed", disk.clone()
    if disk.written is None:
        return
    write = disk.written.pending[-1]
    assert isinstance(write, Write)
    for offset, _ in sectors(write)[1:]:
        copy = disk.clone()
        file = copy.written
        assert file is not None
        file.pending[-1] = Write(write.offset, write.data[: offset - write.offset])
        file.live = file.durable
        for change in file.pending:
            file.live = applied(file.live, change)
        yield f"killed in the write, {offset - write.offset} bytes in", copy


def _power_cuts(
    disk: SimulatedDisk, choice: random.Random, bounds: Bounds
) -> Iterator[tuple[str, Tree]]:
    variants: dict[tuple[int, bool], list[Content]] = {}

    def contents(name: str, file: File) -> _Dirty:
        unread = UNREAD.fullmatch(name) is not None
        key = id(file), unread
        if key not in variants:
            variants[key] = contents_of(file, choice, bounds, unread=unread)
        return _Dirty(variants[key], unread)

    changes = sorted(change.number for place in _places(disk.root) for change in place.pending)
    for kept in _subsets(changes, choice, bounds):
        files = list(_files(disk.root, kept, ()))
        names = f"names {len(kept)} of {len(changes)}"
        if len(kept) < len(changes):
            names += f" ({', '.join(str(changes.index(number)) for number in sorted(kept))})"
        dirty = [(path, contents(path[-1], file)) for path, file in files if file.pending]
        empty = _tree(disk.root, kept)
        for fates in _combined([found for _, found in dirty], choice, bounds):
            tree = _copied(empty)
            for (path, _), content in zip(dirty, fates, strict=True):
                _put(tree, path, content.data)
            told = [
                f"{path[-1]}: {fate.fate}" for (path, _), fate in zip(dirty, fates, strict=True)
            ]
            yield "; ".join((names, *told)), tree


def _places(root: Directory) -> list[Directory]:
    """All directories, also removed ones."""
    found = {id(root): root}
    queue = [root]
    for place in queue:
        nodes = (
            *place.live.values(),
            *place.durable.values(),
            *(change.node for change in place.pending),
        )
        for node in nodes:
            if isinstance(node, Directory) and id(node) not in found:
                found[id(node)] = node
                queue.append(node)
    return list(found.values())


def _names(directory: Directory, kept: frozenset[int]) -> dict[str, Node]:
    names = dict(directory.durable)
    for change in directory.pending:
        if change.number in kept:
            rename(names, change)
    return names


def _files(
    directory: Directory, kept: frozenset[int], path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], File]]:
    for name, node in _names(directory, kept).items():
        if isinstance(node, File):
            yield (*path, name), node
        else:
            yield from _files(node, kept, (*path, name))


def _tree(directory: Directory, kept: frozenset[int]) -> Tree:
    return {
        name: node.durable if isinstance(node, File) else _tree(node, kept)
        for name, node in _names(directory, kept).items()
    }


def _copied(tree: Tree) -> Tree:
    return {
        name: content if isinstance(content, bytes) else _copied(content)
        for name, content in tree.items()
    }


def _put(tree: Tree, path: tuple[str, ...], data: bytes) -> None:
    *directories, name = path
    for directory in directories:
        inner = tree[directory]
        assert not isinstance(inner, bytes)
        tree = inner
    tree[name] = data


def _subsets(
    numbers: Sequence[int], choice: random.Random, bounds: Bounds
) -> Iterator[frozenset[int]]:
    """Which changes of names are kept: all subsets, or prefixes, holes, survivors and samples."""
    if 2 ** len(numbers) <= bounds.names_max:
        for size in range(len(numbers), -1, -1):
            yield from map(frozenset, itertools.combinations(numbers, size))
        return
    everything = frozenset(numbers)
    found = [frozenset(numbers[:end]) for end in range(len(numbers), -1, -1)]
    found += [everything - {number} for number in numbers]
    found += [frozenset({number}) for number in numbers]
    found += [
        frozenset(number for number in numbers if choice.random() < 0.5)
        for _ in range(bounds.names_max)
    ]
    yield from dict.fromkeys(found)


def _combined(
    dirty: Sequence[_Dirty], choice: random.Random, bounds: Bounds
) -> Iterator[tuple[Content, ...]]:
    """A content for each file: all combinations, or each of each file beside some of the others.

    Files that nobody reads have anything beside those that are read.
    """
    yield tuple(found.contents[0] for found in dirty)
    yield tuple(found.contents[-1] for found in dirty)
    varied = [number for number, found in enumerate(dirty) if not found.unread]
    combinations: Iterable[tuple[Content, ...]]
    if not varied:
        yield tuple(choice.choice(found.contents) for found in dirty)
        return
    if math.prod(len(dirty[number].contents) for number in varied) <= bounds.product_max:
        combinations = itertools.product(*(dirty[number].contents for number in varied))
    else:
        combinations = _beside([dirty[number].contents for number in varied], choice)
    for combination in combinations:
        fates = dict(zip(varied, combination, strict=True))
        yield tuple(
            fates.get(number) or choice.choice(found.contents) for number, found in enumerate(dirty)
        )


def _beside(
    files: Sequence[Sequence[Content]], choice: random.Random
) -> Iterator[tuple[Content, ...]]:
    """Each content of each file, where the others are whole, lost, or anything."""
    others: tuple[Callable[[Sequence[Content]], Content], ...] = (
        operator.itemgetter(0),
        operator.itemgetter(-1),
        choice.choice,
    )
    for varied, contents in enumerate(files):
        for content in contents:
            for other in others if len(files) > 1 else others[:1]:
                yield tuple(
                    content if number == varied else other(found)
                    for number, found in enumerate(files)
                )
