"""Reading a journal without its lock and without changing it: for tools, copies and tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from journal.codec import MalformedError, SegmentHeader, UnsupportedError, decode_header
from journal.errors import JournalCorruptError, JournalUnsupportedError
from journal.fs import FileSystem, OsFileSystem
from journal.recovery import check_succession
from journal.scan import End, Scan, scan
from journal.segments import SegmentFile, list_segments, read_file


def read_events(
    directory: Path, event_type: Any, *, schema: int, fs: FileSystem | None = None
) -> Iterator[tuple[int, Any]]:
    """Each event of `directory` with its sequence, oldest first, up to the last whole frame.

    One segment is in memory at a time. Raises JournalCorruptError, JournalUnsupportedError,
    OSError; a torn tail is where a journal ends.
    """
    fs = fs or OsFileSystem()
    decoder = msgspec.msgpack.Decoder(list[event_type])
    files = list_segments(fs, directory)
    before: tuple[SegmentFile, SegmentHeader, Scan] | None = None
    for file in files:
        sealed = file is not files[-1]
        events: list[Any] = []
        try:
            header, found = _read_segment(fs, file.path, schema, decoder, events)
            # What a live writer adds while the file is being read can look like damage: a page from
            # before a frame, the page behind it from after the next one. But whoever looks again
            # gets further then. Damage stays where it is.
            while found.end is End.CORRUPT and not sealed:
                offset = found.offset
                header, found = _read_segment(fs, file.path, schema, decoder, events)
                if found.offset == offset:
                    break
            check_succession(file, header, before)
        except MalformedError as error:
            last = before[2].next_sequence - 1 if before else 0
            raise JournalCorruptError(file.path, 0, last, str(error)) from None
        except UnsupportedError as error:
            raise JournalUnsupportedError(file.path, str(error)) from None
        yield from enumerate(events, start=header.first_sequence)
        if found.end is End.CORRUPT or (found.end is End.TORN and sealed):
            raise JournalCorruptError(
                file.path, found.offset, found.next_sequence - 1, found.reason
            )
        before = file, header, found


def _read_segment(
    fs: FileSystem,
    path: Path,
    schema: int,
    decoder: msgspec.msgpack.Decoder[list[Any]],
    events: list[Any],
) -> tuple[SegmentHeader, Scan]:
    """Read one segment, and make `events` those that it holds."""
    events.clear()
    data = read_file(fs, path)
    header = decode_header(data, schema)
    return header, scan(data, header, decoder, events.extend)
