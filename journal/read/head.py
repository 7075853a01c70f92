"""The head of a journal, from its last segment alone."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from journal.errors import JournalCorruptError
from journal.format.chain import read_one, read_stable
from journal.format.scan import Scan
from journal.format.segments import SegmentFile, list_segments
from journal.fs import FileSystem
from journal.read.view import View


def read_head(fs: FileSystem, directory: Path, schema: int) -> tuple[SegmentFile, Scan]:
    """The last segment and where it ends, without the ones before it.

    Raises JournalCorruptError, JournalUnsupportedError, OSError.
    """
    with View.of(fs, directory, sys.maxsize) as view:
        files = list_segments(view, directory)
        if not files:
            raise JournalCorruptError(directory, 0, 0, "its newest segments are missing")
        read = partial(read_one, view, files[-1], schema, None, sealed=False)
        walked, _ = read_stable(read)
    return walked.file, walked.found
