"""Past states, rebuilt from a journal by the daemon's own projection."""

from __future__ import annotations

import contextlib
import time
from bisect import bisect_right
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from coild.process.clock_watch import ahead
from coild.rules.events import HistoryPruned
from coild.rules.holding import InconsistentEventError
from coild.rules.projection import Projection
from coild.vocabulary import VOCABULARY
from journal import Batch, JournalError, Reader, RejectedSnapshot, UnrecordedSnapshot
from journal.format import (
    MalformedError,
    UnsupportedError,
    list_snapshots,
    read_snapshot,
)
from tools.output import ToolError, journal_option, notice, progress

#: The projection's errors for events that contradict each other, or that do not decode.
CONTRADICTIONS = (InconsistentEventError, ValueError, TypeError, LookupError, OverflowError)


class NoEventError(ToolError):
    """The event `sequence` is behind the end of the journal, whose last event is `last`."""

    def __init__(self, sequence: int, last: int) -> None:
        self.last = last
        super().__init__(
            f"there is no event {sequence}: the journal ends with the sequence {last}; "
            "ask for that one or an earlier one"
        )


class Point(NamedTuple):
    """A point in the history: after event `sequence`, or at a time in ns; without both, its end."""

    sequence: int | None = None
    time: int | None = None

    def reach(self, batch: Batch) -> int:
        """The number of a batch's events that belong to the state at this point."""
        if self.sequence is not None:
            return max(0, min(len(batch.events), self.sequence - batch.first_sequence + 1))
        if self.time is not None:
            return bisect_right(batch.events, self.time, key=attrgetter("time"))
        return len(batch.events)


def open_reader(directory: Path) -> Reader:
    """A reader of coild's events.

    It only gives events that are known to be durable: a power cut could undo the others.
    """
    return Reader(
        directory,
        VOCABULARY.event_type,
        schema=VOCABULARY.schema,
        record_of=VOCABULARY.record_of,
        vouched_only=True,
    )


def rebuild(reader: Reader, point: Point, *, from_genesis: bool = False) -> Projection:
    """The state at a point. Raises ToolError if there is no such point, JournalError, OSError.

    The replay begins at the nearest snapshot, or with the first event.
    """
    state = Projection()
    if point.sequence == 0:
        return state
    _begin(reader, state, point, from_genesis=from_genesis)
    if state.sequence != point.sequence:
        with progress("replaying") as update:
            for batch in reader.batches(state.sequence + 1, progress=update):
                count = point.reach(batch)
                apply(state, batch.events[:count])
                # Events after the point may even be damaged.
                if count < len(batch.events) or state.sequence == point.sequence:
                    break
    if point.sequence is not None and state.sequence != point.sequence:
        raise NoEventError(point.sequence, state.sequence)
    return state


def apply(state: Projection, events: Sequence[Any]) -> None:
    """Apply the next events. Raises ToolError if they contradict earlier ones."""
    first = state.sequence + 1
    try:
        state.apply_all(events)
    except CONTRADICTIONS as error:
        raise ToolError(
            f"the events {first} to {first + len(events) - 1} make no state: {error}; "
            "coild-replay --check names the first that is wrong"
        ) from None


def oldest_state(reader: Reader) -> Projection:
    """The oldest known state: the empty one, or that of a snapshot if history was pruned.

    Raises as `rebuild`.
    """
    state = Projection()
    if reader.first == 1:
        return state
    for file in reversed(list_snapshots(reader.fs, reader.directory)):
        if file.sequence >= reader.first - 1:
            _, rejected = reader.restore(state.restore, file.sequence)
            tell_rejected(rejected)
            if state.sequence:
                return state
    raise gone(reader, usable=False)


def _begin(reader: Reader, state: Projection, point: Point, *, from_genesis: bool) -> None:
    """Set `state` to one from which the point can be reached."""
    if not from_genesis:
        until = point.sequence if point.time is None else _snapshot_at(reader, point.time)
        _, rejected = reader.restore(state.restore, until)
        tell_rejected(rejected)
    if state.sequence + 1 < reader.first:
        raise gone(reader)


def _snapshot_at(reader: Reader, time: int) -> int:
    """The sequence of the newest snapshot of a state at `time` or before, 0 if there is none."""
    for file in list_snapshots(reader.fs, reader.directory):
        try:
            if read_snapshot(reader.fs, file.path, reader.schema).time <= time:
                return file.sequence
        except (MalformedError, UnsupportedError, OSError):
            # A replay cannot begin at a snapshot that cannot be read.
            continue
    return 0


def tell_ahead(reader: Reader) -> None:
    """Warn if the newest event is ahead of the clock, by which `now` and `-2h` are understood.

    Damage of the journal is for others to report.
    """
    newest = None
    with contextlib.suppress(JournalError, OSError):
        for file in reversed(reader.files()):
            for batch in reader.batches(file.first_sequence):
                newest = batch.events[-1].time
            if newest is not None:
                break
    if newest is not None and (text := ahead(newest, time.time_ns())):
        notice(
            f"{text}: what happened lately has times ahead of the clock, too; give a time of the "
            "journal's, or none for its end"
        )


def tell_rejected(rejected: Sequence[RejectedSnapshot]) -> None:
    """Name the snapshots that could not be used, except those of an interrupted compaction."""
    for snapshot in rejected:
        if not isinstance(snapshot, UnrecordedSnapshot):
            notice(f"{snapshot.path} cannot be used: {snapshot.reason}")


def gone(reader: Reader, *, usable: bool = True) -> ToolError:
    """The error for a state that needs events from before the oldest segment.

    `usable` is whether the snapshots behind them can be read. Raises OSError.
    """
    snapshots = [file.sequence for file in list_snapshots(reader.fs, reader.directory)]
    oldest = min((at for at in snapshots if at >= reader.first - 1), default=None)
    rest = (
        f"the oldest state that can be rebuilt is that after event {oldest}"
        if usable and oldest is not None
        else "and no snapshot is left to begin with"
    )
    return ToolError(f"{lost(reader)}; {rest}")


def lost(reader: Reader) -> str:
    """The text on the events before the oldest segment: pruned by order, or missing."""
    before = reader.first - 1
    pruned = pruned_through(reader)
    if pruned >= before:
        return f"the events up to {before} were pruned"
    return (
        f"the events {pruned + 1} to {before} are missing, and the journal does not say that they "
        f"were pruned; run: coild-verify {journal_option(reader.directory)}"
    )


def pruned_through(reader: Reader) -> int:
    """The last sequence of the newest order to prune on record; 0 if there is none.

    It is recorded before any file is removed, so pruned events can be told from lost ones.
    """
    # Missing files show that their order was durable, whether anything follows it or not.
    reader = reader.to_the_end()
    for file in reversed(reader.files()):
        # A damaged segment has no readable order, but those before and behind it may.
        with contextlib.suppress(JournalError, OSError):
            batch = next(reader.batches(file.first_sequence), None)
            for event in reversed(batch.events if batch else ()):
                if isinstance(event, HistoryPruned):
                    return event.through
    return 0
