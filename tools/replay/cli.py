"""`coild-replay` rebuilds any past state from the journal, for debugging."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any

from coild.audit.diff import difference, view
from coild.audit.invariants import BrokenInvariantError
from coild.audit.times import format_local, format_utc
from coild.config.parser import EXIT_FAILURE, Parser
from coild.rules.printable import printable
from coild.rules.projection import Projection
from journal import Reader
from tools.arguments import add_value, build_parser, journal_directory, parse_number, parse_time
from tools.output import UsageError, emit, is_json, put
from tools.past import (
    NoEventError,
    Point,
    oldest_state,
    open_reader,
    rebuild,
    tell_ahead,
)
from tools.replay.check import check_history
from tools.replay.keys import interact
from tools.replay.step import Timeline, print_steps
from tools.replay.text import change_text, event_record, event_text, summary, when
from tools.run import run
from tools.tail import tell_unvouched

_GENESIS = "genesis"

_EPILOG = """\
examples:
  coild-replay                              the state at the end of the journal
  coild-replay --until-seq 1200 -o json     after event 1200, as /status would have shown it
  coild-replay --until '2026-11-22 14:03'   at a time; also -2h, yesterday, 14:03 or RFC 3339
  coild-replay --diff 1200 1300             what changed between two events
  coild-replay --diff -2h now               or between two times
  coild-replay --step --from 1200           one event at a time, forwards and backwards
  coild-replay --check                      every invariant after every event
  coild-replay --digest --from genesis      the digest of the state, from the first event on
  coild-replay --journal /backup/journal    a copy: read-only, without configuration or daemon

A replay begins at the nearest snapshot; --from genesis replays everything, to the same digest.
It ends with the last event known to be on disk; if more are there, stderr says so.
At a terminal, --step takes keys: n, space or enter forward, p or b back, g SEQ to an event, q to
quit; otherwise it prints all steps.

exit status: 0 good; 1 an invariant is broken, there is no such event or time, or the journal
cannot be read; 2 a wrong flag.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `coild-replay`; the exit status."""
    return run(_parser(), _main, argv)


def _parser() -> Parser:
    parser = build_parser(
        "coild-replay", "Rebuild any past state from the journal. Changes nothing.", _EPILOG
    )
    # Without this, argparse takes -2h for an option.
    parser._negative_number_matcher = re.compile(r"-\d")  # noqa: SLF001
    what = parser.add_mutually_exclusive_group()
    text = "what changed between two moments; integers are sequences, other values times"
    add_value(what, "--diff", ("A", "B"), _point, text, nargs=2)
    what.add_argument("--step", action="store_true", help="one event at a time, and its effect")
    what.add_argument(
        "--check", action="store_true", help="check all invariants; exit 1 if one is broken"
    )
    what.add_argument(
        "--digest", action="store_true", help="print a line that ends with the state's digest"
    )
    until = parser.add_mutually_exclusive_group()
    text = "the state after event N; 0 is the empty state"
    add_value(until, "--until-seq", "N", _point_after, text, dest="until")
    add_value(until, "--until", "TIME", _point_at, "the state at a time")
    text = "genesis: replay from the first event on; with --step, the first event to show"
    add_value(parser, "--from", "genesis|SEQ", _start, text, dest="start")
    text = "with --step, print N steps, and read no keys"
    add_value(parser, "-n --lines", "N", parse_number, text)
    return parser


def _main(arguments: argparse.Namespace) -> int:
    until = arguments.until or Point()
    _check_combination(arguments)
    from_genesis = arguments.start == _GENESIS
    points = arguments.diff or []
    first = None if from_genesis else arguments.start
    directory = journal_directory(arguments)
    tell_unvouched(directory, through=_through(points or [until]))
    with open_reader(directory).held() as reader:
        if arguments.check:
            return _check(reader)
        if any(point.time is not None for point in (until, *points)):
            tell_ahead(reader)
        if arguments.step:
            if first == 0:
                raise UsageError("--from 0 is no event: the first one has the sequence 1")
            if first is not None and until.sequence is not None and first > until.sequence:
                raise UsageError(f"--from {first} comes after --until-seq {until.sequence}")
            _step(reader, first, until, arguments.lines, from_genesis=from_genesis)
        elif points:
            before, after = (
                view(rebuild(reader, point, from_genesis=from_genesis)) for point in points
            )
            for change in difference(before, after):
                put(change, change_text(change))
        else:
            state = rebuild(reader, until, from_genesis=from_genesis)
            _show(state, digest_only=arguments.digest)
    return 0


def _check_combination(arguments: argparse.Namespace) -> None:
    if arguments.start not in {None, _GENESIS} and not arguments.step:
        raise UsageError("--from takes genesis, or with --step a sequence")
    if arguments.lines is not None and not arguments.step:
        raise UsageError("-n is for --step")
    if (arguments.diff or arguments.check) and arguments.until:
        raise UsageError("--diff and --check take no --until: they say themselves how far they go")


def _point_at(text: str) -> Point:
    return Point(time=parse_time(text))


def _point_after(text: str) -> Point:
    return Point(sequence=parse_number(text))


def _point(text: str) -> Point:
    return _point_after(text) if text.isdecimal() else _point_at(text)


def _start(text: str) -> int | str:
    return text if text == _GENESIS else parse_number(text)


def _through(points: Sequence[Point]) -> int | None:
    """The last event wanted; None if that is the journal's end, or given by a time."""
    known = [point.sequence for point in points if point.sequence is not None]
    return max(known) if len(known) == len(points) else None


