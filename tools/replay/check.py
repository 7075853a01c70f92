"""`coild-replay --check`: every event against every invariant."""

from __future__ import annotations

from typing import Any

from coild.audit.invariants import BrokenInvariantError, Checker, Invariant
from coild.rules.events import SnapshotTaken
from coild.rules.projection import Projection
from journal import JournalError, Reader
from tools.output import notice, progress
from tools.past import CONTRADICTIONS, lost, oldest_state


def check_history(reader: Reader) -> tuple[int, Projection]:
    """Check all events of the journal, in order; the first sequence, and the state after the last.

    Raises BrokenInvariantError for the first that breaks an invariant, JournalError, OSError,
    ToolError.
    """
    state = oldest_state(reader)
    first = state.sequence + 1
    if state.sequence:
        notice(
            f"{lost(reader)}; the check begins with the snapshot after event "
            f"{state.sequence}, which is taken as it is"
        )
    snapshots, last = _snapshots(reader, first)
    checker = Checker()
    checker.begin(state)
    if state.sequence in snapshots:
        checker.digests[state.sequence] = bytes.fromhex(state.digest())
    with progress("checking") as update:
        for batch in reader.batches(first, progress=update):
            for sequence, event in enumerate(batch.events, start=batch.first_sequence):
                # A live daemon goes on; its later snapshots would not be known here.
                if last is not None and sequence > last:
                    break
                checker.check(event)
                _apply(state, event)
                if sequence in snapshots:
                    checker.digests[sequence] = bytes.fromhex(state.digest())
    checker.compare(state)
    return first, state


def _snapshots(reader: Reader, first: int) -> tuple[set[int], int | None]:
    """The sequences of recorded snapshots, and the last sequence of the journal.

    They are looked up first, because a snapshot's record comes after later events, when its state
    is gone. The last sequence is None if the journal is damaged: the check will find out where.
    """
    sequences: set[int] = set()
    last = first - 1
    try:
        with progress("looking for snapshots") as update:
            for batch in reader.batches(first, progress=update):
                sequences.update(
                    event.sequence for event in batch.events if type(event) is SnapshotTaken
                )
                last = batch.first_sequence + len(batch.events) - 1
    except JournalError:
        return sequences, None
    return sequences, last


def _apply(state: Projection, event: Any) -> None:
    try:
        state.apply(event)
    except CONTRADICTIONS as error:
        raise BrokenInvariantError(
            state.sequence + 1, event, Invariant.PROJECTION, f"it refuses the event: {error}"
        ) from None
