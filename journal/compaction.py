"""Keeping a journal small and quick to start from, and its history whole.

Each step leaves a journal that opens, whatever stops it, and the next run finishes or cleans up:

1. `prepare` reads sealed segments, which never change: it writes their indexes, a snapshot of the
   state after the last of them, and a compressed copy of each in the archive. It takes nothing
   away, needs no lock of the writer's, and may run in a process of its own.
2. The writer records the snapshot.
3. `retire` removes the segments that the snapshot covers and the archive has, and old snapshots.
4. The writer records that.

`prune` is the only thing that loses history, after the writer recorded what goes.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import msgspec

from journal.archive import compress, decompress, errors_of, read_header, read_segment
from journal.beginning import find_beginning
from journal.chain import check_end, walk
from journal.codec import (
    MalformedError,
    UnsupportedError,
    decode_header,
)
from journal.errors import CompactionRunsError, JournalCorruptError
from journal.fs import FileSystem
from journal.history import opened_index, write_index
from journal.index import Keys, build_index
from journal.scan import list_decoder, scan
from journal.segments import (
    ARCHIVE_NAME,
    SegmentFile,
    archive_path,
    list_archive,
    list_segments,
    read_file,
)
from journal.snapshot import (
    TEMPORARY_NAME,
    Snapshot,
    encode_snapshot,
    list_snapshots,
    read_snapshot,
    snapshot_path,
    state_digest,
)

LOCK_NAME = "LOCK"
_TEMPORARY_SUFFIX = ".tmp"
_INDEX = re.compile(r"\d{20}\.idx")
#: What `write_index` writes to, in any process.
_TEMPORARY_INDEX = re.compile(r"\d{20}\.idx\.\d+\.tmp")
#: Should the newest one go bad, the one before it and the archive make the same state.
SNAPSHOTS_KEPT = 2
_PIECE_BYTES = 1 << 20

#: Called with the name of a step, how much of it is done, and how much there is.
StepProgress = Callable[[str, int, int], None]


class State(Protocol):
    """The caller's state, as a snapshot needs it."""

    def restore(self, snapshot: Snapshot | None) -> None:
        """Become the state of a snapshot, or the empty one. Raises ValueError."""

    def apply_all(self, events: Sequence[Any]) -> None:
        """Apply the next events."""

    def dump(self) -> bytes:
        """The state, such that equal states give equal bytes."""

    @property
    def time(self) -> int:
        """The time of the last event, in ns since the epoch."""


class Vocabulary(msgspec.Struct, frozen=True):
    """What the caller's events are, and how they are found."""

    schema: int
    event_type: Any
    #: The same events, with what the state needs of them.
    folded_type: Any
    keys: Keys


class Prepared(msgspec.Struct, frozen=True):
    """What `prepare` did. Sizes are in bytes."""

    sequence: int
    #: Of the state, in hexadecimal.
    digest: str
    snapshot_bytes: int
    #: Segments that are in the archive now and were not before.
    archived: int
    segment_bytes: int
    archive_bytes: int


class Retired(msgspec.Struct, frozen=True):
    """What `retire` removed: segments, their bytes, and snapshots."""

    segments: int
    bytes: int
    snapshots: int


def sealed_segments(
    fs: FileSystem, directory: Path, through: int | None = None
) -> list[SegmentFile]:
    """The segments of `directory` itself that have a successor there and end up to `through`."""
    files = list_segments(fs, directory)
    return [
        file
        for file, successor in pairwise(files)
        if through is None or successor.first_sequence - 1 <= through
    ]


@contextlib.contextmanager
def archive_lock(fs: FileSystem, directory: Path) -> Iterator[None]:
    """Be the only one who writes to the archive. Raises CompactionRunsError, OSError."""
    archive = directory / ARCHIVE_NAME
    fs.make_directory(archive)
    fs.sync_directory(directory)
    fd = fs.open(archive / LOCK_NAME, write=True, create=True)
    try:
        if not fs.lock(fd):
            raise CompactionRunsError(directory)
        yield
    finally:
        fs.close(fd)


