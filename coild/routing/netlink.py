"""Routes of blocks in a routing table of the kernel: each call to netlink is here.

As Coil v1 has them: a unicast route to the block on `lo`, in a table and with a protocol of its
own. No rule looks into that table; BIRD or FRR reads it and announces what is there. Only routes of
our protocol in our table are ever removed.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
from collections.abc import Iterator
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError

from coild.routing.announcer import RouteError, RoutesForbiddenError
from coild.rules.addresses import Subnet

_INTERFACE = "lo"
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
#: rtnetlink.h: RTN_UNICAST, RT_SCOPE_NOWHERE, RTM_F_CLONED.
_UNICAST, _NOWHERE, _CLONED = 1, 255, 0x200
#: TEST-NET-1 (RFC 5737), with a metric that no route of ours has: there is nothing to remove.
_PROBE = {"family": socket.AF_INET, "dst": "192.0.2.0/32", "priority": 0xFFFFFFFE}
#: What the kernel says to a route that is not there (route, interface), or a family it has not.
_ABSENT = frozenset({errno.ESRCH, errno.ENODEV, errno.EAFNOSUPPORT, errno.EOPNOTSUPP})
_EXISTS = frozenset({errno.EEXIST})
_HINTS = {
    errno.ENETDOWN: f"is {_INTERFACE} up?",
    # A process that lacks the right to do it gets EPERM.
    errno.EACCES: f"is IPv6 disabled on {_INTERFACE} (sysctl net.ipv6.conf.{_INTERFACE})?",
    errno.EAFNOSUPPORT: "has the kernel IPv6?",
    errno.EOPNOTSUPP: "has the kernel IPv6?",
}
#: How often a list that others changed meanwhile is asked for again, and a route that they removed
#: or added is made or removed again. More than that is an error.
_ATTEMPTS = 16


class KernelRoutes:
    """The routes of one table and one protocol. Belongs to one thread."""

    def __init__(self, table: int, protocol: int) -> None:
        """Raises RoutesForbiddenError, RouteError."""
        self._table = table
        self._protocol = protocol
        self._netlink: Any = None
        try:
            self._lo = socket.if_nametoindex(_INTERFACE)
            # Asked of the kernel: a capability in a user namespace may be none in the network's.
            self._change("del", _PROBE, _ABSENT)
        except OSError as error:
            raise RouteError(f"{_INTERFACE}: {error.strerror}") from None
        except RouteError:
            self.close()
            raise

    def blocks(self) -> set[Subnet]:
        """The blocks that our routes lead to. Raises RouteError.

        A route of our protocol that is not as we make them is removed on the way, and with it what
        else leads to the same block: that is not in the answer then.
        """
        found: set[Subnet] = set()
        strange: list[Subnet] = []
        for version in _FAMILIES:
            for route in self._dump(version):
                if route["proto"] == self._protocol:
                    block = _destination(version, route)
                    if self._is_as_made(route):
                        found.add(block)
                    else:
                        strange.append(block)
                        self._remove(block, route)
        return found.difference(strange)

    def add(self, block: Subnet) -> None:
        """Make the route to a block, if there is none. Raises RouteError that says why."""
        route = self._route(block) | {"oif": self._lo}
        for _ in range(_ATTEMPTS):
            if not self._change("add", route, _EXISTS):
                return
            # The process that made it may have removed it by now: then it is ours to make.
            if self._is_taken(block):
                return
        raise RouteError(f"others make and remove it in table {self._table}")

    def remove(self, block: Subnet) -> None:
        """Remove every route of ours to a block. Raises RouteError that says why."""
        self._remove(block, {})

    def close(self) -> None:
        """Close the socket; the routes stay."""
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None

    def _route(self, block: Subnet) -> dict[str, Any]:
        return {"family": _FAMILIES[block.version], "dst": str(block)}

    def _is_as_made(self, route: Any) -> bool:
        """Whether a route is as `add` makes it; routing daemons ignore scope and metric."""
        on_lo = route.get("oif") == self._lo and route["type"] == _UNICAST
        via = any(route.get(name) is not None for name in ("gateway", "via", "encap"))
        return on_lo and not via and not route["tos"] and not route["src_len"]

    def _is_taken(self, block: Subnet) -> bool:
        """Whether a route of ours is there; a strange one of ours is removed.

        Raises RouteError if it is another's.
        """
        found = [
            route
            for route in self._dump(block.version)
            if block == _destination(block.version, route)
        ]
        ours = [each for each in found if each["proto"] == self._protocol]
        if any(map(self._is_as_made, ours)):
            return True
        for each in ours:
            self._remove(block, each)
        if found and not ours:
            raise RouteError(
                f"table {self._table} has one that is not coild's, its protocol is "
                f"{found[0]['proto']}; remove it, or give coild another --table-id"
            )
        return False

    def _remove(self, block: Subnet, like: Any) -> None:
        """Remove our routes to a block, of any type, scope, metric and next hop.

        Of those with a type of service or a source, the ones are removed that have it as `like`.
        """
        # An unspecified type and this scope match any, as for `ip route del`.
        which = self._route(block) | {"type": 0, "scope": _NOWHERE}
        if like and like["tos"]:
            which["tos"] = like["tos"]
        if like and like["src_len"]:
            which["src"] = f"{like.get('src')}/{like['src_len']}"
        # The kernel removes one at a time: repeat until it says that there is none.
        for _ in range(_ATTEMPTS):
            if self._change("del", which, _ABSENT):
                return
        raise RouteError(f"it is in table {self._table} again and again")

    def _dump(self, version: int) -> list[Any]:
        """All routes of the table."""
        family = _FAMILIES[version]
        for attempts_left in reversed(range(_ATTEMPTS)):
            with self._asked() as netlink:
                try:
                    found = list(netlink.get_routes(family=family, table=self._table))
                except NetlinkDumpInterrupted:
                    if attempts_left:
                        continue
                    raise RouteError("the list of routes changes too fast to be read") from None
                except NetlinkError as error:
                    if error.code in _ABSENT:
                        return []
                    raise
                break
        # Old kernels do not filter by table, and one without IPv6 tells of IPv4 then. Clones are
        # what the kernel learned of a path, not routes that a program made.
        return [
            route
            for route in found
            if (family, self._table) == (route["family"], route.get("table"))
            and not route["flags"] & _CLONED
        ]

    def _change(self, command: str, route: dict[str, Any], expected: frozenset[int]) -> int:
        """0 if it is done, or the one of the `expected` errors that the kernel answers with."""
        with self._asked() as netlink:
            try:
                netlink.route(command, table=self._table, proto=self._protocol, **route)
            except NetlinkError as error:
                if error.code in expected:
                    return int(error.code)
                raise
        return 0

    @contextlib.contextmanager
    def _asked(self) -> Iterator[Any]:
        """The socket to ask by. Raises RouteError in place of what goes wrong."""
        try:
            if self._netlink is None:
                self._netlink = IPRoute()
            yield self._netlink
        except RouteError:
            raise
        except NetlinkError as error:
            if error.code == errno.EPERM:
                raise RoutesForbiddenError("the kernel does not permit it") from None
            hint = _HINTS.get(error.code)
            raise RouteError(os.strerror(error.code) + (f"; {hint}" if hint else "")) from None
        except Exception as error:
            # The socket is of no more use, and may even hold half an answer: the next call has one
            # of its own.
            self.close()
            if isinstance(error, OSError):
                raise RouteError(f"netlink: {error.strerror or error}") from None
            raise


def _destination(version: int, route: Any) -> Subnet:
    # The default route's destination is not told.
    text = route.get("dst")
    base = int(ipaddress.ip_address(text)) if text else 0
    return Subnet(version, base, route["dst_len"])
