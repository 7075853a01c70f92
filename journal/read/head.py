"""The head of a journal, from its last segment alone."""

from __future__ import annotations

from pathlib import Path

from journal.errors import JournalCorruptError, JournalUnsupportedError
from journal.format.chain import check_end
from journal.format.codec import MalformedError, UnsupportedError, decode_header
from journal.format.scan import End, Scan, scan
from journal.format.segments import SegmentFile, list_segments, read_file
from journal.fs import FileSystem


def read_head(fs: FileSystem, directory: Path, schema: int) -> tuple[SegmentFile, Scan]:
    """The last segment and where it ends, without the ones before it.

    Raises JournalCorruptError, JournalUnsupportedError, OSError.
    """
    seen: tuple[Path, int] | None = None
    while True:
        files = list_segments(fs, directory)
        if not files:
            raise JournalCorruptError(directory, 0, 0, "its newest segments are missing")
        file = files[-1]
        found = None
        last = file.first_sequence - 1
        try:
            data = read_file(fs, file.path)
            header = decode_header(data, schema)
            found = scan(data, header)
            check_end(file, found, sealed=False)
        except FileNotFoundError:
            # It was sealed, archived and removed meanwhile.
            if list_segments(fs, directory) == files:
                raise
            continue
        except UnsupportedError as error:
            raise JournalUnsupportedError(file.path, str(error)) from None
        except (MalformedError, JournalCorruptError) as error:
            if seen == (file.path, found.offset if found else 0):
                if isinstance(error, JournalCorruptError):
                    raise
                raise JournalCorruptError(file.path, 0, last, str(error)) from None
        if found is not None and (found.end is End.CLEAN or seen == (file.path, found.offset)):
            return file, found
        seen = file.path, found.offset if found else 0
