"""Checks a journal: every byte, every file, and the links between them."""

from journal.check.files import missing
from journal.check.findings import Anchor, Fault, Gap, Kind, Verified
from journal.check.verify import opens, verify

__all__ = ["Anchor", "Fault", "Gap", "Kind", "Verified", "missing", "opens", "verify"]
