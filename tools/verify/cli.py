"""`coild-verify` checks that a journal is whole, and prints its head."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from coild.vocabulary import VOCABULARY
from journal import JournalCorruptError, OsFileSystem
from journal.check import Anchor, Fault, Kind, Verified
from journal.read.tail import read_head, wait_vouched
from tools.arguments import build_parser, journal_directory
from tools.output import ToolError, emit, fail, is_json, journal_option, notice, put
from tools.run import run
from tools.tail import say_unvouched, tell_unvouched
from tools.verify.advice import (
    EXIT_CORRUPT,
    EXIT_GOOD,
    EXIT_TORN,
    EXIT_UNREADABLE,
    explain,
    status_of,
)
from tools.verify.check import Checked, check

_HEAD = re.compile(r"([0-9]{1,20}):([0-9a-fA-F]{32})")
#: The names of faults other than plain damage.
_NAMES = {
    Kind.TORN: "torn tail",
    Kind.UNSUPPORTED: "unsupported",
    Kind.UNREADABLE: "unreadable",
    Kind.MISSING: "missing segment",
}
#: Faults of a whole file, not of a place in it.
_WHOLE = {Kind.MISSING, Kind.UNREADABLE, Kind.INDEX}
_EPILOG = """\
examples:
  coild-verify                            the journal of this node's daemon, which may be running
  coild-verify --journal /backup/journal  a copy
  coild-verify --deep                     replay it as well, and check every invariant
  coild-verify --head                     print only its head, to keep elsewhere
  coild-verify --anchor 1200:0f3c...      prove that nothing up to a head kept elsewhere changed

exit status: 0 good; 1 a torn tail, which the daemon sets aside when it starts; 2 corrupt, or the
anchor is not in it; 3 unsupported or unreadable, or the anchor is malformed or in pruned history.
An unknown option also gives 2, with a usage error.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `coild-verify`; the exit status."""
    parser = build_parser(
        "coild-verify",
        "Check every frame, checksum, digest, segment link, snapshot, index and archive file. "
        "Changes nothing.",
        _EPILOG,
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--deep", action="store_true", help="also replay, and check the invariants")
    what.add_argument(
        "--head", action="store_true", help="only print the head, which no power cut can undo"
    )
    parser.add_argument(
        "--anchor",
        metavar="SEQ:DIGEST",
        help="prove that the journal contains this head, unaltered",
    )
    return run(parser, _run, argv, exit_unreadable=EXIT_UNREADABLE)


def _run(arguments: argparse.Namespace) -> int:
    anchor = None if arguments.anchor is None else _parse_anchor(arguments.anchor)
    directory = journal_directory(arguments)
    if arguments.head:
        tell_unvouched(directory)
        return _head(directory)
    wait_vouched(directory, VOCABULARY.schema)
    checked = check(OsFileSystem(), directory, anchor=anchor, deep=arguments.deep)
    verified = checked.verified
    statuses = set(map(status_of, checked.faults))
    # Known damage counts, even if other files cannot be judged.
    status = EXIT_CORRUPT if EXIT_CORRUPT in statuses else max(statuses, default=EXIT_GOOD)
    if verified.unvouched:
        say_unvouched(directory, verified.unvouched)
    _print(checked, status, deep=arguments.deep)
    if anchor is not None:
        status = _judge_anchor(anchor, verified, status)
    return status


def _parse_anchor(text: str) -> Anchor:
    """Raises ToolError, not UsageError, whose exit status would say that the journal is corrupt."""
    match = _HEAD.fullmatch(text)
    if match is None:
        raise ToolError(
            f"{text!r} is no head: it is SEQ:DIGEST, as coild-verify --head prints it, "
            "a number and 32 hexadecimal digits"
        )
    return Anchor(int(match[1]), bytes.fromhex(match[2]))


def _head(directory: Path) -> int:
    try:
        file, found = read_head(OsFileSystem(), directory, VOCABULARY.schema)
    except JournalCorruptError as error:
        return fail(EXIT_CORRUPT, f"{error}; run: coild-verify {journal_option(directory)}")
    sequence, digest = found.vouched
    head = f"{sequence}:{digest.hex()}"
    # Bare, so that --anchor takes it as it is.
    put({"record": "head", "head": head}, head)
    if found.reason:
        return fail(EXIT_TORN, f"torn tail: {file.path} at offset {found.offset}: {found.reason}")
    return EXIT_GOOD


def _print(checked: Checked, status: int, *, deep: bool) -> None:
    verified = checked.verified
    head, count = verified.vouched, verified.count - verified.unvouched
    for path, reason in verified.bad_indexes:
        notice(f"{path}: {reason}; remove it, it will be made again")
    for snapshot in verified.unrecorded:
        notice(
            f"snapshot {snapshot.sequence}: the journal has no record of it, so nothing uses it; "
            "an interrupted compaction leaves one, and the next one mends it",
        )
    for fault in checked.faults:
        meaning, remedy = explain(checked, fault)
        name = fault.kind.name.lower()
        if is_json():
            emit(
                {
                    "record": "fault",
                    "fault": name,
                    "file": str(fault.file),
                    "offset": fault.offset,
                    "last-sequence": fault.last_sequence,
                    "reason": fault.reason,
                    "meaning": meaning,
                    "next": remedy,
                }
                | _gap(fault)
            )
            continue
        what = _NAMES.get(fault.kind, f"bad {name}")
        at = "" if fault.kind in _WHOLE else f" at offset {fault.offset}"
        notice(
            f"{what}: {fault.file}{at}: {fault.reason}; "
            f"the last good sequence is {fault.last_sequence}",
            f"  what it means: {meaning}",
            f"  what to do: {remedy}",
        )
    name = f"{head.sequence}:{head.digest.hex()}"
    put(
        {
            "record": "summary",
            "result": ("good", "torn", "corrupt", "unsupported")[status],
            "deep": deep,
            "first-sequence": verified.beginning.sequence + 1,
            "events": count,
            "unvouched-events": verified.unvouched,
            "segments": verified.segments,
            "snapshots": len(verified.snapshots),
            "faults": len(checked.faults),
            "head": name,
        },
        f"{count} events in {verified.segments} segments, head {name}",
    )


def _gap(fault: Fault) -> dict[str, int | None]:
    """The events of a missing segment."""
    if fault.gap is None:
        return {}
    return {"first-missing": fault.gap.first, "last-missing": fault.gap.last}


def _judge_anchor(anchor: Anchor, verified: Verified, status: int) -> int:
    """Say whether the journal contains the anchor; the exit status."""
    name = f"{anchor.sequence}:{anchor.digest.hex()}"
    if verified.anchored:
        notice(f"the journal contains the head {name}")
        return status
    if anchor.sequence <= verified.beginning.sequence:
        return fail(
            max(status, EXIT_UNREADABLE) if status != EXIT_CORRUPT else status,
            f"whether the journal contained the head {name} cannot be told any more: "
            f"its events up to {verified.beginning.sequence} were pruned; use a newer head",
        )
    return fail(
        EXIT_CORRUPT,
        f"the journal does not contain the head {name}: it was altered, put back to an older "
        "copy, or is another journal; compare it with a backup",
    )
