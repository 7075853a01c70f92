"""Checks that events shown by the tools beside a writer survive any power cut after that.

The workloads are those of `verifying`. Before every call to the disk the journal is read as the
tools read it; then a crash comes, and the disk that it leaves must have all events shown.
"""

from __future__ import annotations

import random
from typing import Any, NamedTuple

from coild.rules.projection import Projection
from coild.vocabulary import VOCABULARY
from journal import JournalError, Reader
from journal.check.findings import Anchor
from tests.crash.journal.session import DIRECTORY, seeded_ids
from tests.crash.journal.verifying import CoildSession, has_journal
from tests.crash.journal.workloads import WORKLOADS
from tests.crash.simulated.disk import SimulatedDisk
from tests.crash.simulated.fates import Bounds
from tests.crash.simulated.states import states
from tools.verify.check import check

_BOUNDS = Bounds(fates_max=9, names_max=8, product_max=12, samples=3)
_FAILURES_SHOWN = 3


class Shown(NamedTuple):
    """Events by their sequence, and the head that is said to be theirs."""

    events: dict[int, Any]
    head: Anchor


class Tried(NamedTuple):
    """The number of disks checked, of events held back, and the events lost."""

    disks: int
    held_back: int
    failures: list[str]


def try_showing(workload: str, seed: int, disks: int, *, vouched_only: bool = True) -> Tried:
    """Look at up to so many disks that crashes of a workload leave."""
    session = CoildSession(f"{workload} {seed}")
    with seeded_ids(f"ids {workload} {seed}"):
        WORKLOADS[workload](session)
    choice = random.Random(f"showing {workload} {seed}")  # noqa: S311
    moments = session.end()
    choice.shuffle(moments)
    each = -(-disks // len(moments))
    tried = held_back = 0
    failures: list[str] = []
    for moment in moments[:disks]:
        if not has_journal(moment.disk):
            continue
        shown = _show(moment.disk, vouched_only=vouched_only)
        held_back += len(_events(moment.disk, vouched_only=False)) - len(shown.events)
        left = list(states(moment.disk, choice, _BOUNDS))
        for state in choice.sample(left, min(each, len(left))):
            tried += 1
            try:
                _look_for(shown, state.disk)
            except (AssertionError, JournalError) as error:
                failures.append(
                    f"{workload}, seed {seed}, before call {moment.number} `{moment.call}`, "
                    f"{state.choice}: {error}"
                )
                if len(failures) >= _FAILURES_SHOWN:
                    return Tried(tried, held_back, failures)
    return Tried(tried, held_back, failures)


def _reader(disk: SimulatedDisk, *, vouched_only: bool) -> Reader:
    return Reader(
        DIRECTORY,
        VOCABULARY.event_type,
        schema=VOCABULARY.schema,
        record_of=VOCABULARY.record_of,
        vouched_only=vouched_only,
        fs=disk,
    )


def _events(disk: SimulatedDisk, *, vouched_only: bool) -> dict[int, Any]:
    return {
        sequence: event
        for batch in _reader(disk, vouched_only=vouched_only).batches()
        for sequence, event in enumerate(batch.events, start=batch.first_sequence)
    }


def _show(disk: SimulatedDisk, *, vouched_only: bool) -> Shown:
    """The events shown now: the history, the state at its end, the head of a check."""
    events = _events(disk, vouched_only=vouched_only)
    reader = _reader(disk, vouched_only=vouched_only)
    state = Projection()
    reader.restore(state.restore)
    for batch in reader.batches(state.sequence + 1):
        state.apply_all(batch.events)
    assert state.sequence == max(events, default=state.sequence), "the state has a later end"
    head = check(disk, DIRECTORY).verified.vouched
    return Shown(events, Anchor(head.sequence, head.digest))


def _look_for(shown: Shown, disk: SimulatedDisk) -> None:
    """Raise AssertionError unless a disk has what was shown, but for what is pruned."""
    if not has_journal(disk):
        assert not shown.events, "nothing is left"
        return
    left = _events(disk, vouched_only=False)
    verified = check(disk, DIRECTORY, anchor=shown.head).verified
    beginning = verified.beginning.sequence
    lost = [
        sequence
        for sequence, event in shown.events.items()
        if sequence > beginning and left.get(sequence) != event
    ]
    assert not lost, f"the events {lost} were shown, and are lost"
    assert verified.anchored or shown.head.sequence <= beginning, "its head is not there"
