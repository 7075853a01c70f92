"""Names and contents of the files of a disk."""

from __future__ import annotations

import re
from pathlib import Path

from journal.check.findings import Fault, Kind
from tests.crash.simulated.disk import SimulatedDisk
from tests.crash.simulated.inodes import Tree

#: In the name of what was set aside.
ASIDE = ".torn-"
#: Of the note of repairs it matters only what recovery made of it, which is asked for.
_NEVER_READ = re.compile(r"\.torn-|\.tmp$|^LOCK$|^repairs\.json$")
_ROOT = Path("/")


def torn_tail(disk: SimulatedDisk, faults: list[Fault]) -> tuple[str, bytes]:
    """The segment that `verify` found torn, and the unfinished write in it."""
    for fault in faults:
        if fault.kind is Kind.TORN:
            path = str(fault.file)
            return path, files_of(disk)[path][fault.offset :].rstrip(b"\0")
    return "", b""


def files_of(disk: SimulatedDisk) -> dict[str, bytes]:
    """Every file by its path, but for the lock."""
    return flat(disk.tree())


def names_of(disk: SimulatedDisk) -> set[str]:
    """All names with what they stand for, but for the lock."""
    return set(flat(disk.tree()))


def flat(tree: Tree, path: Path = _ROOT) -> dict[str, bytes]:
    """The files of a tree by their path, but for the lock."""
    found: dict[str, bytes] = {}
    for name, content in tree.items():
        if isinstance(content, bytes):
            if name != "LOCK":
                found[str(path / name)] = content
        else:
            found |= flat(content, path / name)
    return found


def changed_names(before: Tree, after: Tree) -> set[str]:
    """The files that are not the same in both trees."""
    one, other = flat(before), flat(after)
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}


def essence(tree: Tree) -> Tree:
    """A tree as far as what comes next depends on it."""
    return {
        name: (b"" if name.endswith(".idx") else content)
        if isinstance(content, bytes)
        else essence(content)
        for name, content in tree.items()
        if not _NEVER_READ.search(name)
    }
