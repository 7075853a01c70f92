"""The plan of a compaction: for a dry run, of the daemon as of the tool. Writes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from coild.rules.events import (
    Event,
    HistoryPruned,
    JournalCompacted,
    SegmentsIndexed,
    SnapshotTaken,
)
from coild.upkeep.prune_orders import describe
from coild.vocabulary import VOCABULARY
from journal import OsFileSystem, Policy, Pruning, covering, estimate, read_events

#: So many events after a snapshot may be of compactions alone: each leaves three, or four.
_BOOKKEEPING_MAX = 100
_BOOKKEEPING = (SnapshotTaken, JournalCompacted, HistoryPruned, SegmentsIndexed)


class CompactionPlan(msgspec.Struct, frozen=True, rename="kebab", kw_only=True):
    """What a compaction would do. Sizes are in bytes; those in the archive are estimates."""

    dry_run: Literal[True] = True
    #: Nothing has happened since the last one, so nothing would be written.
    nothing_new: bool = False
    #: What would be archived: how many segments, their bytes now and there.
    segments: int
    segment_bytes: int
    archive_bytes: int
    #: What the archive has now.
    archive_bytes_now: int


class PruningPlan(CompactionPlan, frozen=True, rename="kebab", kw_only=True):
    """The same, and what of the archive would then be removed by order."""

    order: str
    pruned_through: int
    pruned_segments: int
    pruned_bytes: int


def plan_compaction(
    fs: OsFileSystem, directory: Path, last: int, policy: Policy | None = None, now: int = 0
) -> CompactionPlan:
    """What a compaction would do to a journal whose last event is `last`.

    With a `policy`, the age of history is counted from `now`, in ns since the epoch. A writer may
    be at work. Raises JournalError, OSError.
    """
    nothing_new = snapshot_with_nothing_new(fs, directory, last) is not None
    found = estimate(fs, directory, VOCABULARY.schema, 0 if nothing_new else last, policy, now)
    sizes = found._asdict()
    pruning = sizes.pop("pruning") or Pruning(0, 0, 0)
    if policy is None:
        return CompactionPlan(nothing_new=nothing_new, **sizes)
    return PruningPlan(
        nothing_new=nothing_new,
        **sizes,
        order=describe(policy),
        pruned_through=pruning.through,
        pruned_segments=pruning.segments,
        pruned_bytes=pruning.bytes,
    )


def snapshot_with_nothing_new(fs: OsFileSystem, directory: Path, last: int) -> SnapshotTaken | None:
    """The record of the newest snapshot, if nothing up to the event `last` is worth another one.

    Raises JournalError, OSError.
    """
    snapshot = covering(fs, directory, VOCABULARY.schema)
    if snapshot is None or last - snapshot.sequence > _BOOKKEEPING_MAX:
        return None
    taken: SnapshotTaken | None = None
    for _, event in read_events(
        directory, Event, schema=VOCABULARY.schema, start=snapshot.sequence + 1
    ):
        if not isinstance(event, _BOOKKEEPING):
            return None
        if isinstance(event, SnapshotTaken):
            taken = event
    # The journal has to vouch for it; if a crash came before that, it is done again.
    if taken is None or (taken.sequence, taken.digest.hex()) != (
        snapshot.sequence,
        snapshot.digest,
    ):
        return None
    return taken
