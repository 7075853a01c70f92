"""Checks copies of a segment against the segment behind it, which says where the copy must end.

A segment that was zeroed from the end of a frame on is valid, only short. Its successor's header
has the digest of all its events, so a copy that ends with that digest has them all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from journal.errors import JournalCorruptError
from journal.format.archive import CHUNK_BYTES, header_of, open_segment, read_header, read_segment
from journal.format.chain import Position, Walked, check_succession, claimed_position, read_one
from journal.format.codec import MalformedError, UnsupportedError
from journal.format.segments import SegmentFile, archive_path
from journal.fs import ReadOnlyFileSystem


def check_continued(
    fs: ReadOnlyFileSystem, walked: Walked, successor: SegmentFile, schema: int
) -> None:
    """Raise JournalCorruptError, naming it, if a segment does not end where its successor begins.

    Raises JournalCorruptError and JournalUnsupportedError for the successor's header, too, OSError.
    """
    header = header_of(fs, successor, schema)
    try:
        check_succession(successor, header, walked.end)
    except JournalCorruptError as error:
        raise JournalCorruptError(
            walked.file.path,
            walked.found.offset,
            walked.end.sequence,
            f"it does not end where {successor.path.name} begins: {error.reason}",
        ) from None


def check_sealed(
    fs: ReadOnlyFileSystem, file: SegmentFile, data: bytes, successor: SegmentFile, schema: int
) -> None:
    """Check the bytes `data` of the segment `file`, and its end against its successor.

    Raises JournalCorruptError, JournalUnsupportedError, OSError.
    """
    walked, _ = read_one(fs, file, schema, None, data=data, sealed=True, verify_chain=True)
    check_continued(fs, walked, successor, schema)


def beginnings(fs: ReadOnlyFileSystem, copies: Iterable[SegmentFile], schema: int) -> set[Position]:
    """The positions before a segment, by the headers of its copies that can be read."""
    found = set()
    for copy in copies:
        with contextlib.suppress(MalformedError, UnsupportedError, OSError):
            found.add(claimed_position(read_header(fs, copy, schema)))
    return found


def has_copy(fs: ReadOnlyFileSystem, directory: Path, file: SegmentFile, data: bytes) -> bool:
    """Whether the archive has exactly these bytes in an undamaged file. Raises OSError."""
    try:
        copy = SegmentFile(file.first_sequence, archive_path(directory, file.first_sequence))
        return read_segment(fs, copy) == data
    except (MalformedError, UnsupportedError):
        return False


def is_archived(fs: ReadOnlyFileSystem, directory: Path, file: SegmentFile) -> bool:
    """Whether the archive has exactly the bytes of the segment `file`.

    Compares in pieces, for the process that answers requests. Raises OSError for the segment
    itself.
    """
    copy = SegmentFile(file.first_sequence, archive_path(directory, file.first_sequence))
    with open_segment(fs, file) as live:
        try:
            with open_segment(fs, copy) as archived:
                return live.size == archived.size and all(
                    live.read(CHUNK_BYTES, at) == archived.read(CHUNK_BYTES, at)
                    for at in range(0, live.size, CHUNK_BYTES)
                )
        except (MalformedError, UnsupportedError, FileNotFoundError, IsADirectoryError):
            return False
