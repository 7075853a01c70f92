"""Explains faults of a journal: their meaning, and advice what to do next."""

from __future__ import annotations

import shlex
from typing import NamedTuple

from journal.check import Fault, Kind
from journal.format import snapshot_path
from journal.repair import StraySegmentError
from tools.verify.check import Checked, pruned_through

EXIT_GOOD, EXIT_TORN, EXIT_CORRUPT, EXIT_UNREADABLE = range(4)
_STATUS = {
    Kind.TORN: EXIT_TORN,
    Kind.UNSUPPORTED: EXIT_UNREADABLE,
    Kind.UNREADABLE: EXIT_UNREADABLE,
}
#: Faults of files that may have had the order to prune.
_HIDING = {Kind.TORN, Kind.SEGMENT, Kind.MISSING, Kind.UNSUPPORTED, Kind.UNREADABLE}


class Advice(NamedTuple):
    """The meaning of a fault, and the advice what to do next."""

    meaning: str
    next: str


#: The meaning, and the advice, where neither depends on the rest of the journal.
_FIXED = {
    Kind.UNSUPPORTED: Advice(
        "it is not damaged, but a newer version wrote it",
        "use the version of coild that wrote it",
    ),
    Kind.CONTRADICTION: Advice(
        "the files are whole, but the events in them contradict each other",
        "keep a copy of {checked.directory} and report it: whatever wrote it has a bug; to see "
        "more, run: coild-replay --check {checked.journal}",
    ),
    Kind.UNREADABLE: Advice(
        "whether it is damaged cannot be told, nor what follows it be trusted",
        "run coild-verify as a user who may read it, or look for errors of the disk (dmesg)",
    ),
    Kind.INDEX: Advice(
        "the events are whole, and coild-history says nothing that the journal does not vouch for; "
        "but somebody has altered the file",
        "remove {fault.file}: coild-history or the next coild-compact makes another",
    ),
}


def explain(checked: Checked, fault: Fault) -> Advice:
    """The meaning of a fault, and the advice what to do next."""
    if fixed := _FIXED.get(fault.kind):
        return Advice(fixed.meaning, fixed.next.format(checked=checked, fault=fault))
    return _EXPLAIN.get(fault.kind, _explain_segment)(checked, fault)


def status_of(fault: Fault) -> int:
    """The exit status of this fault alone."""
    return _STATUS.get(fault.kind, EXIT_CORRUPT)


def _explain_torn(checked: Checked, fault: Fault) -> Advice:
    remedy = "nothing: " if checked.starts else "mend the other faults, then "
    remedy += "the next start of coild sets it aside"
    if checked.cut(fault):
        remedy += f"; without a start, run: coild-repair --truncate-tail {checked.journal}"
    meaning = "an unfinished write that nobody was told was durable, or that a running daemon is "
    return Advice(f"{meaning}just making", remedy)


def _explain_snapshot(checked: Checked, fault: Fault) -> Advice:
    directory, verified = checked.directory, checked.verified
    others = any(
        snapshot.sequence >= verified.beginning.sequence
        and snapshot_path(directory, snapshot.sequence) != fault.file
        for snapshot in verified.snapshots
    )
    meaning = "a start falls back to an older state, and takes longer"
    remedy = f"run: coild-compact {checked.journal}; it makes another in its place"
    if not fault.file.is_file():
        remedy = f"remove it, then run: coild-compact {checked.journal}; it makes another"
    if verified.beginning.sequence and not others:
        meaning = "the state after what was pruned is nowhere else"
        remedy = f"restore {fault.file} from a backup: no other snapshot covers what was pruned"
    if not checked.starts:
        meaning += ", and coild refuses to start"
    return Advice(meaning, remedy)


def _explain_segment(checked: Checked, fault: Fault) -> Advice:
    directory = checked.directory
    archived = fault.file.name.endswith(".zst")
    if fault.kind is Kind.COPY:
        return Advice(
            "the other copy of this segment is good, so nothing is lost",
            f"remove it, and run: coild-compact {checked.journal}"
            if archived
            else f"{'' if fault.file.is_file() else 'remove it, then '}make it again, run: zstd -d "
            f"-f {shlex.quote(f'{directory}/archive/{fault.file.name}.zst')} "
            f"-o {shlex.quote(str(fault.file))}",
        )
    if checked.stray:
        return _explain_stray(checked, checked.stray)
    cut = None if archived else checked.cut(fault)
    if cut is None:
        return Advice(
            "history was altered or lost there: events after that sequence cannot be trusted, "
            "until the next good segment or snapshot"
            + ("" if checked.starts else "; coild refuses to start"),
            f"restore {fault.file} from a backup of this journal",
        )
    return Advice(
        "events after that sequence cannot be trusted"
        + ("" if checked.starts else ", and coild refuses to start with them"),
        f"restore {fault.file} from a backup, or lose all events after {cut.last_sequence}, "
        f"run: coild-repair --truncate-tail {checked.journal}",
    )


def _explain_missing(checked: Checked, fault: Fault) -> Advice:
    directory, verified = checked.directory, checked.verified
    again = f"run: coild-verify {checked.journal}"
    restore = f"restore {fault.file} from a backup of this journal"
    gap = fault.gap
    pruned = pruned_through(verified)
    if gap is not None and gap.last is not None and gap.last <= pruned:
        return Advice(
            f"the journal says that its events up to {pruned} were pruned, but older ones than "
            "these are still there; what is behind them is whole",
            f"{restore}, or remove what is left from before it in {directory / 'archive'}, "
            f"then {again}",
        )
    if checked.stray:
        return _explain_stray(checked, checked.stray)
    newest = max((snapshot.sequence for snapshot in verified.snapshots), default=0)
    said = (
        f"the journal says only that its events up to {pruned} were pruned"
        if pruned
        else "the journal does not say that they were pruned"
    )
    others = [other for other in checked.faults if other != fault and other.kind in _HIDING]
    if others:
        said += ", though the order may be in what is damaged or missing"
    if gap is not None and gap.last is not None and gap.last <= newest:
        covered = "the state is whole, its history is not, and "
    else:
        covered = "no snapshot covers them, and "
    covered += "coild starts" if checked.starts else "coild refuses to start"
    remedy = f"{restore}, then {again}"
    if cut := checked.cut(fault):
        remedy += (
            f"; or lose all events after {cut.last_sequence}, "
            f"run: coild-repair --truncate-tail {checked.journal}"
        )
    return Advice(f"{said}; {covered}", remedy)


def _explain_stray(checked: Checked, stray: StraySegmentError) -> Advice:
    refused = "" if checked.starts else ", and coild refuses to start with it"
    return Advice(
        f"{stray.file} is no part of this journal: {stray.reason}{refused}",
        f"move {stray.file} to another directory, then run: coild-verify {checked.journal}",
    )


_EXPLAIN = {
    Kind.TORN: _explain_torn,
    Kind.SNAPSHOT: _explain_snapshot,
    Kind.MISSING: _explain_missing,
}
