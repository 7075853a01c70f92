"""Segments in order, each the continuation of the one before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec

from journal.errors import JournalCorruptError
from journal.format.archive import errors_of, read_segment
from journal.format.codec import GENESIS_DIGEST, SegmentHeader, decode_header
from journal.format.scan import Deliver, End, Scan, scan
from journal.format.segments import SegmentFile
from journal.format.snapshot import Snapshot
from journal.fs import ReadOnlyFileSystem

_T = TypeVar("_T")

#: Called with the bytes read so far and the bytes there are.
Progress = Callable[[int, int], None]


class Position(NamedTuple):
    """A place between two segments: the last event before it, and the chain's digest there."""

    sequence: int
    digest: bytes
    #: None at the beginning of a journal, whose ID may be any.
    journal_id: bytes | None

    @classmethod
    def behind(cls, snapshot: Snapshot) -> Position:
        """Where the segment behind a snapshot begins."""
        return cls(snapshot.sequence, snapshot.chain_digest, snapshot.journal_id)


GENESIS = Position(0, GENESIS_DIGEST, None)


def claimed_position(header: SegmentHeader) -> Position:
    """The position before a segment, by its own header; the very first must begin at genesis."""
    if header.first_sequence == 1:
        return GENESIS
    return Position(header.previous_sequence, header.previous_digest, header.journal_id)


class Walked(NamedTuple):
    """A segment that was read whole."""

    file: SegmentFile
    header: SegmentHeader
    found: Scan

    @property
    def end(self) -> Position:
        """Where its successor begins."""
        return Position(self.found.next_sequence - 1, self.found.digest, self.header.journal_id)


def walk(
    fs: ReadOnlyFileSystem,
    files: Sequence[SegmentFile],
    schema: int,
    decoder: msgspec.msgpack.Decoder[list[Any]] | None = None,
    deliver: Deliver | None = None,
    *,
    start: Position = GENESIS,
    progress: Progress | None = None,
    verify_chain: bool = False,
) -> list[Walked]:
    """Read the segments `files`, the first of which continues `start`; the last may end torn.

    Changes nothing. Raises JournalCorruptError and JournalUnsupportedError by the rules of
    `journal/README.md`, OSError.
    """
    walked: list[Walked] = []
    done = 0
    position = start
    for index, file in enumerate(files):
        sealed = index < len(files) - 1
        read, data = read_one(
            fs, file, schema, position, decoder, deliver, sealed=sealed, verify_chain=verify_chain
        )
        walked.append(read)
        position = read.end
        done += len(data)
        if progress is not None:
            # Segments have one size, so the total is known without opening the others.
            progress(done, len(data) * len(files))
    return walked


class DamagedSegmentError(JournalCorruptError):
    """A segment is damaged. Has its bytes, and its good part before the damage.

    `data` is None if it could not be read, `walked` if it has no good part.
    """

    def __init__(
        self, error: JournalCorruptError, data: bytes | None, walked: Walked | None
    ) -> None:
        super().__init__(error.file, error.offset, error.last_sequence, error.reason)
        self.data = data
        self.walked = walked


def read_one(
    fs: ReadOnlyFileSystem,
    file: SegmentFile,
    schema: int,
    before: Position | None,
    decoder: msgspec.msgpack.Decoder[list[Any]] | None = None,
    deliver: Deliver | None = None,
    *,
    sealed: bool,
    data: bytes | None = None,
    verify_chain: bool = False,
) -> tuple[Walked, bytes]:
    """Read a segment that continues `before` (None: trust its header); return its bytes too.

    Without `data` the file is read. A segment with a successor is `sealed`; another may end torn.
    Raises DamagedSegmentError after the good events were delivered, JournalUnsupportedError,
    OSError.
    """
    walked: Walked | None = None
    try:
        with errors_of(file, before.sequence if before else max(0, file.first_sequence - 1)):
            data = read_segment(fs, file) if data is None else data
            header = decode_header(data, schema)
            check_succession(file, header, before or claimed_position(header))
            found = scan(data, header, decoder, deliver, verify_chain=verify_chain)
        walked = Walked(file, header, found)
        check_end(file, found, sealed=sealed)
    except JournalCorruptError as error:
        raise DamagedSegmentError(error, data, walked) from None
    return walked, data


def read_stable(read: Callable[[], tuple[Walked, _T]]) -> tuple[Walked, _T]:
    """The result of `read`, which calls `read_one`, for the open segment.

    Frames that a writer adds during the read can look like damage: one page from before a
    frame, the next page from after it. But then a second read gets further.
    Damage stays where it is, and so does a torn tail: they count when found twice at one place.
    """
    seen: int | None = None
    while True:
        try:
            walked, rest = read()
        except JournalCorruptError as error:
            if error.offset == seen:
                raise
            seen = error.offset
        else:
            if walked.found.end is End.CLEAN or walked.found.offset == seen:
                return walked, rest
            seen = walked.found.offset


def check_end(file: SegmentFile, found: Scan, *, sealed: bool) -> None:
    """Raise JournalCorruptError if a segment may not end so; one with a successor is sealed.

    Only the open segment can be torn: an archived one never is.
    """
    if found.end is End.CORRUPT or (found.end is End.TORN and (sealed or file.archived)):
        raise JournalCorruptError(file.path, found.offset, found.next_sequence - 1, found.reason)


def check_succession(file: SegmentFile, header: SegmentHeader, before: Position) -> None:
    """Raise JournalCorruptError unless this segment continues the journal at `before`."""
    reason = None
    last = before.sequence
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
    elif before.journal_id not in {None, header.journal_id}:
        reason = "it belongs to another journal than what comes before it"
    elif header.previous_digest != before.digest:
        reason = "it does not continue the chain of digests of what comes before it"
    if reason:
        raise JournalCorruptError(file.path, 0, last, reason)