def index_sealed(fs: FileSystem, directory: Path, vocabulary: Vocabulary) -> int:
    """Write the indexes that sealed segments lack; how many. Raises as `prepare`."""
    decoder = list_decoder(vocabulary.event_type)
    written = 0
    for file in sealed_segments(fs, directory):
        with errors_of(file):
            header = read_header(fs, file, vocabulary.schema)
            with opened_index(fs, file, header, vocabulary.keys) as index:
                if index is not None:
                    continue
            data = build_index(read_segment(fs, file), header, decoder, vocabulary.keys)
            write_index(fs, file.index_path, data)
            written += 1
    return written


def prepare(
    fs: FileSystem,
    directory: Path,
    through: int,
    vocabulary: Vocabulary,
    state: State,
    *,
    now: int,
    progress: StepProgress = lambda _step, _done, _total: None,
) -> Prepared:
    """Index and archive the sealed segments up to the sequence `through`; snapshot the state there.

    `through` is the last sequence of a sealed segment. Takes nothing away. On return everything is
    durable. Raises CompactionRunsError, JournalCorruptError, JournalUnsupportedError, OSError, and
    what `state` raises.
    """
    with archive_lock(fs, directory):
        _clean_up(fs, directory)
        index_sealed(fs, directory, vocabulary)
        snapshot_bytes = _snapshot(fs, directory, through, vocabulary, state, now, progress)
        sealed = sealed_segments(fs, directory, through)
        there = {file.first_sequence for file in list_archive(fs, directory)}
        archived = segment_bytes = archive_bytes = 0
        for done, file in enumerate(sealed, start=1):
            with errors_of(file):
                data = read_file(fs, file.path)
                if file.first_sequence not in there or not _has_copy(fs, directory, file, data):
                    # One that an older snapshot covers was not read above, and what is in the
                    # archive may be the better copy.
                    found = scan(data, decode_header(data, vocabulary.schema), verify_chain=True)
                    check_end(file, found, sealed=True)
                    archive_bytes += _archive(fs, directory, file, data)
                    segment_bytes += len(data)
                    archived += 1
            progress("archiving", done, len(sealed))
    return Prepared(
        sequence=through,
        digest=state_digest(state.dump()).hex(),
        snapshot_bytes=snapshot_bytes,
        archived=archived,
        segment_bytes=segment_bytes,
        archive_bytes=archive_bytes,
    )


def _snapshot(
    fs: FileSystem,
    directory: Path,
    through: int,
    vocabulary: Vocabulary,
    state: State,
    now: int,
    progress: StepProgress,
) -> int:
    """Bring `state` to the sequence `through`, and publish a snapshot there; its bytes."""
    beginning = find_beginning(fs, directory, vocabulary.schema, state.restore, until=through)
    position = beginning.position
    decoder = list_decoder(vocabulary.folded_type)
    files = [file for file in beginning.files if file.first_sequence <= through]
    # What goes into the archive is checked to the last digest: it may be the only copy one day.
    for done, file in enumerate(files, start=1):
        (walked,) = walk(
            fs,
            [file],
            vocabulary.schema,
            decoder,
            state.apply_all,
            start=position,
            verify_chain=True,
        )
        check_end(file, walked.found, sealed=True)
        position = walked.end
        progress("snapshot", done, len(files))
    if position.sequence != through:
        raise ValueError(f"no sealed segment ends with sequence {through}")
    path = snapshot_path(directory, through)
    if beginning.position.sequence != through:
        if position.journal_id is None:
            raise ValueError("an empty journal has no state to be kept")
        snapshot = Snapshot(
            journal_id=position.journal_id,
            schema=vocabulary.schema,
            sequence=through,
            time=state.time,
            chain_digest=position.digest,
            created=now,
            state=state.dump(),
        )
        _publish(fs, directory / TEMPORARY_NAME, path, encode_snapshot(snapshot))
    fd = fs.open(path)
    try:
        return fs.size(fd)
    finally:
        fs.close(fd)


def _has_copy(fs: FileSystem, directory: Path, file: SegmentFile, data: bytes) -> bool:
    """Whether the archive has just these bytes; a damaged copy is made again."""
    try:
        copy = SegmentFile(file.first_sequence, archive_path(directory, file.first_sequence))
        return read_segment(fs, copy) == data
    except (MalformedError, UnsupportedError):
        return False


