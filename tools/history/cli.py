"""`coild-history` says who had which address, from when to when."""

from __future__ import annotations

import argparse
import ipaddress
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from coild.audit.ledger import Filter, HoldingPeriod
from coild.audit.times import format_local, parse_age, parse_moment
from coild.rules.addresses import BITS, Subnet
from coild.rules.events import Event
from coild.rules.printable import printable
from journal import Reader
from tools import common
from tools.history.following import follow_rows, newest
from tools.history.holdings import Output, Query, read_ledger
from tools.past import open_reader, tell_ahead
from tools.remaining import Remaining
from tools.tail import tell_unvouched

PROG = "coild-history"

_EPILOG = """\
examples:
  coild-history 10.64.0.7                           every holder of the address, the newest last
  coild-history 10.64.0.7 --at '2026-11-22 14:03'   who held it then
  coild-history --pod default/web-0 --since -2h     what a pod had in the last two hours
  coild-history --block 10.64.0.0/27 -n 20 -o json  the 20 newest holders in a block, for scripts
  coild-history -f                                  every allocation and release from now on
  coild-history --held --since-before 7d            what is held since a week or longer: a leak?

times: '2026-11-22 14:03:07', 14:03, 2026-11-22T14:03:07Z, '2026-11-22 14:03 UTC', -2h, +1h30m,
'2h ago', now, today, yesterday, tomorrow, @1795356180; local time if no zone is written.

Reads the journal beside a running daemon, or a copy, archive included, and changes nothing in it
but indexes that are missing. Indexes count as far as the journal's events vouch for them: other
segments are read whole, which takes longer, until the next coild-compact. It shows what is known to
be on disk, and tells on stderr if the last events are not yet. With -f it goes on until --until or
Ctrl-C.

exit status: 0 answered, also if nobody held it; 1 the journal cannot be read, or does not reach
back far enough; 2 wrong usage; 130 interrupted.
"""
#: With -f, before anything new; as `journalctl -f`.
_FOLLOW_ROWS = 10
#: What asks for one moment, and what says nothing beside it.
_ALONE = (
    ("at", "--at asks for one moment", ("since", "until", "follow", "count")),
    ("held", "--held asks who holds one now", ("at", "since", "until", "follow")),
)
_FLAGS = {"follow": "-f", "count": "-n"}
#: IPv4 addresses as a socket of both families shows them, like ::ffff:10.64.0.7.
_MAPPED = Subnet.parse("::ffff:0.0.0.0/96")


class _Order(NamedTuple):
    """The arguments, understood."""

    query: Query
    at: int | None
    newest: int | None
    follow: bool
    json: bool


