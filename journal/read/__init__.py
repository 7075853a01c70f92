"""Reading a journal: from where a replay starts, to the end, or for one key."""

from journal.read.head import read_head
from journal.read.tail import newest_segment_bytes, wait_vouched

__all__ = ["newest_segment_bytes", "read_head", "wait_vouched"]
