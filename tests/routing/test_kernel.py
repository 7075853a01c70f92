"""Routes of blocks in the real kernel, in a network namespace of the test's own."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyroute2
import pytest

from coild.routing.announcer import RouteError
from coild.routing.netlink import KernelRoutes
from coild.rules.addresses import Subnet
from tests.kits.daemon.process import ROOT, ended
from tests.kits.system.netns import Namespace

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may make network namespaces")

TABLE, PROTOCOL = 119, 30
#: Of another program.
FOREIGN = 99
IPV4, IPV6 = Subnet.parse("10.64.0.0/27"), Subnet.parse("fd00:64::/123")
BOTH = pytest.mark.parametrize("block", [IPV4, IPV6], ids=["IPv4", "IPv6"])
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
#: rtnetlink.h: RTN_UNICAST, RTN_BLACKHOLE.
UNICAST, BLACKHOLE = 1, 6


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    """This thread is in a network namespace with a pair of interfaces besides lo."""
    with Namespace() as namespace, namespace.entered():
        yield namespace


@pytest.fixture
def netlink(namespace: Namespace) -> Iterator[Any]:
    """What the test asks the kernel by."""
    with pyroute2.IPRoute() as netlink:
        yield netlink


@pytest.fixture
def kernel(namespace: Namespace) -> Iterator[KernelRoutes]:
    """The routes under test."""
    kernel = KernelRoutes(TABLE, PROTOCOL)
    yield kernel
    kernel.close()


@pytest.fixture
def veth(netlink: Any) -> int:
    """An interface with a neighbour at the other end; its index."""
    netlink.link("add", ifname="one", kind="veth", peer="two")
    (index,) = netlink.link_lookup(ifname="one")
    for name in ("one", "two"):
        netlink.link("set", ifname=name, state="up")
    for address, length in (("192.0.2.1", 24), ("2001:db8::1", 64)):
        # Without looking for duplicates, it is there at once.
        netlink.addr("add", index=index, address=address, prefixlen=length, flags=2)
    return int(index)


def gateway_of(block: Subnet) -> str:
    """A neighbour on the veth."""
    return "192.0.2.2" if block.version == 4 else "2001:db8::2"


def make(netlink: Any, block: Subnet, **how: Any) -> None:
    """Make a route to the block: of our protocol, in our table, if nothing else is said."""
    how = {"table": TABLE, "proto": PROTOCOL} | how
    netlink.route("add", family=FAMILIES[block.version], dst=str(block), **how)


def routes(
    netlink: Any, table: int = TABLE
) -> list[tuple[str, int, int, int | None, str | None, int | None]]:
    """All of a table: destination, protocol, type, interface, gateway, metric."""
    found = []
    for family, default in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        found += [
            (
                f"{route.get('dst') or default}/{route['dst_len']}",
                route["proto"],
                route["type"],
                route.get("oif"),
                route.get("gateway"),
                route.get("priority"),
            )
            for route in netlink.get_routes(family=family, table=table)
            if (family, table) == (route["family"], route.get("table"))
        ]
    return found


def ours(block: Subnet) -> tuple[str, int, int, int | None, str | None, int | None]:
    """The route that is to be there: on lo, which is 1 in every namespace."""
    # The kernel's own metric for IPv6.
    return (str(block), PROTOCOL, UNICAST, 1, None, None if block.version == 4 else 1024)


def test_a_route_as_specified(kernel: KernelRoutes, netlink: Any) -> None:
    """A block of either family is a route on lo in table 119, protocol 30, until it is removed."""
    kernel.add(IPV4)
    kernel.add(IPV6)
    made = routes(netlink)
    found = kernel.blocks()
    kernel.remove(IPV4)
    left = kernel.blocks()
    kernel.remove(IPV6)

    assert [ours(IPV4), ours(IPV6)] == made
    assert {IPV4, IPV6} == found
    assert {IPV6} == left
    assert [] == routes(netlink)


@BOTH
def test_an_operator_sees_it(kernel: KernelRoutes, netlink: Any, block: Subnet) -> None:
    """Where iproute2 is installed, `ip route show table 119` lists the block's route as ours."""
    kernel.add(block)
    shown = f"{block} dev lo proto {PROTOCOL} "
    # Not a skipped test, for CI has no iproute2: pyroute2 sees the route in any case.
    if found := shutil.which("ip"):
        shown = ended(
            [found, f"-{block.version}", "route", "show", "table", str(TABLE)], check=True
        ).stdout

    assert [ours(block)] == routes(netlink)
    assert f"{block} dev lo proto {PROTOCOL}" == " ".join(shown.split()[:5])


