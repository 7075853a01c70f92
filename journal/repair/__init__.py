"""Cuts off a damaged journal where its damage starts, when an operator orders it."""

from journal.repair.losses import lost_events
from journal.repair.plan import StraySegmentError, Truncation, plan_truncation
from journal.repair.truncate import truncate
from journal.write.custody import acquire_lock
from journal.write.repair_note import unrecorded

__all__ = [
    "StraySegmentError",
    "Truncation",
    "acquire_lock",
    "lost_events",
    "plan_truncation",
    "truncate",
    "unrecorded",
]
