"""Cutting a journal off where its damage begins, on order only: what goes is kept beside it.

Only live segments behind the newest good snapshot are cut: what a snapshot covers is not read at
start, and what is archived was whole once, so a backup has it. Whole later segments go first, the
newest one first, so that a crash in between leaves a journal that is refused still, and the next
run goes on. The damaged segment is replaced last, by copy.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from journal.archive import read_segment
from journal.beginning import Restore
from journal.chain import GENESIS, Position, Walked, check_end, check_succession
from journal.codec import (
    ALIGNMENT,
    ID_BYTES,
    SEGMENT_BYTES_MAX,
    SEGMENT_BYTES_MIN,
    MalformedError,
    SegmentHeader,
    UnsupportedError,
    decode_frame,
    decode_header,
    encode_header,
    frame_bytes_max,
)
from journal.errors import JournalCorruptError, JournalUnsupportedError
from journal.fs import FileSystem
from journal.recovery import copy_segment, replace_segment
from journal.scan import Deliver, Scan, find_frame, list_decoder, scan
from journal.segments import SegmentFile, list_archive, list_history, read_file, write_durably
from journal.set_aside import SetAside, announce, fingerprint, unrecorded
from journal.snapshot import list_snapshots, read_snapshot
from journal.writer import DEFAULT_SEGMENT_BYTES


class Lost(NamedTuple):
    """The bytes of a file that go, and the intact frames and events among them."""

    path: Path
    offset: int
    size: int
    frames: int
    events: int


class Truncation(msgspec.Struct, frozen=True):
    """What has to go so that the journal opens again, the damaged segment first."""

    reason: str
    #: The last event that stays.
    last_sequence: int
    lost: list[Lost]
    #: What takes the damaged segment's place; None if it goes as a whole.
    replacement: bytes | None
    segment_bytes: int
    #: Snapshots of events that go.
    snapshots: list[Path]


class _Start(NamedTuple):
    position: Position
    time: int
    files: list[SegmentFile]


def plan(
    fs: FileSystem,
    directory: Path,
    schema: int,
    event_type: object,
    restore: Restore,
    deliver: Deliver,
    now: int,
) -> Truncation | None:
    """What has to go; None if the journal opens as it is. The caller holds the writer's lock.

    Raises JournalCorruptError for damage that no truncation mends, JournalUnsupportedError,
    OSError, and what `restore` and `deliver` raise.
    """
    start = _find_start(fs, directory, schema, restore)
    position, time = start.position, start.time
    header: SegmentHeader | None = None
    decoder = list_decoder(event_type)
    for number, file in enumerate(start.files):
        sealed = number < len(start.files) - 1
        looked = _look(fs, file, position, schema, decoder, deliver, sealed=sealed)
        if looked.reason:
            if file.archived:
                at = looked.found.offset if looked.found else 0
                raise JournalCorruptError(file.path, at, position.sequence, looked.reason)
            _check_no_copy(fs, directory, file, position, looked.reason)
            cut = _cut(looked, file, position, header, schema, max(now, time))
            later = start.files[number + 1 :]
            return Truncation(
                reason=looked.reason,
                last_sequence=cut.last_sequence,
                lost=[
                    _lost(looked.data, file.path, cut.offset, schema),
                    *(_lost(read_file(fs, at.path), at.path, 0, schema) for at in later),
                ],
                replacement=cut.replacement,
                segment_bytes=cut.segment_bytes,
                snapshots=[
                    at.path
                    for at in list_snapshots(fs, directory)
                    if at.sequence > cut.last_sequence
                ],
            )
        if looked.found is not None and looked.header is not None:
            # Only behind a live segment can the journal go on as it is.
            header, time = (None if file.archived else looked.header), looked.found.time
            position = Walked(file, looked.header, looked.found).end
    if start.files and start.files[-1].archived:
        path = start.files[-1].path
        raise JournalCorruptError(
            path, 0, position.sequence, "the segment that follows this one is missing"
        )
    return None


class _Looked(NamedTuple):
    """A segment as far as it could be read, and what is wrong with it; empty if nothing is."""

    data: bytes
    header: SegmentHeader | None
    found: Scan | None
    reason: str


def _look(
    fs: FileSystem,
    file: SegmentFile,
    position: Position,
    schema: int,
    decoder: msgspec.msgpack.Decoder[list[Any]],
    deliver: Deliver,
    *,
    sealed: bool,
) -> _Looked:
    """Read a segment that continues `position`. Raises JournalUnsupportedError, OSError."""
    data = b""
    header: SegmentHeader | None = None
    found: Scan | None = None
    try:
        data = read_segment(fs, file)
        header = decode_header(data, schema)
        check_succession(file, header, position)
        found = scan(data, header, decoder, deliver, verify_chain=True)
        check_end(file, found, sealed=sealed)
    except UnsupportedError as error:
        raise JournalUnsupportedError(file.path, str(error)) from None
    except MalformedError as error:
        return _Looked(data, header, found, str(error))
    except JournalCorruptError as error:
        return _Looked(data, header, found, error.reason)
    return _Looked(data, header, found, found.reason)


class _Cut(NamedTuple):
    """Where the damaged segment is cut off, and what takes its place."""

    offset: int
    last_sequence: int
    replacement: bytes | None
    segment_bytes: int


def _cut(
    looked: _Looked,
    file: SegmentFile,
    position: Position,
    before: SegmentHeader | None,
    schema: int,
    created: int,
) -> _Cut:
    """Raises JournalCorruptError if no live segment would be left to go on with."""
    if looked.found is not None and looked.header is not None:
        # Its own header and its good frames stay.
        end = looked.found.offset
        last = looked.found.next_sequence - 1
        return _Cut(end, last, looked.data[:end], looked.header.segment_bytes)
    last = position.sequence
    size = before.segment_bytes if before else _size_for(len(looked.data))
    if file.first_sequence == last + 1:
        fresh = _fresh_header(position, schema, size, created)
        return _Cut(0, last, encode_header(fresh), size)
    if before is None:
        raise JournalCorruptError(file.path, 0, last, looked.reason)
    return _Cut(0, last, None, size)


def truncate(fs: FileSystem, directory: Path, truncation: Truncation, now: int) -> None:
    """Do it. `now` ends the names of what is kept.

    On return it is durable, and noted: whoever opens the journal next is to record it. The caller
    holds the writer's lock. Raises OSError; then the next run goes on.
    """
    damaged, *later = truncation.lost
    data = read_file(fs, damaged.path)
    if truncation.replacement is not None:
        torn = data[damaged.offset :][: damaged.size]
        write_durably(fs, _kept(damaged.path, now), torn, len(torn))
    # What an interrupted run did is in no record yet, and this note takes the place of its note.
    last = truncation.last_sequence
    earlier = unrecorded(fs, directory, last)
    announce(fs, directory, last, (*earlier, *_set_asides(fs, truncation, now)))
    for path in truncation.snapshots:
        _move_aside(fs, path, now)
    for lost in reversed(later):
        _forget_index(fs, lost.path)
        _move_aside(fs, lost.path, now)
    _forget_index(fs, damaged.path)
    if truncation.replacement is None:
        _move_aside(fs, damaged.path, now)
    else:
        copy = copy_segment(fs, damaged.path, truncation.replacement, truncation.segment_bytes)
        replace_segment(fs, copy, damaged.path)


def _set_asides(fs: FileSystem, truncation: Truncation, now: int) -> list[SetAside]:
    """What is to be recorded, one entry a file, the damaged segment first."""
    damaged, *later = truncation.lost
    follows = f"it follows what was cut off {damaged.path.name}"
    entries = [(damaged.path, damaged.offset, damaged.size, truncation.reason)]
    entries += [(lost.path, lost.offset, lost.size, follows) for lost in later]
    entries += [
        (path, 0, len(read_file(fs, path)), "a snapshot of events that were cut off")
        for path in truncation.snapshots
    ]
    return [
        SetAside(
            file=path.name,
            offset=offset,
            size=size,
            kept=_kept(path, now).name,
            reason=reason,
            before=fingerprint(read_file(fs, path)),
            ordered=True,
        )
        for path, offset, size, reason in entries
    ]


def _find_start(fs: FileSystem, directory: Path, schema: int, restore: Restore) -> _Start:
    """The newest good snapshot, restored, and the segments behind it."""
    files = list_history(fs, directory)
    for file in list_snapshots(fs, directory):
        try:
            snapshot = read_snapshot(fs, file.path, schema)
            following = [at for at in files if at.first_sequence > file.sequence]
            position = Position.behind(snapshot)
            if not following:
                raise JournalCorruptError(
                    file.path, 0, file.sequence, "the segment that follows this snapshot is missing"
                )
            if not _may_follow(fs, following[0], position, schema):
                continue
            restore(snapshot)
        except UnsupportedError as error:
            raise JournalUnsupportedError(file.path, str(error)) from None
        except ValueError:
            continue
        return _Start(position, snapshot.time, following)
    restore(None)
    return _Start(GENESIS, 0, files)


def _may_follow(fs: FileSystem, file: SegmentFile, position: Position, schema: int) -> bool:
    """Whether a segment continues a snapshot; one with a damaged header may have."""
    try:
        header = decode_header(read_segment(fs, file), schema)
        check_succession(file, header, position)
    except MalformedError:
        return file.first_sequence == position.sequence + 1
    except JournalCorruptError:
        return False
    return True


def _check_no_copy(
    fs: FileSystem, directory: Path, file: SegmentFile, position: Position, reason: str
) -> None:
    """Raise JournalCorruptError if the archive has what would be lost."""
    for copy in list_archive(fs, directory):
        if copy.first_sequence >= file.first_sequence:
            raise JournalCorruptError(
                file.path,
                0,
                position.sequence,
                f"{reason}; but the archive has a copy, which `zstd -d {copy.path}` gives back",
            )


def _fresh_header(position: Position, schema: int, size: int, created: int) -> SegmentHeader:
    """Of an empty segment that continues the journal at `position`."""
    return SegmentHeader(
        journal_id=position.journal_id or secrets.token_bytes(ID_BYTES),
        segment_id=secrets.token_bytes(ID_BYTES),
        schema=schema,
        segment_bytes=size,
        frame_bytes_max=frame_bytes_max(size),
        first_sequence=position.sequence + 1,
        previous_sequence=position.sequence,
        previous_digest=position.digest,
        created=created,
    )


def _size_for(file_bytes: int) -> int:
    """A segment size as good as that of a file whose header cannot be read."""
    if SEGMENT_BYTES_MIN <= file_bytes <= SEGMENT_BYTES_MAX and file_bytes % ALIGNMENT == 0:
        return file_bytes
    return DEFAULT_SEGMENT_BYTES


def _lost(data: bytes, path: Path, offset: int, schema: int) -> Lost:
    """What is in a file from `offset` on, up to its last byte that is not zero."""
    end = max(offset, len(data.rstrip(b"\0")))
    frames = events = 0
    try:
        header = decode_header(data, schema)
    except (MalformedError, UnsupportedError):
        return Lost(path, offset, end - offset, 0, 0)
    view = memoryview(data)
    at = find_frame(data, offset, end, header)
    while at is not None:
        frame = decode_frame(view, at, header)
        frames += 1
        events += frame.count
        at = find_frame(data, frame.end, end, header)
    return Lost(path, offset, end - offset, frames, events)


def _kept(path: Path, now: int) -> Path:
    return path.with_name(f"{path.name}.torn-{now}")


def _move_aside(fs: FileSystem, path: Path, now: int) -> None:
    """Give a whole file a name that is no part of the journal; on return that is durable."""
    fs.rename(path, _kept(path, now))
    fs.sync_directory(path.parent)


def _forget_index(fs: FileSystem, path: Path) -> None:
    """Remove the index of a segment: its segment's id would fit, wherever that ends."""
    index = SegmentFile(int(path.stem), path).index_path
    if index.name in fs.list_directory(index.parent):
        fs.remove(index)