@pytest.mark.parametrize("text", ["0.0.0.0/0", "::/0", "10.0.0.1/32", "fd00::1/128"])
def test_every_length(kernel: KernelRoutes, text: str) -> None:
    """Blocks of one address, and of all of them, come and go, too."""
    block = Subnet.parse(text)
    kernel.add(block)
    found = kernel.blocks()
    kernel.remove(block)

    assert {block} == found
    assert set() == kernel.blocks()


@pytest.mark.parametrize("table", [1, 200, 256, 4_294_967_295])
def test_every_table(namespace: Namespace, netlink: Any, table: int) -> None:
    """Small and large numbers of tables are the tables that are meant."""
    kernel = KernelRoutes(table, 255)
    kernel.add(IPV4)
    kernel.add(IPV6)
    found = kernel.blocks()
    made = {route[:2] for route in routes(netlink, table)}
    kernel.remove(IPV4)
    kernel.remove(IPV6)
    kernel.close()

    assert {IPV4, IPV6} == found
    assert {(str(IPV4), 255), (str(IPV6), 255)} == made
    assert [] == routes(netlink, table)


@BOTH
def test_what_is_so_already_is_no_error(kernel: KernelRoutes, netlink: Any, block: Subnet) -> None:
    """To add what is there, and to remove what is not, changes nothing."""
    kernel.remove(block)
    kernel.add(block)
    kernel.add(block)

    assert [ours(block)] == routes(netlink)


@BOTH
def test_foreign_routes_stay(kernel: KernelRoutes, netlink: Any, block: Subnet) -> None:
    """Of another protocol or in another table: never in the list, replaced or removed."""
    other = Subnet(block.version, block.base + block.size, block.prefix)
    make(netlink, block, proto=FOREIGN, oif=1)
    make(netlink, other, table=120, oif=1)
    before = routes(netlink), routes(netlink, 120)

    with pytest.raises(RouteError, match=r"table 119 has one .* not coild's, its protocol is 99;"):
        kernel.add(block)
    found = kernel.blocks()
    kernel.remove(block)
    kernel.remove(other)

    assert set() == found
    assert before == (routes(netlink), routes(netlink, 120))


@BOTH
def test_a_foreign_route_beside_ours(kernel: KernelRoutes, netlink: Any, block: Subnet) -> None:
    """Another's route to the same block with another metric is not in the way, and stays."""
    make(netlink, block, proto=FOREIGN, oif=1, priority=7)
    kernel.add(block)
    both = {route[1] for route in routes(netlink)}
    kernel.add(block)
    kernel.remove(block)

    assert {FOREIGN, PROTOCOL} == both
    assert [FOREIGN] == [route[1] for route in routes(netlink)]


LIKE_OURS: dict[str, dict[str, Any]] = {
    # What `ip route add` makes, if one does not ask for another scope.
    "scope link": {"oif": 1, "scope": 253},
    "metric": {"oif": 1, "priority": 5},
}


@pytest.mark.parametrize("how", LIKE_OURS.values(), ids=LIKE_OURS)
@BOTH
def test_routes_like_ours_are_ours(
    kernel: KernelRoutes, netlink: Any, block: Subnet, how: dict[str, Any]
) -> None:
    """One that leads to a block on lo in another way counts as its route, and goes with it."""
    make(netlink, block, **how)
    found = kernel.blocks()
    kernel.add(block)
    kernel.remove(block)

    assert {block} == found
    assert [] == routes(netlink)


def test_all_routes_to_a_block_go(kernel: KernelRoutes, netlink: Any) -> None:
    """However many routes of ours lead to a block, none is left when it is removed."""
    for block in (IPV4, IPV6):
        kernel.add(block)
        for metric in (5, 6, 7):
            make(netlink, block, oif=1, priority=metric)
        kernel.remove(block)

    assert [] == routes(netlink)


STRANGE = ["blackhole", "gateway", "device", "multipath", "tos", "metrics"]


