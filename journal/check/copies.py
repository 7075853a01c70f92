"""Chooses the copy of a segment that counts, when it is in the archive and not yet removed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from journal.check.findings import Fault, Kind
from journal.format.chain import Position, Walked
from journal.read.indexed import Found


class Copy(NamedTuple):
    """One copy of a segment, read whole."""

    walked: Walked
    data: bytes
    events: list[Found]


def choose(
    good: Sequence[Copy], bad: Sequence[Fault], ends: set[Position]
) -> tuple[Copy, list[Fault]]:
    """The copy that counts, of one or more `good` ones, and the faults of the others.

    `ends` is where the segment ends by its successor and the snapshots. If it is empty, all `good`
    copies count. A copy that ends elsewhere is valid, but lacks events or has altered ones.
    """
    true = [copy for copy in good if copy.walked.end in ends] or good
    chosen = true[0]
    faults = list(bad)
    if not ends or chosen.walked.end in ends:
        # No event is lost: the other copy is damaged, not the segment.
        faults = [
            fault._replace(kind=Kind.COPY) if fault.kind is Kind.SEGMENT else fault for fault in bad
        ]
    for copy in good:
        if copy.data == chosen.data:
            continue
        reason = (
            "the two copies of this segment differ"
            if copy in true
            else "it does not end where the next segment begins, as its other copy does"
        )
        file, header, _ = copy.walked
        faults.append(Fault(Kind.COPY, file.path, 0, header.previous_sequence, reason))
    return chosen, faults
