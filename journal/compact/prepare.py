"""Keeps a journal small and quick to start from, without losing history.

Each step leaves a journal that opens, wherever it is interrupted, and the next run finishes or
cleans up:

1. `prepare` reads sealed segments, which never change: it writes their indexes, a snapshot of the
   state after the last of them, and a compressed copy of each in the archive. It removes nothing,
   does not need the writer's lock, and may run in its own process.
2. The writer records the snapshot.
3. `retire` removes the segments that the snapshot covers and the archive has, and old snapshots.
4. The writer records that.

Only `prune` loses history, after the writer recorded what it will remove.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import msgspec

from journal.errors import CompactionRunsError, JournalError
from journal.format.archive import compress, decompress, errors_of, header_of
from journal.format.chain import read_one
from journal.format.codec import MalformedError
from journal.format.copies import check_continued, check_sealed, has_copy
from journal.format.scan import list_decoder
from journal.format.segments import (
    ARCHIVE_NAME,
    SegmentFile,
    archive_path,
    list_archive,
    list_history,
    list_segments,
    read_file,
)
from journal.format.snapshot import (
    TEMPORARY_NAME,
    Snapshot,
    encode_snapshot,
    snapshot_bytes,
    snapshot_path,
    state_digest,
)
from journal.fs import FileSystem
from journal.read.indexed import Indexes, write_index
from journal.read.reader import Reader
from journal.read.replay_start import find_replay_start
from journal.read.vocabulary import State, Vocabulary
from journal.read.vouching import Records
from journal.write.custody import Custody

_TEMPORARY_SUFFIX = ".tmp"
_INDEX = re.compile(r"[0-9]{20}\.idx")
#: The temporary files of `write_index`, in any process.
_TEMPORARY_INDEX = re.compile(r"[0-9]{20}\.idx\.\d+\.tmp")
_PIECE_BYTES = 1 << 20

#: Called with the name of a step, the part of it that is done, and the whole.
StepProgress = Callable[[str, int, int], None]


class Prepared(msgspec.Struct, frozen=True):
    """The results of `prepare`. Sizes are in bytes."""

    sequence: int
    #: The state's digest, in hexadecimal.
    digest: str
    snapshot_bytes: int
    #: The number of segments added to the archive.
    archived: int
    segment_bytes: int
    archive_bytes: int
    #: The sequence of the snapshot that the state was made from; 0 if it was made from all events.
    before: int = 0
    #: The index digests that the journal is to vouch for: see `index_sealed`.
    indexes: dict[int, bytes] = {}


def sealed_segments(
    fs: FileSystem, directory: Path, through: int | None = None
) -> list[tuple[SegmentFile, SegmentFile]]:
    """The sealed segments of `directory` itself that end up to `through`, and their successors."""
    return [
        (file, successor)
        for file, successor in pairwise(list_segments(fs, directory))
        if through is None or successor.first_sequence - 1 <= through
    ]


@contextlib.contextmanager
def archive_lock(fs: FileSystem, directory: Path) -> Iterator[Custody]:
    """Lock the archive for writing; the custody checks that the lock still holds.

    Raises CompactionRunsError, JournalDisplacedError, OSError.
    """
    archive = directory / ARCHIVE_NAME
    fs.make_directory(archive)
    fs.sync_directory(directory)
    custody = Custody(fs)
    try:
        if custody.lock(archive) is None:
            raise CompactionRunsError(directory)
        custody.hold(directory, fs.open_directory(directory))
        yield custody
    finally:
        custody.close()


def index_sealed(
    fs: FileSystem, directory: Path, vocabulary: Vocabulary, *, archived: bool = False
) -> dict[int, bytes]:
    """Make the indexes that sealed segments lack or that the journal does not vouch for.

    Also of `archived` segments, unless they are damaged. Returns the digests of indexes that no
    event vouches for yet, by the first sequences of their segments; the caller appends that event.
    Each index was made from a segment whose every digest was checked. Raises as `prepare`.
    """
    reader = Reader(directory, vocabulary.event_type, schema=vocabulary.schema, fs=fs)
    files = list_history(fs, directory) if archived else list_segments(fs, directory)
    indexes = Indexes(fs, reader.decoder, vocabulary.keys, make=True)
    if files:
        # Damage in the open segment is for others to report.
        with contextlib.suppress(JournalError):
            for batch in reader.batches(files[-1].first_sequence):
                indexes.learn(batch.events)
    for file, successor in reversed(list(pairwise(files))):
        try:
            following = header_of(fs, successor, vocabulary.schema)
            header = header_of(fs, file, vocabulary.schema)
            end = indexes.look(file, header, following).end
        except (JournalError, OSError):
            if not file.archived:
                raise
            continue
        # A segment that its successor does not continue was altered.
        if (end.sequence, end.digest) != (following.previous_sequence, following.previous_digest):
            indexes.unrecorded.pop(file.first_sequence, None)
    return dict(sorted(indexes.unrecorded.items()))


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

    `through` is the last sequence of a sealed segment. Removes nothing. On return everything is
    durable. Raises CompactionRunsError, JournalCorruptError, JournalUnsupportedError, OSError, and
    the errors of `state`.
    """
    with archive_lock(fs, directory):
        _clean_up(fs, directory)
        indexes = index_sealed(fs, directory, vocabulary, archived=True)
        before, size = _snapshot(fs, directory, through, vocabulary, state, now, progress)
        sealed = sealed_segments(fs, directory, through)
        there = {file.first_sequence for file in list_archive(fs, directory)}
        archived = segment_bytes = archive_bytes = 0
        for done, (file, successor) in enumerate(sealed, start=1):
            with errors_of(file):
                data = read_file(fs, file.path)
                if file.first_sequence not in there or not has_copy(fs, directory, file, data):
                    # One that an older snapshot covers was not read above, and what is in the
                    # archive may be the better copy: then this raises, and both stay.
                    check_sealed(fs, file, data, successor, vocabulary.schema)
                    archive_bytes += _archive(fs, directory, file, data)
                    segment_bytes += len(data)
                    archived += 1
            progress("archiving", done, len(sealed))
    return Prepared(
        sequence=through,
        digest=state_digest(state.dump()).hex(),
        snapshot_bytes=size,
        archived=archived,
        segment_bytes=segment_bytes,
        archive_bytes=archive_bytes,
        before=before,
        indexes=indexes,
    )


