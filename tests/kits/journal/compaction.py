"""What the tests of archive, snapshots, indexes and compaction share.

A state that is folded from the events of `journal_kit`, journals with sealed segments, and a disk
that is gone after a number of changes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from journal import (
    Journal,
    Keys,
    Prepared,
    Recovered,
    Retired,
    Snapshot,
    Vocabulary,
    prepare,
    retire,
)
from journal.format.snapshot import state_digest
from journal.fs import FileSystem
from tests.kits.journal.building import SCHEMA, SEGMENT_BYTES, Event, FastFileSystem, Put, opened

FS = FastFileSystem()
NOW = 10**18


def _keys_of(event: Any) -> Iterable[bytes]:
    keys = [b"k" + event.key.encode()]
    if isinstance(event, Put) and event.value:
        keys.append(b"v" + event.value[:1])
    return keys


#: The key of events that vouch for indexes, where there are any.
_INDEXES = "indexes"


def index_record(made: Mapping[int, bytes]) -> Put:
    """The event that vouches for indexes with these digests."""
    return Put(_INDEXES, msgspec.msgpack.encode(made))


def _digests_of(event: Any) -> Mapping[int, bytes]:
    if isinstance(event, Put) and event.key == _INDEXES:
        return msgspec.msgpack.decode(event.value, type=dict[int, bytes])
    return {}


KEYS = Keys(_keys_of, version=1)
#: The same, of journals whose events vouch for indexes: others do not count.
VOUCHED_KEYS = Keys(_keys_of, version=1, digests_of=_digests_of)
VOCABULARY = Vocabulary(schema=SCHEMA, event_type=Event, folded_type=Event, keys=KEYS)


class State:
    """The last value of each key, and how many events made it."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.count = 0

    def restore(self, snapshot: Snapshot | None) -> None:
        """Become the state of a snapshot, or the empty one."""
        self.values, self.count = {}, 0
        if snapshot is not None:
            self.values, self.count = msgspec.msgpack.decode(
                snapshot.state, type=tuple[dict[str, bytes], int]
            )

    def apply_all(self, events: Sequence[Any]) -> None:
        """Apply the next events."""
        for event in events:
            if isinstance(event, Put):
                self.values[event.key] = event.value
            else:
                self.values.pop(event.key, None)
            self.count += 1

    def dump(self) -> bytes:
        """The state, its keys in order."""
        return msgspec.msgpack.encode((dict(sorted(self.values.items())), self.count))

    @property
    def digest(self) -> str:
        """Names the state."""
        return state_digest(self.dump()).hex()

    @property
    def time(self) -> int:
        """Events have no time here: their number stands in for it."""
        return self.count


def state_of(events: Sequence[Any]) -> State:
    """The state after `events`."""
    state = State()
    state.apply_all(events)
    return state


class Reopened(NamedTuple):
    """What the daemon would have after a start."""

    state: State
    recovered: Recovered


def reopen(directory: Path, *, schema: int = SCHEMA, fs: FileSystem = FS) -> Reopened:
    """Open the journal as its writer, beginning with a snapshot if there is one, and close it."""
    state = State()
    journal = Journal.open(
        directory,
        Event,
        schema=schema,
        replay=state.apply_all,
        restore=state.restore,
        segment_bytes=SEGMENT_BYTES,
        fs=fs,
    )
    asyncio.run(journal.close())
    return Reopened(state, journal.recovered)


def write_sealed(
    directory: Path,
    events: Sequence[Any],
    *,
    batch: int = 10,
    segment_bytes: int = SEGMENT_BYTES,
    clock: Callable[[], int] = lambda: NOW,
) -> int:
    """Append `events` in frames of `batch`, and seal; the last sequence that is sealed."""
    with opened(directory, segment_bytes=segment_bytes, clock=clock) as journal:
        for start in range(0, len(events), batch):
            journal.append(events[start : start + batch])
        return journal.log.seal()


def prepared(directory: Path, through: int, fs: FileSystem = FS) -> Prepared:
    """Run the first step of a compaction."""
    return prepare(fs, directory, through, VOCABULARY, State(), now=NOW)


def compact(directory: Path, through: int, fs: FileSystem = FS) -> tuple[Prepared, Retired]:
    """Run a whole compaction, without the records of it."""
    return prepared(directory, through, fs), retire(fs, directory, SCHEMA)


def archived(directory: Path) -> list[Path]:
    """The archived segments, oldest first."""
    return sorted((directory / "archive").glob("*.seg.zst"))


