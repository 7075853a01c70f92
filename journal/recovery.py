"""From a directory to a journal that can be trusted: the rules of start-up.

1. A sealed segment (one with a successor) with a bad frame, a missing segment, a segment that was
   cut: refuse, change nothing.
2. The last segment, bad frame at X: a valid frame after it, or data beyond X + the largest frame:
   refuse as in 1.
3. Otherwise X is a torn tail: a write that was never acknowledged. Its bytes are kept beside the
   segment, the good part is copied to a new file, which takes the segment's name.

Nothing is changed before everything has been read. What recovery has read is made durable before
it returns: after a crash of the process alone, frames may still live in the page cache only, and
an answer must never show what a power cut could undo.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from journal.codec import (
    GENESIS_DIGEST,
    ID_BYTES,
    SEGMENT_HEADER_BYTES,
    MalformedError,
    SegmentHeader,
    UnsupportedError,
    decode_header,
    frame_bytes_max,
)
from journal.errors import JournalCorruptError, JournalUnsupportedError
from journal.fs import FileSystem
from journal.scan import Deliver, End, Scan, scan
from journal.segments import (
    RECOVERED_NAME,
    SPARE_NAME,
    SegmentFile,
    list_segments,
    publish,
    read_file,
    zero_fill,
)

#: Called with the bytes read so far and the bytes there are.
Progress = Callable[[int, int], None]


class TornTail(msgspec.Struct, frozen=True):
    """What recovery set aside: `size` bytes from `offset` of `segment`, kept in `kept`."""

    segment: Path
    offset: int
    size: int
    kept: Path
    reason: str


class Recovered(msgspec.Struct, frozen=True):
    """A journal that is safe to append to: the last segment, open, and the head of the chain."""

    path: Path
    fd: int
    header: SegmentHeader
    tail: Scan
    first_sequence: int
    segments: int
    torn: TornTail | None


def walk(
    fs: FileSystem,
    directory: Path,
    schema: int,
    decoder: msgspec.msgpack.Decoder[list[Any]] | None = None,
    deliver: Deliver | None = None,
    *,
    progress: Progress | None = None,
    verify_chain: bool = False,
) -> list[tuple[SegmentFile, SegmentHeader, Scan]]:
    """Read all segments of `directory` in order, changing nothing; the last may end torn.

    Raises JournalCorruptError and JournalUnsupportedError by the rules above.
    """
    files = list_segments(fs, directory)
    walked: list[tuple[SegmentFile, SegmentHeader, Scan]] = []
    done = 0
    for index, file in enumerate(files):
        data = read_file(fs, file.path)
        before = walked[-1] if walked else None
        try:
            header = decode_header(data, schema)
            check_succession(file, header, before)
            found = scan(data, header, decoder, deliver, verify_chain=verify_chain)
        except MalformedError as error:
            last = before[2].next_sequence - 1 if before else 0
            raise JournalCorruptError(file.path, 0, last, str(error)) from None
        except UnsupportedError as error:
            raise JournalUnsupportedError(file.path, str(error)) from None
        sealed = index < len(files) - 1
        if found.end is End.CORRUPT or (sealed and found.end is not End.CLEAN):
            raise JournalCorruptError(
                file.path, found.offset, found.next_sequence - 1, found.reason
            )
        walked.append((file, header, found))
        done += len(data)
        if progress is not None:
            # Segments have one size, so the rest can be told without opening it.
            progress(done, len(data) * len(files))
    return walked


def recover(
    fs: FileSystem,
    directory: Path,
    *,
    schema: int,
    segment_bytes: int,
    now: int,
    decoder: msgspec.msgpack.Decoder[list[Any]] | None = None,
    deliver: Deliver | None = None,
    progress: Progress | None = None,
) -> Recovered:
    """Make the journal in `directory` safe to append to; its events go to `deliver`, in order.

    An empty directory gets a first segment. The caller holds the lock. `now` (ns since the epoch)
    ends the name of what is set aside. Raises JournalCorruptError, JournalUnsupportedError and
    OSError.
    """
    walked = walk(fs, directory, schema, decoder, deliver, progress=progress)
    _clean_up(fs, directory)
    if not walked:
        return _begin(fs, directory, schema, segment_bytes, now)
    file, header, tail = walked[-1]
    torn = _set_tail_aside(fs, file.path, header, tail, now) if tail.end is End.TORN else None
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
        first_sequence=walked[0][1].first_sequence,
        segments=len(walked),
        torn=torn,
    )


def check_succession(
    file: SegmentFile,
    header: SegmentHeader,
    before: tuple[SegmentFile, SegmentHeader, Scan] | None,
) -> None:
    """Raise JournalCorruptError unless this segment continues the one before it."""
    reason = None
    last = before[2].next_sequence - 1 if before else 0
    if header.first_sequence != file.first_sequence:
        reason = (
            f"the file is named for sequence {file.first_sequence}, "
            f"its header says {header.first_sequence}"
        )
    elif header.first_sequence > last + 1:
        reason = (
            f"a segment is missing before it: the events {last + 1} to "
            f"{header.first_sequence - 1} are nowhere"
        )
    elif header.previous_sequence != last:
        reason = f"its header continues sequence {header.previous_sequence}, not {last}"
    elif before and header.journal_id != before[1].journal_id:
        reason = f"it belongs to another journal than {before[0].path.name}"
    elif header.previous_digest != (before[2].digest if before else GENESIS_DIGEST):
        reason = "it does not continue the chain of digests of the segment before it"
    if reason:
        raise JournalCorruptError(file.path, 0, last, reason)


def _clean_up(fs: FileSystem, directory: Path) -> None:
    """Remove what an interrupted preparation left: files of ours that never got their name."""
    for name in fs.list_directory(directory):
        if name in {SPARE_NAME, RECOVERED_NAME}:
            fs.remove(directory / name)


def _begin(fs: FileSystem, directory: Path, schema: int, segment_bytes: int, now: int) -> Recovered:
    """Make the first segment of a new journal."""
    header = SegmentHeader(
        journal_id=secrets.token_bytes(ID_BYTES),
        segment_id=secrets.token_bytes(ID_BYTES),
        schema=schema,
        segment_bytes=segment_bytes,
        frame_bytes_max=frame_bytes_max(segment_bytes),
        first_sequence=1,
        previous_sequence=0,
        previous_digest=GENESIS_DIGEST,
        created=now,
    )
    temporary = directory / SPARE_NAME
    fd = fs.create(temporary)
    try:
        zero_fill(fs, fd, 0, segment_bytes)
        path = publish(fs, fd, temporary, header)
        # The directory may be new as well, and its name is its parent's to keep.
        fs.sync_directory(directory.parent)
    except BaseException:
        _give_up(fs, fd, temporary)
        raise
    tail = Scan(
        offset=SEGMENT_HEADER_BYTES,
        next_sequence=1,
        digest=GENESIS_DIGEST,
        time=now,
        marked=True,
        end=End.CLEAN,
    )
    return Recovered(
        path=path, fd=fd, header=header, tail=tail, first_sequence=1, segments=1, torn=None
    )


def _set_tail_aside(
    fs: FileSystem, path: Path, header: SegmentHeader, tail: Scan, now: int
) -> TornTail:
    """Keep the torn bytes beside the segment, then replace it by a copy of its good part.

    By copy, not in place: a crash at any point leaves the segment as it was or as it shall be.
    """
    data = read_file(fs, path)
    kept = path.with_name(f"{path.name}.torn-{now}")
    _write_durably(fs, kept, data[tail.offset : tail.data_end], tail.data_end - tail.offset)
    copy = path.with_name(RECOVERED_NAME)
    try:
        _write_durably(fs, copy, data[: tail.offset], header.segment_bytes)
    except BaseException:
        # The next try keeps the bytes again; on a full disk there may be many.
        with contextlib.suppress(OSError):
            fs.remove(kept)
        raise
    # The torn bytes must have their name for good before they lose the old one.
    fs.sync_directory(path.parent)
    fs.rename(copy, path)
    fs.sync_directory(path.parent)
    return TornTail(
        segment=path,
        offset=tail.offset,
        size=tail.data_end - tail.offset,
        kept=kept,
        reason=tail.reason,
    )


def _write_durably(fs: FileSystem, path: Path, data: bytes, size: int) -> None:
    """Make `path` of `data` and zeros up to `size`, durable but for its name."""
    fd = fs.create(path)
    try:
        fs.write(fd, data, 0)
        zero_fill(fs, fd, len(data), size)
        fs.sync(fd)
    except BaseException:
        _give_up(fs, fd, path)
        raise
    fs.close(fd)


def _give_up(fs: FileSystem, fd: int, path: Path) -> None:
    """Close and remove a file that did not come to be: it may hold the very space that is short."""
    with contextlib.suppress(OSError):
        fs.close(fd)
    with contextlib.suppress(OSError):
        fs.remove(path)
