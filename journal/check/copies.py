"""Which copy of a segment counts, when it is in the archive and not yet removed."""

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
    """The copy that counts, of one or more `good` ones, and what is wrong with the others.

    `ends` is what others say of where the segment ends; where nobody does, all `good` ones are. One
    that ends elsewhere is whole by itself, but events are missing from it or were altered.
    """
    true = [copy for copy in good if copy.walked.end in ends] or good
    chosen = true[0]
    faults = list(bad)
    if not ends or chosen.walked.end in ends:
        # What the other copy has is not lost.
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
