"""The disks that a crash leaves, as copies on the real disk, for programs that use the real one.

There are at most three for each moment, the simplest; `states` has the others.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from journal.fs import FileSystem
from tests.crash.simulated.disk import SimulatedDisk
from tests.crash.simulated.inodes import Tree
from tests.crash.simulated.states import kills, tree_digest


def crash_images(directory: Path, work: Callable[[Path, FileSystem], object]) -> list[Path]:
    """Copies of `directory` as `work` leaves them if it ends before any of its changes.

    After a kill, there and in the middle of its last write; and after a power cut, with only the
    flushed data.
    """
    disk = SimulatedDisk.holding({directory.name: _tree_of(directory)})
    seen: dict[bytes, Path] = {}

    def crash(_call: str) -> None:
        killed, *halves = [left.tree() for _, left in kills(disk)]
        for tree in (killed, *halves[len(halves) // 2 :][:1], disk.durable_tree()):
            left = tree[directory.name]
            assert isinstance(left, dict)
            digest = tree_digest(left)
            if digest not in seen:
                seen[digest] = directory.with_name(f"{directory.name}-{len(seen)}")
                _write_tree(seen[digest], left)

    disk.before = crash
    work(Path("/", directory.name), disk)
    return list(seen.values())


def _tree_of(directory: Path) -> Tree:
    return {
        path.name: _tree_of(path) if path.is_dir() else path.read_bytes()
        for path in directory.iterdir()
    }


def _write_tree(directory: Path, tree: Tree) -> None:
    directory.mkdir()
    for name, content in tree.items():
        if isinstance(content, bytes):
            (directory / name).write_bytes(content)
        else:
            _write_tree(directory / name, content)
