"""`coild-history` lists holders of addresses, and when they held them."""

from __future__ import annotations

import argparse
import ipaddress
import sys
import time
from collections.abc import Sequence
from functools import partial

from coild.audit.ledger import Filter, HoldingPeriod, Query
from coild.audit.times import format_local, parse_age
from coild.config.parser import Parser
from coild.rules.addresses import BITS, Subnet
from coild.rules.printable import printable
from journal import Reader
from tools.arguments import add_value, build_parser, journal_directory, parse_number, parse_time
from tools.history.following import follow_rows, newest
from tools.history.holdings import Output, read_ledger
from tools.output import ToolError, UsageError, is_json, notice
from tools.past import open_reader, tell_ahead
from tools.run import run
from tools.tail import tell_unvouched

_EPILOG = """\
examples:
  coild-history 10.64.0.7                           every holder of the address, the newest last
  coild-history 10.64.0.7 --at '2026-11-22 14:03'   who held it then
  coild-history --pod default/web-0 --since -2h     what a pod had in the last two hours
  coild-history --block 10.64.0.0/27 -n 20 -o json  the 20 newest holders in a block, for scripts
  coild-history -f                                  every allocation and release from now on
  coild-history --held --since-before 7d            addresses held for a week or longer: leaks?

times: '2026-11-22 14:03:07', 14:03, 2026-11-22T14:03:07Z, '2026-11-22 14:03 UTC', -2h, +1h30m,
'2h ago', now, today, yesterday, tomorrow, @1795356180; local time if no zone is written.

Reads the journal and its archive, beside a running daemon or in a copy, and changes nothing except
that it writes missing indexes. Only indexes that the journal's events vouch for are used: other
segments are read whole, which takes longer, until the next coild-compact. Only events known to be
on disk are shown; if the last ones are not, stderr says so. With -f it runs until --until or
Ctrl-C.

exit status: 0 answered, also if there was no holder; 1 the journal cannot be read, or does not
reach back far enough; 2 wrong usage; 130 interrupted.
"""
#: The rows that -f shows first, as `journalctl -f` does.
_FOLLOW_ROWS = 10
#: Options that ask for one moment, and the options that make no sense with them.
_ALONE = (
    ("at", "--at asks for one moment", ("since", "until", "follow", "count")),
    ("held", "--held asks who holds one now", ("at", "since", "until", "follow")),
)
_FLAGS = {"follow": "-f", "count": "-n"}
#: IPv4 addresses as a socket of both families shows them, like ::ffff:10.64.0.7.
_MAPPED = Subnet.parse("::ffff:0.0.0.0/96")


def main(argv: Sequence[str] | None = None) -> int:
    """Run `coild-history`; the exit status."""
    return run(_parser(), _main, argv)


def _main(arguments: argparse.Namespace) -> int:
    query, count = _understand(arguments)
    directory = journal_directory(arguments)
    reader = open_reader(directory)
    if not arguments.follow:
        tell_unvouched(directory)
    output = Output()
    if (arguments.at, query.since, query.until) != (None, None, None):
        tell_ahead(reader)
    if arguments.follow:
        follow_rows(reader, query, output, count=count)
        return 0
    with reader.held() as held:
        if arguments.at is None:
            _show_rows(held, query, count, output)
        else:
            _show_at(held, query, arguments.at)
    return 0


def _show_rows(reader: Reader, query: Query, count: int | None, output: Output) -> None:
    rows = newest(read_ledger(reader, query, count=count).rows(), count)
    if query.held:
        _say_unknown(reader, rows, query.until)
    output.show(rows)
    # With -n 0 an empty answer needs no explanation.
    if not rows and count != 0:
        notice("nobody, as far as the journal goes")


