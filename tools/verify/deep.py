"""`coild-verify --deep`: finds faults that need a replay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from coild.audit.invariants import BrokenInvariantError, Checker
from coild.rules.holding import InconsistentEventError
from coild.rules.projection import Projection
from coild.vocabulary import VOCABULARY
from journal import JournalCorruptError, Reader, View
from journal.check import Fault, Kind, Verified
from tools.output import progress


def replay(fs: View, directory: Path, verified: Verified) -> Iterator[Fault]:
    """Replay from genesis, or from the oldest snapshot if history was pruned; the fault, if any.

    Raises OSError.
    """
    state = Projection()
    checker = Checker()
    snapshots = {snapshot.sequence: snapshot for snapshot in verified.snapshots}
    if verified.beginning.sequence:
        if not snapshots:
            return
        oldest = snapshots.pop(min(snapshots))
        try:
            state.restore(oldest)
        except ValueError as error:
            yield Fault.of_snapshot(directory, oldest.sequence, str(error))
            return
        checker.begin(state)
    reader = Reader(directory, VOCABULARY.event_type, schema=VOCABULARY.schema, fs=fs)
    try:
        with progress("replaying") as update:
            for batch in reader.batches(state.sequence + 1, progress=update):
                if broken := _apply(state, checker, batch.events):
                    # The bytes are not damaged, so no file is named.
                    yield Fault(Kind.CONTRADICTION, directory, 0, checker.sequence - 1, broken)
                    return
                snapshot = snapshots.get(state.sequence)
                if snapshot is not None and state.dump() != snapshot.state:
                    reason = "its state is not the one that the events before it make"
                    yield Fault.of_snapshot(directory, snapshot.sequence, reason)
    except JournalCorruptError as error:
        yield Fault(Kind.SEGMENT, error.file, error.offset, error.last_sequence, error.reason)
        return
    if state.sequence < verified.head.sequence:
        reason = f"the events after {state.sequence} are nowhere any more"
        yield Fault(Kind.SEGMENT, directory, 0, state.sequence, reason)


def _apply(state: Projection, checker: Checker, events: Sequence[Any]) -> str | None:
    """Apply the events to the state and to the books; the fault, if any."""
    try:
        for event in events:
            checker.check(event)
        state.apply_all(events)
        checker.compare(state)
    except (BrokenInvariantError, InconsistentEventError, ValueError) as error:
        return str(error)
    return None
