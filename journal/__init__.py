"""An append-only, crash-safe journal of msgspec events.

It knows nothing of addresses, pods or HTTP. `README.md` beside this file specifies the format and
the promises; `writer` is where to start reading.
"""

from journal.errors import (
    EventTooLargeError,
    JournalBusyError,
    JournalCorruptError,
    JournalError,
    JournalFailedError,
    JournalFullError,
    JournalLockedError,
    JournalUnsupportedError,
)
from journal.fs import OsFileSystem
from journal.reader import read_events
from journal.recovery import Recovered, TornTail
from journal.writer import DEFAULT_SEGMENT_BYTES, Journal

__all__ = [
    "DEFAULT_SEGMENT_BYTES",
    "EventTooLargeError",
    "Journal",
    "JournalBusyError",
    "JournalCorruptError",
    "JournalError",
    "JournalFailedError",
    "JournalFullError",
    "JournalLockedError",
    "JournalUnsupportedError",
    "OsFileSystem",
    "Recovered",
    "TornTail",
    "read_events",
]