def _archive(fs: FileSystem, directory: Path, file: SegmentFile, data: bytes) -> int:
    """Put a compressed copy of a segment, and its index, into the archive; its bytes."""
    compressed = compress(data)
    if decompress(compressed) != data:
        raise MalformedError("the segment does not survive its compression: the library is broken")
    target = archive_path(directory, file.first_sequence)
    copy = SegmentFile(file.first_sequence, target)
    with contextlib.suppress(FileNotFoundError):
        write_index(fs, copy.index_path, read_file(fs, file.index_path))
    _publish(fs, target.with_name(f"{target.name}{_TEMPORARY_SUFFIX}"), target, compressed)
    return len(compressed)


def _publish(fs: FileSystem, temporary: Path, path: Path, data: bytes) -> None:
    """Make `data` the file `path`, durable on return. A crash leaves it whole or not at all."""
    fd = fs.create(temporary)
    try:
        # In pieces: one large flush would hold up those of the journal on the same disk.
        for offset in range(0, len(data), _PIECE_BYTES):
            fs.write(fd, memoryview(data)[offset : offset + _PIECE_BYTES], offset)
            fs.sync_data(fd)
        fs.sync(fd)
    except BaseException:
        with contextlib.suppress(OSError):
            fs.remove(temporary)
        raise
    finally:
        fs.close(fd)
    fs.rename(temporary, path)
    fs.sync_directory(path.parent)


def _clean_up(fs: FileSystem, directory: Path) -> None:
    """Remove what an interrupted run left: files that never got their name, and indexes alone."""
    archive = directory / ARCHIVE_NAME
    for name in fs.list_directory(archive):
        if name.endswith(_TEMPORARY_SUFFIX):
            with contextlib.suppress(FileNotFoundError):
                fs.remove(archive / name)
    for name in fs.list_directory(directory):
        if name == TEMPORARY_NAME or _TEMPORARY_INDEX.fullmatch(name):
            # A reader may be about to give an index its name; then it makes another.
            with contextlib.suppress(FileNotFoundError):
                fs.remove(directory / name)
    for path, files in (
        (archive, list_archive(fs, directory)),
        (directory, list_segments(fs, directory)),
    ):
        kept = {file.index_path.name for file in files}
        for name in fs.list_directory(path):
            if _INDEX.fullmatch(name) and name not in kept:
                fs.remove(path / name)


def retire(fs: FileSystem, directory: Path, schema: int) -> Retired:
    """Remove the segments that a good snapshot covers and the archive has, and old snapshots.

    The snapshot's record should be durable before. Raises CompactionRunsError, OSError,
    JournalCorruptError if there is no good snapshot where there should be one.
    """
    with archive_lock(fs, directory):
        snapshots = list_snapshots(fs, directory)
        if not snapshots:
            return Retired(0, 0, 0)
        newest = snapshots[0]
        try:
            read_snapshot(fs, newest.path, schema)
        except (MalformedError, UnsupportedError) as error:
            raise JournalCorruptError(newest.path, 0, newest.sequence, str(error)) from None
        # The names of snapshot and copies are durable: so `prepare` left them. But they may be of
        # a run that was interrupted.
        fs.sync_directory(directory / ARCHIVE_NAME)
        fs.sync_directory(directory)
        there = {file.first_sequence for file in list_archive(fs, directory)}
        segments = freed = 0
        for file in sealed_segments(fs, directory, newest.sequence):
            if file.first_sequence not in there:
                continue
            fd = fs.open(file.path)
            freed += fs.size(fd)
            fs.close(fd)
            # The oldest first, and the segment before its index: what is left is a whole journal.
            fs.remove(file.path)
            with contextlib.suppress(FileNotFoundError):
                fs.remove(file.index_path)
            segments += 1
        good = removed = 0
        for snapshot in snapshots:
            if good < SNAPSHOTS_KEPT:
                # A damaged one is nothing to fall back to.
                with contextlib.suppress(MalformedError):
                    read_snapshot(fs, snapshot.path, schema)
                    good += 1
                    continue
            fs.remove(snapshot.path)
            removed += 1
        fs.sync_directory(directory)
    return Retired(segments, freed, removed)