def _record(state: Projection) -> dict[str, Any]:
    return {
        "sequence": state.sequence,
        "time": format_utc(state.time) if state.sequence else None,
        "digest": state.digest(),
    }


def _show(state: Projection, *, digest_only: bool) -> None:
    if digest_only:
        put(_record(state), f"state after event {state.sequence}, {when(state)}: {state.digest()}")
    elif is_json():
        blocks: dict[str, list[str]] = {}
        for block in state.blocks.values():
            blocks.setdefault(block.pool, []).append(str(block.subnet))
        pods = {container_id: held.address for container_id, held in state.holdings.items()}
        emit(_record(state) | {"address-blocks": blocks, "pods": pods})
    else:
        sys.stdout.writelines(f"{line}\n" for line in summary(state))


def _step(
    reader: Reader, first: int | None, until: Point, count: int | None, *, from_genesis: bool
) -> None:
    if first is not None:
        timeline = _timeline_from(reader, first, until)
    else:
        timeline = Timeline(reader, 0 if from_genesis else oldest_state(reader).sequence, until)
    at_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if at_terminal and count is None and not is_json():
        interact(timeline)
    else:
        print_steps(timeline, count)


def _timeline_from(reader: Reader, first: int, until: Point) -> Timeline:
    """Begin before event `first`. Raises ToolError if it is missing, UsageError behind `until`."""
    try:
        timeline = Timeline(reader, first - 1, until)
    except NoEventError as error:
        raise NoEventError(first, error.last) from None
    time_ns = timeline.time(first)
    if time_ns is None:
        raise NoEventError(first, first - 1)
    if until.time is not None and time_ns > until.time:
        raise UsageError(f"--from {first}, an event of {format_local(time_ns)}, is after --until")
    return timeline


def _check(reader: Reader) -> int:
    try:
        first, state = check_history(reader)
    except BrokenInvariantError as broken:
        event = broken.event
        put(
            {
                "sequence": broken.sequence,
                "broken": broken.invariant,
                "detail": broken.detail,
                "event": None if event is None else event_record(event),
            },
            printable(str(broken)),
            *([] if event is None else [f"the event: {event_text(event)}"]),
        )
        return EXIT_FAILURE
    put(
        _record(state) | {"first-sequence": first, "broken": None},
        f"{state.sequence - first + 1} events checked, every invariant holds; "
        f"state after event {state.sequence}, {when(state)}: {state.digest()}",
    )
    return 0
