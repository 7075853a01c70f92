"""The checks of `coild-verify`: the bytes, the events' records of the files, and a replay."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from coild.rules.events import HistoryPruned, SnapshotTaken
from coild.rules.holding import InconsistentEventError
from coild.rules.projection import Projection
from coild.vocabulary import VOCABULARY
from journal import FileSystem, JournalCorruptError, JournalError, View
from journal.check import Anchor, Fault, Gap, Kind, Verified, missing, opens, verify
from journal.format import list_snapshots, snapshot_path
from journal.repair import StraySegmentError, Truncation, plan_truncation
from tools.output import journal_option, progress
from tools.verify.deep import replay

#: Faults that do not prevent a replay.
_REPLAYABLE = {Kind.TORN, Kind.INDEX}


@dataclass
class Checked:
    """The result of checking a journal, and all its faults."""

    fs: FileSystem
    directory: Path
    verified: Verified
    faults: list[Fault]

    @cached_property
    def starts(self) -> bool:
        """Whether coild starts with the journal as it is.

        Reads what a start reads, changes nothing; so does `planned`.
        """
        try:
            opens(self.fs, self.directory, VOCABULARY, Projection())
        except (JournalError, InconsistentEventError, ValueError, OSError):
            return False
        return True

    @cached_property
    def planned(self) -> Truncation | StraySegmentError | None:
        """The cut of `coild-repair`, or why it waits; None if it would cut nothing off."""
        now = time.time_ns()
        try:
            return plan_truncation(self.fs, self.directory, VOCABULARY, Projection(), now)
        except StraySegmentError as error:
            return error
        except (JournalError, InconsistentEventError, ValueError, OSError):
            return None

    @property
    def stray(self) -> StraySegmentError | None:
        """The file that is no part of the journal, and without which it may be whole."""
        return self.planned if isinstance(self.planned, StraySegmentError) else None

    def cut(self, fault: Fault) -> Truncation | None:
        """The cut that `coild-repair` would make, if that ends this fault."""
        cut = self.planned
        if isinstance(cut, Truncation) and fault.last_sequence >= cut.last_sequence:
            return cut
        return None

    @property
    def journal(self) -> str:
        """The option that names the journal to a tool."""
        return journal_option(self.directory)


def check(
    fs: FileSystem, directory: Path, *, anchor: Anchor | None = None, deep: bool = False
) -> Checked:
    """Check a journal, which may be written, compacted and pruned meanwhile.

    Raises OSError.
    """
    with View.of(fs, directory) as view:
        verified, faults = _check_files(view, directory, anchor)
        if deep and all(fault.kind in _REPLAYABLE for fault in faults):
            faults.extend(replay(view, directory, verified))
    return Checked(fs, directory, verified, faults)


def _check_files(fs: View, directory: Path, anchor: Anchor | None) -> tuple[Verified, list[Fault]]:
    try:
        with progress("verifying") as update:
            verified = verify(
                fs,
                directory,
                VOCABULARY,
                wanted=(HistoryPruned, SnapshotTaken),
                anchor=anchor,
                progress=update,
            )
    except JournalCorruptError as error:
        fault = Fault(Kind.SEGMENT, error.file, error.offset, error.last_sequence, error.reason)
        return Verified(), [fault]
    faults = [*verified.faults, *_judge_snapshots(directory, verified)]
    # If the beginning is lost, it is not reported that no snapshot covers it.
    faults += list(_missing_beginning(fs, directory, verified)) or _missing_snapshot(
        fs, directory, verified
    )
    if not verified.segments and not faults:
        faults.append(Fault(Kind.SEGMENT, directory, 0, 0, "its segments are missing"))
    return verified, faults + verified.altered_indexes


def _judge_snapshots(directory: Path, verified: Verified) -> list[Fault]:
    """Sort the snapshots by the journal's records; those that it contradicts are faults."""
    digests: dict[int, bytes] = {}
    for found in verified.events:
        if isinstance(found.event, SnapshotTaken):
            # As for a start, the first record counts.
            digests.setdefault(found.event.sequence, found.event.digest)
    whole = all(fault.kind is Kind.TORN for fault in verified.faults)
    faults = []
    snapshots, verified.snapshots = verified.snapshots, []
    for snapshot in snapshots:
        recorded = digests.get(snapshot.sequence)
        if recorded is None and whole:
            verified.unrecorded.append(snapshot)
            continue
        verified.snapshots.append(snapshot)
        # If the journal is damaged, the record may be in the damaged part.
        if recorded is not None and recorded.hex() != snapshot.digest:
            reason = f"its state has digest {snapshot.digest}, the journal says {recorded.hex()}"
            faults.append(Fault.of_snapshot(directory, snapshot.sequence, reason))
    return faults


def _missing_beginning(fs: View, directory: Path, verified: Verified) -> Iterator[Fault]:
    """The fault if the oldest segments are missing; none if that was ordered."""
    before = verified.beginning.sequence
    pruned = pruned_through(verified)
    if pruned < before:
        yield missing(fs, directory, Gap(pruned + 1, before), pruned)


def _missing_snapshot(fs: View, directory: Path, verified: Verified) -> Iterator[Fault]:
    """The fault if history was pruned, and no snapshot has the state after that."""
    before = verified.beginning.sequence
    if not before or pruned_through(verified) < before:
        return
    # A bad snapshot was reported already.
    unrecorded = {snapshot.sequence for snapshot in verified.unrecorded}
    if any(
        file.sequence >= before and file.sequence not in unrecorded
        for file in list_snapshots(fs, directory)
    ):
        return
    taken = (found.event for found in verified.events if isinstance(found.event, SnapshotTaken))
    newest = max((event.sequence for event in taken if event.sequence >= before), default=before)
    yield Fault(
        Kind.SNAPSHOT,
        snapshot_path(directory, newest),
        0,
        before,
        f"there is no snapshot, and the segments begin after event {before} only",
    )


def pruned_through(verified: Verified) -> int:
    """The last event that was pruned by the journal's records; 0 if there is none."""
    orders = (found.event for found in verified.events if isinstance(found.event, HistoryPruned))
    return max((order.through for order in orders), default=0)