def snapshots(directory: Path) -> list[Path]:
    """The snapshots, newest first."""
    return sorted(directory.glob("*.snap"), reverse=True)


def tree(directory: Path) -> dict[str, bytes]:
    """Every file below `directory` with its bytes."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def put_tree(directory: Path, files: dict[str, bytes]) -> None:
    """Make `directory`, which must not be there, hold exactly `files`."""
    directory.mkdir()
    for name, data in files.items():
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)


class CrashError(BaseException):
    """The process is gone: nothing may catch it."""


class CrashingFileSystem(FastFileSystem):
    """A disk that makes so many changes, half of one more if it is a write, and none after that.

    `tree` of the directory is then what `kill -9` leaves; `power_cut` what is left if only that
    survives which was flushed.
    """

    def __init__(self, directory: Path, changes: int) -> None:
        self.left = changes
        self._directory = directory
        self._descriptors: dict[int, int] = {}
        self._contents: dict[int, bytes] = {}
        self._names: dict[Path, dict[str, int]] = {}
        for path in (directory, *(path for path in directory.iterdir() if path.is_dir())):
            for child in path.iterdir():
                if child.is_file():
                    self._contents[self._inode(child)] = child.read_bytes()
            self._remember(path)

    @property
    def crashed(self) -> bool:
        """Whether it came to that."""
        return self.left < 0

    def close_all(self) -> None:
        """Let go of the files that were held for `power_cut`."""
        for fd in self._descriptors.values():
            os.close(fd)

    def power_cut(self) -> dict[str, bytes]:
        """What was flushed: names and bytes."""
        return {
            str((directory / name).relative_to(self._directory)): self._contents.get(inode, b"")
            for directory, names in self._names.items()
            if directory == self._directory or directory.name in self._names[self._directory]
            for name, inode in names.items()
            if inode
        }

    def make_directory(self, path: Path) -> None:
        """See FileSystem."""
        self._change()
        super().make_directory(path)

    def sync_directory(self, path: Path) -> None:
        """See FileSystem."""
        self._change()
        if self._directory in {path, path.parent}:
            self._remember(path)

    def create(self, path: Path) -> int:
        """See FileSystem."""
        self._change()
        return super().create(path)

    def open(self, path: Path, *, write: bool = False, create: bool = False) -> int:
        """See FileSystem."""
        if create:
            self._change()
        return super().open(path, write=write, create=create)

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        """See FileSystem."""
        try:
            self._change()
        except CrashError:
            if self.left == -1:
                super().write(fd, data[: len(data) // 2], offset)
            raise
        super().write(fd, data, offset)

    def sync(self, fd: int) -> None:
        """See FileSystem."""
        self._change()
        self._contents[os.fstat(fd).st_ino] = os.pread(fd, os.fstat(fd).st_size, 0)

    def sync_data(self, fd: int) -> None:
        """See FileSystem."""
        self.sync(fd)

    def rename(self, source: Path, target: Path) -> None:
        """See FileSystem."""
        self._change()
        super().rename(source, target)

    def remove(self, path: Path) -> None:
        """See FileSystem."""
        self._change()
        super().remove(path)

    def _change(self) -> None:
        self.left -= 1
        if self.crashed:
            raise CrashError

    def _remember(self, path: Path) -> None:
        self._names[path] = {
            child.name: self._inode(child) if child.is_file() else 0 for child in path.iterdir()
        }

    def _inode(self, path: Path) -> int:
        """The file's inode number, which no other file gets while it is held open."""
        inode = path.stat().st_ino
        if inode not in self._descriptors:
            self._descriptors[inode] = os.open(path, os.O_RDONLY)
        return inode


def crash_images(directory: Path, work: Callable[[Path, FileSystem], object]) -> list[Path]:
    """Copies of `directory` as `work` leaves them if it ends after each number of changes."""
    before = tree(directory)
    images: list[Path] = []
    for changes in range(10_000):
        copy = directory.with_name(f"{directory.name}-{changes}")
        put_tree(copy, before)
        fs = CrashingFileSystem(copy, changes)
        try:
            work(copy, fs)
        except CrashError:
            images.append(copy)
            cut = copy.with_name(f"{copy.name}-cut")
            put_tree(cut, fs.power_cut())
            images.append(cut)
        else:
            return images
        finally:
            fs.close_all()
    raise AssertionError("the work never ends")
