"""The routes of a network namespace, as the kernel and the daemon tell of them."""

from __future__ import annotations

import socket
from typing import Any

from tests.kits.daemon.process import Daemon


def routes(netlink: Any, table: int = 119) -> set[tuple[str, int]]:
    """A table's routes on lo: destination and protocol."""
    return {
        (f"{route.get('dst')}/{route['dst_len']}", route["proto"])
        for family in (socket.AF_INET, socket.AF_INET6)
        for route in netlink.get_routes(family=family, table=table)
        if route.get("oif") == 1
    }


def health(daemon: Daemon) -> Any:
    """How the export goes, as GET /health has it."""
    return daemon.client.get("/health").json()["routes"]


def set_lo(netlink: Any, state: str) -> None:
    """Set lo up or down. The daemon's clients are on lo, too."""
    netlink.link("set", ifname="lo", state=state)