def _parser() -> Parser:
    parser = build_parser(
        "coild-history",
        "Who had an address: one row for each time that a container held one.",
        _EPILOG,
    )
    add = partial(add_value, parser)
    add("address", "ADDRESS", _parse_address, "holders of this address", nargs="?")
    add("--pod", "NAMESPACE/NAME", _parse_pod, "what this pod had")
    add("--container", "ID", _parse_name, "what this container had")
    add("--pool", "NAME", _parse_name, "holders of addresses in this pool")
    add("--block", "CIDR", _parse_block, "holders of addresses in this block")
    add("--at", "TIME", parse_time, "who held it then")
    add("--since", "TIME", parse_time, "only holders at this time or later")
    add("--until", "TIME", parse_time, "only holders at this time or earlier")
    parser.add_argument("--held", action="store_true", help="only current holders")
    before = "with --held: allocated at this time or earlier; 7d is 7 days ago"
    add("--since-before", "TIME", lambda text: parse_age(text, time.time_ns()), before)
    add("-n", "N", parse_number, "the N newest only", dest="count")
    parser.add_argument(
        "-f",
        "--follow",
        action="store_true",
        help="keep running: print a row when an address is allocated, and again when it is "
        f"released; begin with the {_FOLLOW_ROWS} newest unless -n or --since says otherwise",
    )
    return parser


def _understand(arguments: argparse.Namespace) -> tuple[Query, int | None]:
    """The query, and how many of its newest rows to show. Raises UsageError."""
    _check_combination(arguments)
    since, until, count = arguments.since, arguments.until, arguments.count
    if since is not None and until is not None and since > until:
        raise UsageError(
            f"--since {format_local(since)} is after --until {format_local(until)}: swap them"
        )
    filter_ = Filter(
        arguments.address, arguments.block, arguments.pool, arguments.pod, arguments.container
    )
    if arguments.follow and count is None and since is None:
        count = _FOLLOW_ROWS
    # A current holder that was allocated by then held its address then.
    until = arguments.since_before if arguments.held else until
    return Query(filter_, since, until, arguments.held), count


def _check_combination(arguments: argparse.Namespace) -> None:
    """Raises UsageError if options contradict each other."""
    for name, asks, others in _ALONE:
        for other in others if _is_given(arguments, name) else ():
            if _is_given(arguments, other):
                raise UsageError(f"{asks}: leave {_FLAGS.get(other, f'--{other}')} out")
    if arguments.since_before is not None and not arguments.held:
        raise UsageError("--since-before asks since when one is held: add --held")


def _is_given(arguments: argparse.Namespace, name: str) -> bool:
    value = getattr(arguments, name)
    return value is not None and value is not False


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
    namespace, slash, name = _parse_name(text).partition("/")
    if not (namespace and slash and name) or "/" in name:
        raise ValueError(f"{text!r} is no pod: write it like default/web-0")
    return namespace, name


def _parse_name(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{text!r} is no UTF-8, so nothing has this name") from None
    return text


def _show_at(reader: Reader, query: Query, at: int) -> None:
    """Show the holders at one moment."""
    address = query.filter_.address
    # For one address, show the holders before and after too.
    asked = query if address else query._replace(since=at, until=at)
    rows = read_ledger(reader, asked).rows()
    if reader.first > 1:
        begin = _beginning(reader)
        if begin is not None and at < begin:
            raise ToolError(
                f"who held it at {format_local(at)} is not known: history before sequence "
                f"{reader.first}, of {format_local(begin)}, was pruned or is missing"
            )
    holders = [period for period in rows if period.held_at(at)]
    if holders or is_json():
        Output().show(holders)
    if not holders:
        said = _nobody(rows, at) if address else f"nobody, at {format_local(at)}"
        if is_json():
            notice(said)
        else:
            sys.stdout.write(f"{printable(said)}\n")


def _say_unknown(reader: Reader, rows: list[HoldingPeriod], before: int | None) -> None:
    """Say on stderr if pruned history may have allocations after `before`.

    Usually it has none, because pruned allocations are older than all events that are left.
    """
    count = sum(row.allocated_at is None for row in rows)
    if before is None or not count:
        return
    begin = _beginning(reader)
    if begin is None or before < begin:
        left = "no event is left" if begin is None else f"the oldest is of {format_local(begin)}"
        notice(f"{count} of them may have been allocated after {format_local(before)}: {left}")


def _beginning(reader: Reader) -> int | None:
    """The time of the oldest event left. Raises as a Reader."""
    oldest = next(reader.batches(), None)
    return oldest.events[0].time if oldest else None


def _nobody(rows: list[HoldingPeriod], at: int) -> str:
    """The text for a time without a holder, with the holders before and after."""
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
