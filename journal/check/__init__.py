"""Whether a journal is whole: every byte, every file, and how they hang together."""

from journal.check.files import missing
from journal.check.findings import Anchor, Fault, Gap, Kind, Verified
from journal.check.verify import opens, verify

__all__ = ["Anchor", "Fault", "Gap", "Kind", "Verified", "missing", "opens", "verify"]