def _snapshot(
    fs: FileSystem,
    directory: Path,
    through: int,
    vocabulary: Vocabulary,
    state: State,
    now: int,
    progress: StepProgress,
) -> tuple[int, int]:
    """Bring `state` to the sequence `through`, and publish a snapshot there.

    Returns the sequence of the snapshot that it began with, and the new one's bytes.
    """
    decoder = list_decoder(vocabulary.event_type)
    replay_start = find_replay_start(
        fs,
        directory,
        vocabulary.schema,
        state.restore,
        records=Records.of(decoder, vocabulary.record_of),
        until=through,
    )
    position = replay_start.position
    files = [file for file in replay_start.files if file.first_sequence <= through]
    successors = replay_start.files[1 : len(files) + 1]
    if not through:
        raise ValueError("an empty journal has no state to be kept")
    if through + 1 not in {file.first_sequence for file in replay_start.files}:
        raise ValueError(f"no sealed segment ends with sequence {through}")
    # Every digest is checked before archiving: the archive may have the only copy one day.
    for done, (file, successor) in enumerate(zip(files, successors, strict=True), start=1):
        walked, _ = read_one(
            fs,
            file,
            vocabulary.schema,
            position,
            decoder,
            state.apply_all,
            sealed=True,
            verify_chain=True,
        )
        check_continued(fs, walked, successor, vocabulary.schema)
        position = walked.end
        progress("snapshot", done, len(files))
    if replay_start.position.sequence != through and position.journal_id is not None:
        snapshot = Snapshot(
            journal_id=position.journal_id,
            schema=vocabulary.schema,
            sequence=through,
            time=state.time,
            chain_digest=position.digest,
            created=now,
            state=state.dump(),
        )
        data = encode_snapshot(snapshot)
        _publish(fs, directory / TEMPORARY_NAME, snapshot_path(directory, through), data)
        return replay_start.position.sequence, len(data)
    # It is there, and vouched for.
    return through, snapshot_bytes(state.dump())


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
        # In pieces: one large flush would delay the journal's flushes on the same disk.
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
    """Remove what an interrupted run left: temporary files, and indexes without a segment."""
    archive = directory / ARCHIVE_NAME
    for name in fs.list_directory(archive):
        if name.endswith(_TEMPORARY_SUFFIX):
            with contextlib.suppress(FileNotFoundError):
                fs.remove(archive / name)
    for name in fs.list_directory(directory):
        if name == TEMPORARY_NAME or _TEMPORARY_INDEX.fullmatch(name):
            # A reader may be about to rename its index; it then makes another.
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
