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
from pyroute2.netlink.exceptions import NetlinkError

from coild.addresses import Subnet
from coild.announcer import RouteError, RoutesForbiddenError

_INTERFACE = "lo"
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
#: rtnetlink.h: RTN_UNICAST.
_UNICAST = 1
#: TEST-NET-1 (RFC 5737), with a metric that no route of ours has: there is nothing to remove.
_PROBE = {"family": socket.AF_INET, "dst": "192.0.2.0/32", "priority": 0xFFFFFFFE}
#: What the kernel says to a route that is not there (route, interface), or a family it has not.
_ABSENT = {errno.ESRCH, errno.ENODEV, errno.EAFNOSUPPORT, errno.EOPNOTSUPP}


class KernelRoutes:
    """The routes of one table and one protocol. Belongs to one thread."""

    def __init__(self, table: int, protocol: int) -> None:
        """Raises RoutesForbiddenError, RouteError."""
        self._table = table
        self._protocol = protocol
        with _explained("netlink"):
            self._netlink: Any = IPRoute()
        try:
            self._lo = socket.if_nametoindex(_INTERFACE)
            # Asked of the kernel: a capability in a user namespace may be none in the network's.
            self._change("del", "the right to change routes", _PROBE)
        except OSError as error:
            self.close()
            raise RouteError(f"{_INTERFACE}: {error.strerror}") from None
        except RouteError:
            self.close()
            raise

    def blocks(self) -> set[Subnet]:
        """What our routes lead to. Raises RouteError.

        A route of our protocol that is not as we make them is removed on the way.
        """
        found: set[Subnet] = set()
        for version, family in _FAMILIES.items():
            for route in self._dump(version, family):
                block = _destination(version, route)
                if self._is_as_made(route):
                    found.add(block)
                else:
                    self._remove(block, route)
        return found

    def add(self, block: Subnet) -> None:
        """Make the route to a block, if there is none. Raises RouteError."""
        try:
            self._change("add", f"the route to {block}", self._route(block))
        except FileExistsError:
            if block in self.blocks():
                return
            raise RouteError(
                f"the route to {block} cannot be made: table {self._table} has another one to it, "
                f"which is not coild's (protocol {self._protocol}); remove it, or give coild "
                "another --table-id"
            ) from None

    def remove(self, block: Subnet) -> None:
        """Remove the route to a block, if there is one. Raises RouteError."""
        self._change("del", f"the route to {block}", self._route(block))

    def close(self) -> None:
        """Close the socket; the routes stay."""
        self._netlink.close()

    def _route(self, block: Subnet) -> dict[str, Any]:
        return {"family": _FAMILIES[block.version], "dst": str(block), "oif": self._lo}

    def _is_as_made(self, route: Any) -> bool:
        single = route.get("oif") == self._lo and route.get("gateway") is None
        return single and route["type"] == _UNICAST

    def _remove(self, block: Subnet, route: Any) -> None:
        which = {"family": _FAMILIES[block.version], "dst": str(block), "type": route["type"]}
        for name in ("oif", "priority", "gateway"):
            if route.get(name) is not None:
                which[name] = route.get(name)
        self._change("del", f"a strange route to {block}", which)

    def _dump(self, version: int, family: int) -> list[Any]:
        with _explained(f"the list of IPv{version} routes"):
            try:
                found = list(self._netlink.get_routes(family=family, table=self._table))
            except NetlinkError as error:
                if error.code in _ABSENT:
                    return []
                raise
        # Old kernels do not filter by table, and one without IPv6 tells of IPv4 then.
        ours = (family, self._table, self._protocol)
        return [
            route
            for route in found
            if ours == (route["family"], route.get("table"), route["proto"])
        ]

    def _change(self, what: str, name: str, route: dict[str, Any]) -> None:
        """Raises FileExistsError for one that is there; what is gone need not be removed."""
        with _explained(name):
            try:
                self._netlink.route(what, table=self._table, proto=self._protocol, **route)
            except NetlinkError as error:
                if error.code == errno.EEXIST:
                    raise FileExistsError from None
                if what == "del" and error.code in _ABSENT:
                    return
                raise


def _destination(version: int, route: Any) -> Subnet:
    # The default route's destination is not told.
    text = route.get("dst")
    base = int(ipaddress.ip_address(text)) if text else 0
    return Subnet(version, base, route["dst_len"])


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        raise
    except NetlinkError as error:
        if error.code in {errno.EPERM, errno.EACCES}:
            raise RoutesForbiddenError("the kernel does not permit it") from None
        hint = f"; is {_INTERFACE} up?" if error.code == errno.ENETDOWN else ""
        raise RouteError(f"{name}: {os.strerror(error.code)}{hint}") from None
    except OSError as error:
        raise RouteError(f"{name}: {error.strerror or error}") from None
