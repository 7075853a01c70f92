"""`coild` over a kernel that has a bug, or never answers: the variable ROUTES says which."""

from __future__ import annotations

import os
import sys
import threading

from coild import cli
from coild.routing import exporter
from coild.routing import netlink as kernel
from coild.routing import setup as announcement
from coild.rules.addresses import Subnet


class Faulty:
    """A table of routes that does what ROUTES says when the first block comes."""

    def __init__(self, table: int, protocol: int) -> None:
        self._fault = os.environ["ROUTES"]

    def blocks(self) -> set[Subnet]:
        """As RouteTable.blocks."""
        return set()

    def add(self, block: Subnet) -> None:
        """As RouteTable.add."""
        if self._fault == "bug":
            raise KeyError("RTA_DST")
        if self._fault == "hangs":
            os.write(2, b"the kernel hangs\n")
            threading.Event().wait()

    def remove(self, block: Subnet) -> None:
        """As RouteTable.remove."""

    def close(self) -> None:
        """As RouteTable.close."""


async def ends(self: exporter.Exporter, *, whole: bool) -> None:
    """In place of Exporter._reconcile, once the table is open."""
    if not whole:
        raise ValueError("it ends")


if __name__ == "__main__":
    setattr(announcement, "has_net_admin", lambda: True)  # noqa: B010 - it is imported there
    kernel.KernelRoutes = Faulty  # type: ignore[assignment, misc]
    if os.environ["ROUTES"] == "ends":
        exporter.Exporter._reconcile = ends  # type: ignore[method-assign]
    sys.exit(cli.main())
