"""An append-only, crash-safe journal of msgspec events.

It knows nothing of addresses, pods or HTTP. `README.md` beside this file specifies the format and
the promises; `write.journal` is where to start reading.
"""

from journal.compact.estimating import Estimate, estimate
from journal.compact.prepare import Prepared, index_sealed, prepare
from journal.compact.prune import Policy, Pruning, plan_pruning, prune
from journal.compact.retire import Retired, Taken, covering, retire
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
from journal.format.index import Keys
from journal.format.snapshot import Snapshot
from journal.fs import FileSystem, OsFileSystem
from journal.read.find import find
from journal.read.follow import follow
from journal.read.indexed import Found
from journal.read.reader import Batch, Reader, read_events
from journal.read.replay_start import RejectedSnapshot, UnrecordedSnapshot
from journal.read.view import View
from journal.read.vocabulary import Vocabulary
from journal.read.vouching import SnapshotRecord
from journal.write.custody import Custody
from journal.write.journal import DEFAULT_SEGMENT_BYTES, Journal
from journal.write.recovery import Recovered
from journal.write.repair_note import SetAside

__all__ = [
    "DEFAULT_SEGMENT_BYTES",
    "Batch",
    "CompactionRunsError",
    "Custody",
    "Estimate",
    "EventTooLargeError",
    "FileSystem",
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
    "View",
    "Vocabulary",
    "covering",
    "estimate",
    "find",
    "follow",
    "index_sealed",
    "plan_pruning",
    "prepare",
    "prune",
    "read_events",
    "retire",
]
