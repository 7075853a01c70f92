"""An append-only, crash-safe journal of msgspec events.

It knows nothing of addresses, pods or HTTP. `README.md` beside this file specifies the format and
the promises; `writer` is where to start reading.
"""

from journal.beginning import RejectedSnapshot, UnrecordedSnapshot
from journal.compaction import Prepared, Vocabulary, index_sealed, prepare
from journal.covered import covering
from journal.errors import (
    CompactionRunsError,
    EventTooLargeError,
    JournalBusyError,
    JournalClockError,
    JournalCorruptError,
    JournalDisplacedError,
    JournalError,
    JournalFailedError,
    JournalFullError,
    JournalLockedError,
    JournalUnsupportedError,
)
from journal.estimating import Estimate, estimate
from journal.follow import follow
from journal.fs import OsFileSystem
from journal.history import find
from journal.index import Keys
from journal.indexed import Found
from journal.pruning import Policy, Pruning, plan, prune
from journal.reader import Batch, Reader, read_events
from journal.recovery import Recovered
from journal.retiring import Retired, Taken, retire
from journal.set_aside import SetAside
from journal.snapshot import Snapshot
from journal.vouching import SnapshotRecord
from journal.writer import DEFAULT_SEGMENT_BYTES, Journal

__all__ = [
    "DEFAULT_SEGMENT_BYTES",
    "Batch",
    "CompactionRunsError",
    "Estimate",
    "EventTooLargeError",
    "Found",
    "Journal",
    "JournalBusyError",
    "JournalClockError",
    "JournalCorruptError",
    "JournalDisplacedError",
    "JournalError",
    "JournalFailedError",
    "JournalFullError",
    "JournalLockedError",
    "JournalUnsupportedError",
    "Keys",
    "OsFileSystem",
    "Policy",
    "Prepared",
    "Pruning",
    "Reader",
    "Recovered",
    "RejectedSnapshot",
    "Retired",
    "SetAside",
    "Snapshot",
    "SnapshotRecord",
    "Taken",
    "UnrecordedSnapshot",
    "Vocabulary",
    "covering",
    "estimate",
    "find",
    "follow",
    "index_sealed",
    "plan",
    "prepare",
    "prune",
    "read_events",
    "retire",
]
