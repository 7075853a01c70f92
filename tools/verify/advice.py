"""Explains faults of a journal: their meaning, and advice what to do next."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import NamedTuple

from journal.check import Fault, Kind, Verified
from journal.format import snapshot_path
from journal.repair import StraySegmentError, Truncation
from tools.output import journal_option
from tools.verify.check import pruned_through

EXIT_GOOD, EXIT_TORN, EXIT_CORRUPT, EXIT_UNREADABLE = range(4)


_STATUS = {
    Kind.TORN: EXIT_TORN,
    Kind.UNSUPPORTED: EXIT_UNREADABLE,
    Kind.UNREADABLE: EXIT_UNREADABLE,
}


#: Faults of files that may have had the order to prune.
_HIDING = {Kind.TORN, Kind.SEGMENT, Kind.MISSING, Kind.UNSUPPORTED, Kind.UNREADABLE}


class Advice(NamedTuple):
    """A fault, its meaning, and the advice what to do next."""

    fault: Fault
    meaning: str
    next: str

    @property
    def status(self) -> int:
        """The exit status of this fault alone."""
        return _STATUS.get(self.fault.kind, EXIT_CORRUPT)


class Found(NamedTuple):
    """The findings on a journal.

    `starts` is whether coild starts with it, `planned` what `coild-repair` would do.
    """

    directory: Path
    verified: Verified
    faults: list[Fault]
    starts: bool
    planned: Truncation | StraySegmentError | None

    def cut(self, fault: Fault) -> Truncation | None:
        """The cut that `coild-repair` would make, if that ends this fault."""
        cut = self.planned
        if isinstance(cut, Truncation) and fault.last_sequence >= cut.last_sequence:
            return cut
        return None

    @property
    def stray(self) -> StraySegmentError | None:
        """The file that is no part of the journal, and without which it may be whole."""
        return self.planned if isinstance(self.planned, StraySegmentError) else None


def explain(found: Found, fault: Fault) -> Advice:
    """The meaning of a fault, and the advice what to do next."""
    directory = found.directory
    journal = journal_option(directory)
    if fault.kind is Kind.TORN:
        return Advice(
            fault,
            "an unfinished write that nobody was told was durable, or that a running daemon is "
            "just making",
            ("nothing: " if found.starts else "mend the other faults, then ")
            + "the next start of coild sets it aside"
            + (
                f"; without a start, run: coild-repair --truncate-tail {journal}"
                if found.cut(fault)
                else ""
            ),
        )
    if fault.kind is Kind.UNSUPPORTED:
        return Advice(
            fault,
            "it is not damaged, but a newer version wrote it",
            "use the version of coild that wrote it",
        )
    if fault.kind is Kind.CONTRADICTION:
        return Advice(
            fault,
            "the files are whole, but the events in them contradict each other",
            f"keep a copy of {directory} and report it: whatever wrote it has a bug; to see "
            f"more, run: coild-replay --check {journal}",
        )
    if fault.kind is Kind.UNREADABLE:
        return Advice(
            fault,
            "whether it is damaged cannot be told, nor what follows it be trusted",
            "run coild-verify as a user who may read it, or look for errors of the disk (dmesg)",
        )
    if fault.kind is Kind.INDEX:
        return Advice(
            fault,
            "the events are whole, and coild-history says nothing that the journal does not vouch "
            "for; but somebody has altered the file",
            f"remove {fault.file}: coild-history or the next coild-compact makes another",
        )
    judge = {Kind.SNAPSHOT: _explain_snapshot, Kind.MISSING: _explain_missing}
    return judge.get(fault.kind, _explain_segment)(found, fault)


def _explain_snapshot(found: Found, fault: Fault) -> Advice:
    directory, verified = found.directory, found.verified
    journal = journal_option(directory)
    others = any(
        snapshot.sequence >= verified.beginning.sequence
        and snapshot_path(directory, snapshot.sequence) != fault.file
        for snapshot in verified.snapshots
    )
    meaning = "a start falls back to an older state, and takes longer"
    remedy = f"run: coild-compact {journal}; it makes another in its place"
    if not fault.file.is_file():
        remedy = f"remove it, then run: coild-compact {journal}; it makes another"
    if verified.beginning.sequence and not others:
        meaning = "the state after what was pruned is nowhere else"
        remedy = f"restore {fault.file} from a backup: no other snapshot covers what was pruned"
    if not found.starts:
        meaning += ", and coild refuses to start"
    return Advice(fault, meaning, remedy)


def _explain_segment(found: Found, fault: Fault) -> Advice:
    directory = found.directory
    journal = journal_option(directory)
    archived = fault.file.name.endswith(".zst")
    if fault.kind is Kind.COPY:
        return Advice(
            fault,
            "the other copy of this segment is good, so nothing is lost",
            f"remove it, and run: coild-compact {journal}"
            if archived
            else f"{'' if fault.file.is_file() else 'remove it, then '}make it again, run: zstd -d "
            f"-f {_quoted(directory / 'archive' / f'{fault.file.name}.zst')} "
            f"-o {_quoted(fault.file)}",
        )
    if found.stray:
        return _explain_stray(found, fault, found.stray)
    cut = None if archived else found.cut(fault)
    if cut is None:
        return Advice(
            fault,
            "history was altered or lost there: events after that sequence cannot be trusted, "
            "until the next good segment or snapshot"
            + ("" if found.starts else "; coild refuses to start"),
            f"restore {fault.file} from a backup of this journal",
        )
    return Advice(
        fault,
        "events after that sequence cannot be trusted"
        + ("" if found.starts else ", and coild refuses to start with them"),
        f"restore {fault.file} from a backup, or lose all events after {cut.last_sequence}, "
        f"run: coild-repair --truncate-tail {journal}",
    )


def _explain_missing(found: Found, fault: Fault) -> Advice:
    directory, verified = found.directory, found.verified
    journal = journal_option(directory)
    again = f"run: coild-verify {journal}"
    restore = f"restore {fault.file} from a backup of this journal"
    gap = fault.gap
    pruned = pruned_through(verified)
    if gap is not None and gap.last is not None and gap.last <= pruned:
        return Advice(
            fault,
            f"the journal says that its events up to {pruned} were pruned, but older ones than "
            "these are still there; what is behind them is whole",
            f"{restore}, or remove what is left from before it in {directory / 'archive'}, "
            f"then {again}",
        )
    if found.stray:
        return _explain_stray(found, fault, found.stray)
    newest = max((snapshot.sequence for snapshot in verified.snapshots), default=0)
    said = (
        f"the journal says only that its events up to {pruned} were pruned"
        if pruned
        else "the journal does not say that they were pruned"
    )
    others = [other for other in found.faults if other != fault and other.kind in _HIDING]
    if others:
        said += ", though the order may be in what is damaged or missing"
    if gap is not None and gap.last is not None and gap.last <= newest:
        covered = "the state is whole, its history is not, and "
    else:
        covered = "no snapshot covers them, and "
    covered += "coild starts" if found.starts else "coild refuses to start"
    remedy = f"{restore}, then {again}"
    if cut := found.cut(fault):
        remedy += (
            f"; or lose all events after {cut.last_sequence}, "
            f"run: coild-repair --truncate-tail {journal}"
        )
    return Advice(fault, f"{said}; {covered}", remedy)


def _explain_stray(found: Found, fault: Fault, stray: StraySegmentError) -> Advice:
    refused = "" if found.starts else ", and coild refuses to start with it"
    return Advice(
        fault,
        f"{stray.file} is no part of this journal: {stray.reason}{refused}",
        f"move {stray.file} to another directory, then run: "
        f"coild-verify {journal_option(found.directory)}",
    )


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
