"""Helpers for tests of archive, snapshots, indexes and compaction.

A state that is folded from the events of `building`, and journals with sealed segments.
"""

from __future__ import annotations

import asyncio
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
from tests.kits.journal.building import SCHEMA, SEGMENT_BYTES, Event, Put, opened
from tests.kits.journal.disks import FS

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
VOCABULARY = Vocabulary(schema=SCHEMA, event_type=Event, keys=KEYS)


class State:
    """The last value of each key, and how many events made it."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.count = 0

    def restore(self, snapshot: Snapshot | None) -> None:
        """Take over the state of a snapshot, or the empty state."""
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
        """A digest that identifies the state."""
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
    """The state that the daemon would have after a start."""

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
