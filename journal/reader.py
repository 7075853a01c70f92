"""Reading a journal without its lock and without changing it: for tools, copies and tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from journal.codec import MalformedError, UnsupportedError, decode_header
from journal.errors import JournalCorruptError, JournalUnsupportedError
from journal.fs import FileSystem, OsFileSystem
from journal.scan import End, scan
from journal.segments import list_segments, read_file


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
    for index, file in enumerate(files):
        data = read_file(fs, file.path)
        events: list[Any] = []
        try:
            header = decode_header(data, schema)
            found = scan(data, header, decoder, events.extend)
        except MalformedError as error:
            raise JournalCorruptError(file.path, 0, file.first_sequence - 1, str(error)) from None
        except UnsupportedError as error:
            raise JournalUnsupportedError(file.path, str(error)) from None
        yield from enumerate(events, start=header.first_sequence)
        last = index == len(files) - 1
        if found.end is End.CORRUPT or (found.end is End.TORN and not last):
            raise JournalCorruptError(
                file.path, found.offset, found.next_sequence - 1, found.reason
            )
