"""From a directory to a journal that can be trusted: the rules of start-up.

1. A sealed segment (one with a successor) with a bad frame, a missing segment, a segment that was
   cut: refuse, change nothing.
2. The last segment, bad frame at X: a valid frame after it, or data beyond X + the largest frame:
   refuse as in 1.
3. Otherwise X is a torn tail: a write that was never acknowledged. Its bytes are kept beside the
   segment, the good part is copied to a new file, which takes the segment's name.

What a good snapshot covers is not read: see `replay_start`.

Nothing is changed before everything has been read. What recovery has read is made durable before
it returns: after a crash of the process alone, frames may still live in the page cache only, and
an answer must never show what a power cut could undo.
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
    #: How many segments were read, and the bytes of the frames in them.
    segments: int
    tail_bytes: int
    #: What was set aside, now or by a repair that was interrupted, and is to be recorded.
    set_aside: tuple[SetAside, ...] = ()
    #: Encoded events that a repair took, and that are to be appended again after that.
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

    `restore` is given the newest good snapshot before that, or None if there is none; without it,
    everything is replayed, the archive included. With `record_of`, it is good only
    if it has its record in the journal. An empty directory gets a first segment. The
    caller holds the lock. `now` (ns since the epoch) ends the name of what is set aside. Raises
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
    """What `recover` reads before it changes anything: where it begins, and the segments behind.

    So whether it would is known without it. Raises as `recover`.
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
    """Remove files of ours that never got their name; the space of the next segment is kept."""
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
        # The directory may be new as well, and its name is its parent's to keep.
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

    By copy, not in place: a crash at any point leaves the segment as it was or as it shall be.
    Returns what is to be recorded, what was not yet `earlier` included.
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
    """A durable file of `data` and zeros up to `size`, beside the segment `path` that it is for.

    The spare becomes it, if there is one: on a full disk there is no other space. Raises OSError;
    then there is no copy, and the spare is there still.
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
    """Let the next segment have the space of a copy that is not wanted after all."""
    with contextlib.suppress(OSError):
        fs.rename(copy, copy.with_name(SPARE_NAME))


def replace_segment(fs: FileSystem, copy: Path, path: Path) -> None:
    """Give `copy` the segment's name; a crash leaves the one or the other, whole."""
    # What was set aside must have its name for good before it loses the old one.
    fs.sync_directory(path.parent)
    fs.rename(copy, path)
    fs.sync_directory(path.parent)