def main(argv: Sequence[str] | None = None) -> int:
    """Run `coild-history`; the exit status."""
    return common.run(PROG, lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    arguments = common.parse(_parser(), argv)
    order = _understand(arguments, time.time_ns())
    directory = common.journal_directory(arguments)
    reader = open_reader(directory, Event)
    if not order.follow:
        tell_unvouched(PROG, directory)
    output = Output(json=order.json)
    if (order.at, order.query.since, order.query.until) != (None, None, None):
        tell_ahead(reader, partial(common.notice, PROG))
    if order.follow:
        follow_rows(reader, PROG, order.query, output, count=order.newest)
    elif order.at is not None:
        _show_at(reader, order, order.at)
    else:
        history = Remaining(reader, PROG)
        rows = newest(read_ledger(history, order.query, count=order.newest).rows(), order.newest)
        if order.query.held:
            _say_unknown(history, rows, order.query.until)
        output.show(rows)
        # Of none that were asked for, nothing is said.
        if not rows and order.newest != 0:
            common.notice(PROG, "nobody, as far as the journal goes")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = common.build_parser(
        PROG,
        "Who had an address: one row for each time that a container held one.",
        _EPILOG,
    )
    parser.add_argument("address", nargs="?", metavar="ADDRESS", help="holders of this address")
    parser.add_argument("--pod", metavar="NAMESPACE/NAME", help="what this pod had")
    parser.add_argument("--container", metavar="ID", help="what this container had")
    parser.add_argument("--pool", metavar="NAME", help="holders of addresses of this pool")
    parser.add_argument("--block", metavar="CIDR", help="holders of addresses in this block")
    parser.add_argument("--at", metavar="TIME", help="who held it then")
    parser.add_argument("--since", metavar="TIME", help="whoever held it at this time or later")
    parser.add_argument("--until", metavar="TIME", help="whoever held it at this time or earlier")
    parser.add_argument("--held", action="store_true", help="who holds one now")
    parser.add_argument(
        "--since-before",
        metavar="TIME",
        help="with --held: allocated at this time or earlier; 7d is 7 days ago",
    )
    parser.add_argument("-n", metavar="N", dest="count", help="the N newest only")
    parser.add_argument(
        "-f",
        "--follow",
        action="store_true",
        help=f"go on: a row when an address is allocated, and again when it is released; begins "
        f"with the {_FOLLOW_ROWS} newest unless -n or --since says otherwise",
    )
    common.add_output(parser)
    return parser


def _understand(arguments: argparse.Namespace, now: int) -> _Order:
    """Check the arguments. Raises UsageError."""
    try:
        for name in (arguments.pod, arguments.container, arguments.pool):
            _check_name(name)
        at, since, until = (
            None if text is None else parse_moment(text, now)
            for text in (arguments.at, arguments.since, arguments.until)
        )
        before = arguments.since_before
        before = None if before is None else parse_age(before, now)
        filter_ = Filter(
            address=None if arguments.address is None else _parse_address(arguments.address),
            block=None if arguments.block is None else _parse_block(arguments.block),
            pool=arguments.pool,
            pod=None if arguments.pod is None else _parse_pod(arguments.pod),
            container_id=arguments.container,
        )
        count = None if arguments.count is None else _parse_count(arguments.count)
    except ValueError as error:
        raise common.UsageError(str(error)) from None
    _check_combination(arguments)
    if since is not None and until is not None and since > until:
        raise common.UsageError(
            f"--since {arguments.since} is after --until {arguments.until}: swap them"
        )
    if arguments.follow and count is None and since is None:
        count = _FOLLOW_ROWS
    # Whoever was allocated one at a moment or earlier, and holds on, is who held it until then.
    query = Query(filter_, since, before if arguments.held else until, arguments.held)
    return _Order(query, at, count, arguments.follow, arguments.output == "json")


def _check_combination(arguments: argparse.Namespace) -> None:
    """Raises UsageError if what is asked for does not go together."""
    for name, asks, others in _ALONE:
        for other in others if _is_given(arguments, name) else ():
            if _is_given(arguments, other):
                raise common.UsageError(f"{asks}: leave {_FLAGS.get(other, f'--{other}')} out")
    if arguments.since_before is not None and not arguments.held:
        raise common.UsageError("--since-before asks since when one is held: add --held")


def _is_given(arguments: argparse.Namespace, name: str) -> bool:
    return getattr(arguments, name) not in {None, False}


def _parse_address(text: str) -> Subnet:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        address = None
    if address is None or "%" in text:
        raise ValueError(f"{text!r} is no address: write it like 10.64.0.7 or fd00:64::7")
    return _unmapped(Subnet(address.version, int(address), BITS[address.version]))


def _parse_block(text: str) -> Subnet:
    return _unmapped(Subnet.parse(text))


def _unmapped(subnet: Subnet) -> Subnet:
    """The IPv4 subnet that an IPv6 one stands for, if all of it is mapped (RFC 4291, 2.5.5.2)."""
    if not _MAPPED.contains(subnet):
        return subnet
    return Subnet(4, subnet.base - _MAPPED.base, subnet.prefix - _MAPPED.prefix)


def _parse_pod(text: str) -> tuple[str, str]:
    namespace, slash, name = text.partition("/")
    if not (namespace and slash and name) or "/" in name:
        raise ValueError(f"{text!r} is no pod: write it like default/web-0")
    return namespace, name


def _check_name(text: str | None) -> None:
    try:
        (text or "").encode()
    except UnicodeEncodeError:
        raise ValueError(f"{text!r} is no UTF-8, so nothing has this name") from None


def _parse_count(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise ValueError(f"{text!r} is no number of rows: write -n 50")
    return int(text)


def _show_at(reader: Reader, order: _Order, at: int) -> None:
    """Answer who held it at one moment."""
    address = order.query.filter_.address
    # Of one address, those before and after it are wanted too.
    query = order.query if address else order.query._replace(since=at, until=at)
    history = Remaining(reader, PROG)
    rows = read_ledger(history, query).rows()
    if history.first > 1:
        begin = _beginning(history)
        if begin is not None and at < begin:
            raise common.ToolError(
                f"who held it at {format_local(at)} is not known: history before sequence "
                f"{history.first}, of {format_local(begin)}, was pruned or is missing"
            )
    holders = [period for period in rows if period.held_at(at)]
    if holders or order.json:
        Output(json=order.json).show(holders)
    if not holders:
        said = _nobody(rows, at) if address else f"nobody, at {format_local(at)}"
        if order.json:
            common.notice(PROG, said)
        else:
            sys.stdout.write(f"{printable(said)}\n")


def _say_unknown(history: Remaining, rows: list[HoldingPeriod], before: int | None) -> None:
    """Say on stderr if holders may have been allocated after `before`: pruned history knew.

    An allocation that is gone is older than what is left, which is mostly all that is asked.
    """
    count = sum(row.allocated_at is None for row in rows)
    if before is None or not count:
        return
    begin = _beginning(history)
    if begin is None or before < begin:
        left = "no event is left" if begin is None else f"the oldest is of {format_local(begin)}"
        common.notice(
            PROG, f"{count} of them may have been allocated after {format_local(before)}: {left}"
        )


def _beginning(history: Remaining) -> int | None:
    """The time of the oldest event there is. Raises as a Reader."""
    oldest = history.read(lambda first: next(history.reader.batches(first), None))
    history.say_pruned()
    return oldest.events[0].time if oldest else None


def _nobody(rows: list[HoldingPeriod], at: int) -> str:
    """Between whom it was that nobody held the address."""
    before = [it for it in rows if it.released_at is not None and it.released_at <= at]
    after = [it for it in rows if it.allocated_at is not None and it.allocated_at > at]
    left = right = ""
    if before and before[-1].released_at is not None:
        left = f"{format_local(before[-1].released_at)} (released by {_who(before[-1])})"
    if after and after[0].allocated_at is not None:
        right = f"{format_local(after[0].allocated_at)} (allocated to {_who(after[0])})"
    if left and right:
        return f"nobody, between {left} and {right}"
    if left:
        return f"nobody, since {left}"
    if right:
        return f"nobody, before {right}"
    return "nobody, ever, as far as the journal goes"


def _who(period: HoldingPeriod) -> str:
    return f"{period.pod}, container {period.container_id}"
