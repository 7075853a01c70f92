"""Recovers a journal at start-up by the rules below.

1. A sealed segment (one with a successor) with a bad frame, a missing segment, a segment that was
   cut: refuse, change nothing.
2. The last segment, bad frame at X: a valid frame after it, or data beyond X + the largest frame:
   refuse as in 1.
3. Otherwise X is a torn tail: a write that was never confirmed. Its bytes are kept beside the
   segment, the good part is copied to a new file, which takes the segment's name.

Segments that a good snapshot covers are not read: see `replay_start`.

Nothing is changed before everything has been read. All frames that were read are durable when
recovery returns: after a crash of the process alone, some may be in the page cache only, and
an answer must never show an event that a power cut could undo.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import msgspec

from journal.errors import JournalCorruptError
from journal.format.chain import Progress, Walked, walk
from journal.format.codec import (
    SEGMENT_HEADER_BYTES,
    SegmentHeader,
    encode_header,
)
from journal.format.scan import Deliver, End, Scan
from journal.format.segments import (
    NOTE_TEMPORARY_NAME,
    RECOVERED_NAME,
    SPARE_NAME,
    give_up,
    is_spare,
    publish,
    read_file,
    write_durably,
    zero_fill,
)
from journal.fs import FileSystem
from journal.read.replay_start import RejectedSnapshot, ReplayStart, Restore, find_replay_start
from journal.read.vouching import RecordOf, Records
from journal.write.repair_note import (
    SetAside,
    Unrecorded,
    fingerprint,
    forget,
    unrecorded,
    write_note,
)


class Recovered(msgspec.Struct, frozen=True):
    """A journal that is safe to append to: the last segment, open, and the head of the chain."""

    path: Path
    fd: int
    header: SegmentHeader
    tail: Scan
    #: The number of segments read, and the bytes of their frames.
    segments: int
    tail_bytes: int
    #: Repairs to record: bytes set aside, now or by a repair that was interrupted.
    set_aside: tuple[SetAside, ...] = ()
    #: Encoded events that a repair removed, and that are to be appended again after those.
    again: tuple[bytes, ...] = ()
    #: The sequence of the snapshot that the state began with; 0 if there was none.
    snapshot_sequence: int = 0
    rejected: tuple[RejectedSnapshot, ...] = ()


def recover(
    fs: FileSystem,
    directory: Path,
    *,
    schema: int,
    segment_bytes: int,
    now: int,
    decoder: msgspec.msgpack.Decoder[list[Any]] | None = None,
    deliver: Deliver | None = None,
    restore: Restore | None = None,
    record_of: RecordOf | None = None,
    progress: Progress | None = None,
) -> Recovered:
    """Make the journal in `directory` safe to append to; its events go to `deliver`, in order.

    `restore` first gets the newest good snapshot, or None if there is none; without it,
    everything is replayed, the archive included. With `record_of`, a snapshot is good only
    if the journal has its record. An empty directory gets a first segment. The
    caller holds the lock. `now` (ns since the epoch) ends the names of files set aside. Raises
    JournalCorruptError, JournalUnsupportedError and OSError.
    """
    replay_start, walked = replay(
        fs, directory, schema, decoder, deliver, restore, record_of, progress
    )
    if not walked:
        _clean_up(fs, directory, segment_bytes)
        return _begin(fs, directory, schema, segment_bytes, now)
    file, header, tail = walked[-1]
    _clean_up(fs, directory, segment_bytes)
    to_tell = unrecorded(fs, directory, tail.next_sequence - 1)
    if tail.end is End.TORN:
        to_tell = _set_tail_aside(fs, file.path, header, tail, now, to_tell)
    elif not any(to_tell):
        forget(fs, directory)
    if header.schema < schema:
        # What is appended from here on is of the new vocabulary, and an older program must not
        # take it for its own. The identity stays, and with it every checksum and digest.
        header = msgspec.structs.replace(header, schema=schema)
        good = read_file(fs, file.path)[SEGMENT_HEADER_BYTES : tail.offset]
        copy = copy_segment(fs, file.path, encode_header(header) + good, header.segment_bytes)
        replace_segment(fs, copy, file.path)
    fd = fs.open(file.path, write=True)
    try:
        fs.sync(fd)
        fs.sync_directory(directory)
        # A crash may have come before the directory's own name was durable.
        fs.sync_directory(directory.parent)
    except BaseException:
        fs.close(fd)
        raise
    return Recovered(
        path=file.path,
        fd=fd,
        header=header,
        tail=tail,
        segments=len(walked),
        tail_bytes=sum(found.offset - SEGMENT_HEADER_BYTES for _, _, found in walked),
        set_aside=to_tell.set_aside,
        again=to_tell.again,
        snapshot_sequence=replay_start.position.sequence,
        rejected=replay_start.rejected,
    )


def replay(
    fs: FileSystem,
    directory: Path,
    schema: int,
    decoder: msgspec.msgpack.Decoder[list[Any]] | None,
    deliver: Deliver | None,
    restore: Restore | None,
    record_of: RecordOf | None,
    progress: Progress | None = None,
) -> tuple[ReplayStart, list[Walked]]:
    """Read what `recover` reads, without its changes: where it begins, and the segments behind.

    So a caller learns whether `recover` would succeed. Raises as `recover`.
    """
    records = Records.of(decoder, record_of, unrecorded(fs, directory).again if record_of else ())
    replay_start = find_replay_start(fs, directory, schema, restore, records=records)
    try:
        walked = walk(
            fs,
            replay_start.files,
            schema,
            decoder,
            deliver,
            start=replay_start.position,
            progress=progress,
        )
        if walked and walked[-1].file.archived:
            raise JournalCorruptError(
                walked[-1].file.path,
                0,
                walked[-1].end.sequence,
                "the segment that follows this one is missing: the events after it are nowhere",
            )
    except JournalCorruptError as error:
        if not replay_start.rejected:
            raise
        reasons = "; ".join(f"{path.name}: {reason}" for path, reason in replay_start.rejected)
        raise JournalCorruptError(
            error.file,
            error.offset,
            error.last_sequence,
            f"{error.reason}; this was read because of unusable snapshots ({reasons})",
        ) from None
    return replay_start, walked


def _clean_up(fs: FileSystem, directory: Path, segment_bytes: int) -> None:
    """Remove leftover temporary files; the space of the next segment is kept."""
    names = fs.list_directory(directory)
    if NOTE_TEMPORARY_NAME in names:
        fs.remove(directory / NOTE_TEMPORARY_NAME)
    spare = directory / SPARE_NAME
    if SPARE_NAME in names and not is_spare(fs, spare, segment_bytes):
        fs.remove(spare)
        names.remove(SPARE_NAME)
    if RECOVERED_NAME in names:
        copy = directory / RECOVERED_NAME
        if SPARE_NAME not in names and is_spare(fs, copy, segment_bytes):
            fs.rename(copy, spare)
        else:
            fs.remove(copy)


def _begin(fs: FileSystem, directory: Path, schema: int, segment_bytes: int, now: int) -> Recovered:
    """Make the first segment of a new journal."""
    header = SegmentHeader.begin(schema, segment_bytes, now)
    temporary = directory / SPARE_NAME
    fd = fs.create(temporary)
    try:
        zero_fill(fs, fd, 0, segment_bytes)
        path = publish(fs, fd, temporary, header)
        # The directory may be new as well: the parent's flush makes its name durable.
        fs.sync_directory(directory.parent)
    except BaseException:
        give_up(fs, fd, temporary)
        raise
    tail = Scan.at_start(header)
    return Recovered(
        path=path,
        fd=fd,
        header=header,
        tail=tail,
        segments=1,
        tail_bytes=0,
    )


def _set_tail_aside(
    fs: FileSystem,
    path: Path,
    header: SegmentHeader,
    tail: Scan,
    now: int,
    earlier: Unrecorded,
) -> Unrecorded:
    """Keep the torn bytes beside the segment, then replace it by a copy of its good part.

    By copy, not in place: a crash at any point leaves the old segment or the new one.
    Returns the repairs to record, with those that were not recorded `earlier`.
    """
    data = read_file(fs, path)
    torn = SetAside(
        file=path.name,
        offset=tail.offset,
        size=tail.data_end - tail.offset,
        kept=f"{path.name}.torn-{now}",
        reason=tail.reason,
        before=fingerprint(data),
    )
    to_tell = Unrecorded((*earlier.set_aside, torn), earlier.again)
    kept = path.with_name(torn.kept)
    write_durably(fs, kept, data[tail.offset : tail.data_end], torn.size)
    try:
        copy = copy_segment(fs, path, data[: tail.offset], header.segment_bytes)
        try:
            write_note(fs, path.parent, tail.next_sequence - 1, *to_tell)
        except BaseException:
            give_back(fs, copy)
            raise
    except BaseException:
        # The next try keeps the bytes again; on a full disk there may be many.
        with contextlib.suppress(OSError):
            fs.remove(kept)
        raise
    replace_segment(fs, copy, path)
    return to_tell


def copy_segment(fs: FileSystem, path: Path, data: bytes, size: int) -> Path:
    """A durable file of `data` and zeros up to `size`, beside the segment `path` it will replace.

    The spare becomes the copy, if there is one: on a full disk there is no other space. Raises
    OSError; then there is no copy, and the spare is still there.
    """
    copy, spare = path.with_name(RECOVERED_NAME), path.with_name(SPARE_NAME)
    if SPARE_NAME in fs.list_directory(path.parent):
        if is_spare(fs, spare, size):
            fs.rename(spare, copy)
            try:
                write_durably(fs, copy, data, size, over=True)
            except BaseException:
                give_back(fs, copy)
                raise
            return copy
        # Of another size, it is in the way.
        fs.remove(spare)
    write_durably(fs, copy, data, size)
    return copy


def give_back(fs: FileSystem, copy: Path) -> None:
    """Keep the space of a copy that is not needed, for the next segment."""
    with contextlib.suppress(OSError):
        fs.rename(copy, copy.with_name(SPARE_NAME))


def replace_segment(fs: FileSystem, copy: Path, path: Path) -> None:
    """Give `copy` the segment's name; a crash leaves either the old or the new one, whole."""
    # The file set aside must be durable under its name before the segment is replaced.
    fs.sync_directory(path.parent)
    fs.rename(copy, path)
    fs.sync_directory(path.parent)
