"""`coild-verify` says whether a journal is whole, and what its head is."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from coild.events import HistoryPruned, SnapshotTaken
from coild.replay import VOCABULARY
from journal import JournalCorruptError, OsFileSystem
from journal.findings import Anchor, Fault, Kind, Verified
from journal.head import read_head
from journal.scan import End
from journal.snapshot import snapshot_path
from journal.verify import verify as verify_journal
from tools import common
from tools.verify_advice import (
    EXIT_CORRUPT,
    EXIT_GOOD,
    EXIT_TORN,
    EXIT_UNREADABLE,
    Trouble,
    explain,
)
from tools.verify_deep import fault_of, replay

_PROG = "coild-verify"
_HEAD = re.compile(r"(\d{1,20}):([0-9a-fA-F]{32})")
_EPILOG = """\
examples:
  coild-verify                            the journal of this node's daemon, which may be running
  coild-verify --journal /backup/journal  a copy
  coild-verify --deep                     replay it as well, and check every invariant
  coild-verify --head                     print its head at once: keep that elsewhere
  coild-verify --anchor 1200:0f3c...      prove that nothing up to a head kept elsewhere changed

exit status: 0 good; 1 a torn tail, which the daemon sets aside when it starts; 2 corrupt, or it
does not contain the anchor; 3 unsupported or unreadable, or the anchor is malformed or of history
that was pruned. An option that does not exist gives 2 as well, with a usage error.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `coild-verify`; the exit status."""
    parser = common.build_parser(
        _PROG,
        "Check every frame, checksum, digest, segment link, snapshot, index and archive file. "
        "Changes nothing.",
        _EPILOG,
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--deep", action="store_true", help="also replay, and check the invariants")
    what.add_argument("--head", action="store_true", help="only print the head, without checking")
    parser.add_argument(
        "--anchor",
        metavar="SEQ:DIGEST",
        help="prove that the journal contains this head, unaltered",
    )
    common.add_output(parser)
    arguments = common.parse(parser, argv)
    return common.run(_PROG, lambda: _run(arguments), exit_unreadable=EXIT_UNREADABLE)


def _run(arguments: argparse.Namespace) -> int:
    anchor = None if arguments.anchor is None else _parse_anchor(arguments.anchor)
    directory = common.journal_directory(arguments)
    as_json = arguments.output == "json"
    if arguments.head:
        return _head(directory, as_json=as_json)
    try:
        with common.progress("verifying") as progress:
            verified = verify_journal(
                OsFileSystem(),
                directory,
                schema=VOCABULARY.schema,
                event_type=VOCABULARY.event_type,
                keys=VOCABULARY.keys,
                wanted=(HistoryPruned, SnapshotTaken),
                anchor=anchor,
                progress=progress,
            )
    except JournalCorruptError as error:
        verified = Verified(faults=[fault_of(error)])
    faults = [*verified.faults, *_contradicted_snapshots(directory, verified)]
    if missing := _missing_beginning(directory, verified):
        faults.append(missing)
    if not verified.segments and not faults:
        faults.append(Fault(Kind.SEGMENT, directory, 0, 0, "its segments are missing"))
    if arguments.deep and all(fault.kind is Kind.TORN for fault in faults):
        faults += replay(directory, verified)
    troubles = [explain(directory, verified, fault) for fault in faults]
    status = max((trouble.status for trouble in troubles), default=EXIT_GOOD)
    if any(trouble.status == EXIT_CORRUPT for trouble in troubles):
        # What is known to be damaged is not excused by what cannot be judged.
        status = EXIT_CORRUPT
    _tell(verified, troubles, status, deep=arguments.deep, as_json=as_json)
    if anchor is not None:
        status = _judge_anchor(anchor, verified, status)
    return status


def _parse_anchor(text: str) -> Anchor:
    """Raises ToolError, not UsageError, whose exit status would say that the journal is corrupt."""
    match = _HEAD.fullmatch(text)
    if match is None:
        raise common.ToolError(
            f"{text!r} is no head: it is SEQ:DIGEST, as coild-verify --head prints it, "
            "a number and 32 hexadecimal digits"
        )
    return Anchor(int(match[1]), bytes.fromhex(match[2]))


def _head(directory: Path, *, as_json: bool) -> int:
    try:
        file, found = read_head(OsFileSystem(), directory, VOCABULARY.schema)
    except JournalCorruptError as error:
        return common.fail(_PROG, EXIT_CORRUPT, f"{error}; run: coild-verify --journal {directory}")
    head = f"{found.next_sequence - 1}:{found.digest.hex()}"
    if as_json:
        common.emit({"record": "head", "head": head})
    else:
        sys.stdout.write(f"head {head}\n")
    if found.end is End.TORN:
        return common.fail(
            _PROG, EXIT_TORN, f"torn tail: {file.path} at offset {found.offset}: {found.reason}"
        )
    return EXIT_GOOD


def _contradicted_snapshots(directory: Path, verified: Verified) -> Iterator[Fault]:
    """Snapshots whose state is not the one that the journal says was kept."""
    digests = {
        found.event.sequence: found.event.digest
        for found in verified.events
        if isinstance(found.event, SnapshotTaken)
    }
    for snapshot in verified.snapshots:
        recorded = digests.get(snapshot.sequence)
        if recorded is not None and recorded.hex() != snapshot.digest:
            yield Fault(
                Kind.SNAPSHOT,
                snapshot_path(directory, snapshot.sequence),
                0,
                snapshot.sequence,
                f"its state has digest {snapshot.digest}, the journal says {recorded.hex()}",
            )


def _missing_beginning(directory: Path, verified: Verified) -> Fault | None:
    """What is wrong if the oldest segments are gone; nothing if that was ordered."""
    before = verified.beginning.sequence
    if not before or any(
        isinstance(found.event, HistoryPruned) and found.event.through >= before
        for found in verified.events
    ):
        return None
    covered = any(snapshot.sequence >= before for snapshot in verified.snapshots)
    return Fault(
        Kind.SEGMENT,
        directory / "archive",
        0,
        0,
        f"the events 1 to {before} are nowhere, and the journal does not say that they were "
        "pruned; "
        + ("the state is whole, its history is not" if covered else "and no snapshot covers them"),
    )


def _tell(
    verified: Verified, troubles: Sequence[Trouble], status: int, *, deep: bool, as_json: bool
) -> None:
    head = verified.head
    events = head.sequence - verified.beginning.sequence
    for path, reason in verified.bad_indexes:
        common.notice(_PROG, f"{path}: {reason}; it will be made again")
    if as_json:
        for fault, meaning, remedy in troubles:
            common.emit(
                {
                    "record": "fault",
                    "fault": fault.kind.name.lower(),
                    "file": str(fault.file),
                    "offset": fault.offset,
                    "last-sequence": fault.last_sequence,
                    "reason": fault.reason,
                    "meaning": meaning,
                    "next": remedy,
                }
            )
        common.emit(
            {
                "record": "summary",
                "result": ("good", "torn", "corrupt", "unsupported")[status],
                "deep": deep,
                "first-sequence": verified.beginning.sequence + 1,
                "events": events,
                "segments": verified.segments,
                "snapshots": len(verified.snapshots),
                "faults": len(troubles),
                "head": f"{head.sequence}:{head.digest.hex()}",
            }
        )
        return
    for fault, meaning, remedy in troubles:
        what = "torn tail" if fault.kind is Kind.TORN else f"bad {fault.kind.name.lower()}"
        if fault.kind is Kind.UNSUPPORTED:
            what = "unsupported"
        common.notice(
            _PROG,
            f"{what}: {fault.file} at offset {fault.offset}: {fault.reason}; "
            f"the last good sequence is {fault.last_sequence}\n"
            f"  what it means: {meaning}\n"
            f"  what to do: {remedy}",
        )
    sys.stdout.write(
        f"{events} events in {verified.segments} segments, "
        f"head {head.sequence}:{head.digest.hex()}\n"
    )


def _judge_anchor(anchor: Anchor, verified: Verified, status: int) -> int:
    """Say whether the journal contains the anchor; the exit status."""
    name = f"{anchor.sequence}:{anchor.digest.hex()}"
    if verified.anchored:
        common.notice(_PROG, f"the journal contains the head {name}")
        return status
    if anchor.sequence <= verified.beginning.sequence:
        return common.fail(
            _PROG,
            max(status, EXIT_UNREADABLE) if status != EXIT_CORRUPT else status,
            f"whether the journal contained the head {name} cannot be told any more: "
            f"its events up to {verified.beginning.sequence} were pruned; use a newer head",
        )
    return common.fail(
        _PROG,
        EXIT_CORRUPT,
        f"the journal does not contain the head {name}: it was altered, put back to an older "
        "copy, or is another journal; compare it with a backup",
    )


if __name__ == "__main__":
    sys.exit(main())