@pytest.mark.parametrize("kind", STRANGE)
@BOTH
def test_strange_routes_of_ours_are_removed(
    kernel: KernelRoutes, netlink: Any, veth: int, block: Subnet, kind: str
) -> None:
    """A route with our mark that leads elsewhere is removed, and does not hinder the block's."""
    hop = {"oif": veth, "gateway": gateway_of(block)}
    kinds: dict[str, dict[str, Any]] = {
        "blackhole": {"type": "blackhole"},
        "gateway": hop,
        "device": {"oif": veth},
        "multipath": {"multipath": [hop, {"oif": veth, "gateway": f"{hop['gateway']}2"}]},
        "tos": {"oif": 1, "tos": 16} if block.version == 4 else {"oif": 1, "src": "fd00:9::/64"},
        "metrics": hop | {"priority": 9, "metrics": {"mtu": 1400}},
    }
    how = kinds[kind]
    make(netlink, block, **how)
    before = routes(netlink)
    found = kernel.blocks()
    after = routes(netlink)
    make(netlink, block, **how)
    kernel.add(block)
    kernel.blocks()
    kernel.add(block)

    assert before
    assert set() == found
    assert [] == after
    assert [ours(block)] == routes(netlink)


@BOTH
def test_lo_down(kernel: KernelRoutes, netlink: Any, block: Subnet) -> None:
    """While lo is down the error says so; when it is up, the route can be made."""
    kernel.add(block)
    netlink.link("set", ifname="lo", state="down")

    with pytest.raises(RouteError, match=r"^Network is down; is lo up\?$"):
        kernel.add(block)
    # The kernel dropped it, and says so.
    assert set() == kernel.blocks()
    kernel.remove(block)
    netlink.link("set", ifname="lo", state="up")
    kernel.add(block)

    assert [ours(block)] == routes(netlink)


def test_ipv6_disabled(kernel: KernelRoutes, netlink: Any) -> None:
    """Where IPv6 is switched off, its blocks fail with the reason; those of IPv4 do not."""
    switch = Path("/proc/sys/net/ipv6/conf/all/disable_ipv6")
    kernel.add(IPV6)
    switch.write_text("1")

    with pytest.raises(RouteError, match=r"^Permission denied; is IPv6 disabled on lo \(sysctl"):
        kernel.add(IPV6)
    kernel.remove(IPV6)
    kernel.add(IPV4)
    found = kernel.blocks()
    switch.write_text("0")
    kernel.add(IPV6)

    assert {IPV4} == found
    assert [ours(IPV4), ours(IPV6)] == routes(netlink)


def test_a_socket_that_broke_is_replaced(kernel: KernelRoutes) -> None:
    """After an error of the socket itself, the next call has a new one."""
    kernel.add(IPV4)
    kernel._netlink.close()

    with pytest.raises(RouteError, match=r"^netlink: Bad file descriptor$"):
        kernel.add(IPV6)
    kernel.add(IPV6)

    assert {IPV4, IPV6} == kernel.blocks()


def test_a_list_that_changed_meanwhile_is_asked_for_again(
    kernel: KernelRoutes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where others change routes while they are listed, the list is of one moment, or an error."""
    kernel.add(IPV4)
    netlink = kernel._netlink
    interruptions = [pyroute2.netlink.exceptions.NetlinkDumpInterrupted] * 3
    listed = netlink.get_routes

    def interrupted(**how: Any) -> Any:
        if interruptions:
            raise interruptions.pop()
        return listed(**how)

    monkeypatch.setattr(netlink, "get_routes", interrupted)

    assert {IPV4} == kernel.blocks()
    interruptions.extend([pyroute2.netlink.exceptions.NetlinkDumpInterrupted] * 99)
    with pytest.raises(RouteError, match="changes too fast"):
        kernel.blocks()


@pytest.mark.parametrize(
    "runner",
    [
        # The capability is gone; or it is one of a user namespace that the network is not of.
        ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"],
        ["unshare", "--user", "--map-root-user"],
    ],
    ids=["no capability", "user namespace"],
)
def test_without_the_right(namespace: Namespace, runner: list[str]) -> None:
    """Who may not change routes is told so when it starts, by the kernel itself."""
    code = (
        "from coild.routing.announcer import RoutesForbiddenError\n"
        "from coild.routing.netlink import KernelRoutes\n"
        "try:\n"
        f"    KernelRoutes({TABLE}, {PROTOCOL})\n"
        "except RoutesForbiddenError as error:\n"
        "    print(error)\n"
    )

    done = ended([*runner, sys.executable, "-W", "error", "-c", code], cwd=ROOT)

    assert ("the kernel does not permit it\n", "") == (done.stdout, done.stderr)


def test_nothing_is_left_open(namespace: Namespace) -> None:
    """However often it is opened and closed, no file descriptor is left."""

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    KernelRoutes(TABLE, PROTOCOL).close()
    before = descriptors()
    for _ in range(5):
        KernelRoutes(TABLE, PROTOCOL).close()

    assert before == descriptors()
