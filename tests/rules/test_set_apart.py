"""Addresses that no pod can use: reserved, edges, gateways, the node's own; never handed out."""

# expected == actual

from __future__ import annotations

import asyncio
import ipaddress
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from pyroute2 import IPRoute

from coild.blocks import NoBlockError
from coild.blocks.static import StaticBlocks
from coild.rules.addresses import Pool, Span, Subnet
from coild.rules.apart import why_no_unicast
from coild.rules.events import UNNEEDED, AddressReleased
from coild.rules.ranges import Ranges
from tests.kits.daemon.process import Daemon, wait_for
from tests.kits.daemon.service import pool
from tests.kits.plugin.cni import Plugin, new_id
from tests.kits.system.netns import Namespace
from tools.cni.gateway import NODE_KEY

SPANS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=8)


@given(SPANS, SPANS, st.integers(0, 40), st.integers(0, 40))
def test_ranges_are_sets(
    some: list[tuple[int, int]], others: list[tuple[int, int]], one: int, two: int
) -> None:
    """Ranges answer as a plain set of the same integers does."""
    ranges, other = Ranges(some), Ranges(others)
    plain = {number for start, end in some for number in range(start, end)}
    less = plain - {number for start, end in others for number in range(start, end)}
    base, end = sorted((one, two))

    assert plain == {number for number in range(50) if number in ranges}
    assert bool(plain) == bool(ranges)
    assert next(each for each in range(one, 50) if each not in plain) == ranges.end_after(one)
    assert {each - base for each in plain if base <= each < end} == {
        number for number in range(50) if number in ranges.within(base, end)
    }
    assert len([each for each in plain if base <= each < end]) == ranges.count(base, end)
    assert less == {each for first, last in ranges.without(other) for each in range(first, last)}


def of(base: Pool, *reserved: str, edges: bool = False) -> Pool:
    """The pool with addresses reserved."""
    return replace(base, reserved=tuple(map(Span.parse, reserved)), reserve_edges=edges)


@pytest.mark.parametrize(
    ("owner", "version", "first"),
    [
        (of(pool(5, "10.0.0.0/16"), "10.0.0.0/17"), 4, "10.0.128.0/27"),
        (of(pool(5, "10.0.0.0/16"), "10.0.0.0-10.0.0.40"), 4, "10.0.0.32/27"),
        (of(pool(5, "fd00::/48"), "fd00::/49"), 6, "fd00:0:0:8000::/123"),
        (of(pool(0, "10.0.0.0/29"), edges=True), 4, "10.0.0.1/32"),
        (of(pool(0, "fd00::/125"), edges=True), 6, "fd00::1/128"),
        (of(pool(0, "10.0.0.0/31"), edges=True), 4, "10.0.0.0/32"),
        (of(pool(0, "fd00::/127"), edges=True), 6, "fd00::/128"),
        (of(pool(0, "10.0.0.7/32"), edges=True), 4, "10.0.0.7/32"),
    ],
)
def test_a_block_that_is_set_apart_is_not_taken(owner: Pool, version: int, first: str) -> None:
    """Half of a pool is stepped over at once; a block with one address left is taken."""
    source = StaticBlocks({"default": owner}, [])

    assert first == str(asyncio.run(source.acquire("default", version)))


def test_a_pool_that_is_set_apart_as_a_whole() -> None:
    """There is no block, and the reason says why."""
    source = StaticBlocks({"default": of(pool(2, "10.0.0.0/28"), "10.0.0.0/28")}, [])

    with pytest.raises(NoBlockError, match="is taken or set apart"):
        asyncio.run(source.acquire("default", 4))


def allocate_all(daemon: Daemon, family: str = "ipv4") -> list[str]:
    """Allocate until the pool is exhausted; the addresses."""
    found: list[str] = []
    while True:
        body = {
            "pod-namespace": "default",
            "pod-name": "p",
            "container-id": new_id(),
            "address-type": family,
        }
        answer = daemon.client.post("/ip", json=body)
        if answer.status_code == 503:
            return found
        assert answer.status_code == 200
        found.append(answer.json()["address"])


@pytest.mark.parametrize("block_size", ["0", "2", "6"])
def test_all_but_what_is_reserved_is_handed_out(tmp_path: Path, block_size: str) -> None:
    """Reserved addresses, ranges and subnets, edges and gateways never are, all others are."""
    options = [
        *("--pool", "default=10.9.0.0/26,fd09::/122", "--block-size", block_size),
        *("--reserved", "default=10.9.0.8/29,10.9.0.12-10.9.0.20,10.9.0.40,fd09::20/123"),
        *("--gateway", "default=10.9.0.1,fd09::1", "--reserve-edges"),
    ]
    apart = {0, 1, *range(8, 21), 40, 63}
    with Daemon(tmp_path / "data", *options) as daemon:
        four, six = allocate_all(daemon), allocate_all(daemon, "ipv6")
        daemon.kill()
        daemon.start()
        again = daemon.status()["pods"]

    assert {f"10.9.0.{each}" for each in range(64) if each not in apart} == set(four)
    assert {str(ipaddress.ip_address("fd09::") + each) for each in range(2, 32)} == set(six)
    assert sorted(four + six) == sorted(again.values())
    assert len(four) == len(set(four))


def test_an_address_that_becomes_reserved_while_it_is_held(tmp_path: Path) -> None:
    """It stays its holder's, and is told; once released it is handed out no more, until it may."""
    base = ("--pool", "default=10.9.0.0/30", "--block-size", "2", "--reuse-after", "0s")
    with Daemon(tmp_path / "data", *base) as daemon:
        daemon.allocate("held")
        kept = daemon.status()["pods"]["held"]
    with Daemon(tmp_path / "data", *base, "--reserved", f"default={kept}") as daemon:
        told = daemon.log
        still = daemon.status()["pods"]["held"]
        daemon.release("held")
        rest = allocate_all(daemon)
    with Daemon(tmp_path / "data", *base) as daemon:
        last = allocate_all(daemon)

    assert kept == still
    assert f"{kept} by container held" in told
    assert {f"10.9.0.{each}" for each in range(4)} - {kept} == set(rest)
    assert [kept] == last


def test_a_caller_names_what_it_cannot_use(daemon: Daemon) -> None:
    """What is `unusable` is set apart, `details` tell the subnet; plain answers stay plain."""
    body = {"pod-namespace": "default", "pod-name": "p", "container-id": "c1"}
    more = {"details": True, "unusable": ["10.64.0.2", "192.0.2.1", "fd00:64::7"]}
    answer = daemon.client.post("/ip", json=body | more)
    path = "/ip/default/p/c1"
    placed = {"address": "10.64.0.3", "gateway": "10.64.0.1", "pool": "default", "status": 200}

    assert placed | {"subnet": "10.64.0.0/16"} == answer.json()
    assert answer.json() == daemon.client.get(f"{path}?details=true").json()
    assert {"address": "10.64.0.3", "status": 200} == daemon.client.get(path).json()
    for wrong in ({"details": "yes"}, {"unusable": "10.64.0.2"}, {"unusable": ["x"]}):
        assert 400 == daemon.client.post("/ip", json=body | wrong).status_code


@pytest.mark.parametrize(
    ("pools", "subnet", "gateway", "usable"),
    [
        ("10.79.0.254/31", "10.79.0.0/24", "10.79.0.1", ["10.79.0.254"]),
        ("10.79.0.0/30", "10.79.0.0/24", "10.79.0.2", ["10.79.0.1", "10.79.0.3"]),
        ("fd00:79::/127", "fd00:79::/64", "fd00:79::ffff", ["fd00:79::1"]),
        ("10.79.0.0/30", None, None, ["10.79.0.2"]),
        ("10.79.0.0/30", None, "10.79.0.1", ["10.79.0.2"]),
    ],
)
@pytest.mark.parametrize("block_size", ["0", "1"])
def test_no_pod_of_a_network_gets_a_dead_address(
    executable: Path,
    tmp_path: Path,
    pools: str,
    subnet: str | None,
    gateway: str | None,
    usable: list[str],
    block_size: str,
) -> None:
    """Neither an edge of its subnet nor its gateway, whoever named them; then ADD fails."""
    options = ("--pool", f"default={pools}", "--block-size", block_size)
    ipam = {"address_type": "ipv6" if ":" in pools else "ipv4"}
    ipam |= {"subnet": subnet} if subnet else {}
    ipam |= {"gateway": gateway} if gateway else {}
    with Daemon(tmp_path / "data", *options) as daemon:
        plugin = Plugin(executable, f"http://{daemon.address}", tmp_path / "spool")
        outcomes = [plugin.run("ADD", new_id(), **ipam) for _ in range(len(usable) + 1)]
        found = [each.addresses[0] for each in outcomes[:-1]]

    assert 11 == outcomes[-1].code
    if not subnet and not gateway:
        # One of the two is the node's.
        assert {"10.79.0.1", "10.79.0.2"} > set(found)
    else:
        assert sorted(usable) == sorted(found)


ADDRESSES = {f"10.9.0.{last}" for last in range(8)}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make network namespaces")
def test_an_address_of_the_node_is_no_pods(tmp_path: Path) -> None:
    """What an interface has at the start is set apart, with a warning."""
    with Namespace() as namespace, namespace.entered():
        with IPRoute() as netlink:
            netlink.addr("add", index=1, address="10.9.0.1", prefixlen=24)
            netlink.addr("add", index=1, address="fd09::2", prefixlen=64)
        options = ("--pool", "default=10.9.0.0/30,fd09::/126", "--block-size", "1")
        with Daemon(tmp_path / "data", *options) as daemon:
            four, six = allocate_all(daemon), allocate_all(daemon, "ipv6")
            told = daemon.log

    assert {"10.9.0.0", "10.9.0.2", "10.9.0.3"} == set(four)
    assert {"fd09::", "fd09::1", "fd09::3"} == set(six)
    assert "10.9.0.1 is an address of this node, and in pool default" in told
    assert "fd09::2 is an address of this node" in told


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make network namespaces")
def test_an_address_that_the_node_gets_is_no_pods_from_then_on(tmp_path: Path) -> None:
    """It is told with its holder, and by /readyz, within a second or so; when it is gone, no more.

    What the pool itself sets apart is told of nobody: there a gateway is the node's.
    """
    with Namespace() as namespace, namespace.entered():
        options = ("--pool", "default=10.9.0.0/29", "--block-size", "1")
        apart = ("--gateway", "default=10.9.0.1", "--reserved", "default=10.9.0.6")
        with Daemon(tmp_path / "data", *options, *apart) as daemon, IPRoute() as netlink:

            def told() -> str:
                text = daemon.client.get("/readyz?verbose").text
                return next(line for line in text.splitlines() if "addresses" in line)

            quiet = told()
            held = daemon.allocate("c1").json()["address"]
            for own in ("10.9.0.1", "10.9.0.4", "10.9.0.6", held):
                netlink.addr("add", index=1, address=own, prefixlen=32)
            wait_for(lambda: "set apart are held" in daemon.log, "the holder to be told")
            wait_for(lambda: held in told() and "10.9.0.4" in told(), "the check")
            heard = told()
            log = daemon.log
            others = allocate_all(daemon)
            for own in ("10.9.0.4", held):
                netlink.addr("del", index=1, address=own, prefixlen=32)
            wait_for(lambda: told() == quiet, "it to be well again")

    assert "[+]addresses ok" == quiet
    assert heard.startswith("[!]addresses told: addresses of this node are in pools")
    assert {"10.9.0.4", held} == {each for each in ADDRESSES if each in heard}
    assert f"{held} by container c1" in log
    assert ADDRESSES - {"10.9.0.1", "10.9.0.4", "10.9.0.6", held} == set(others)


def test_the_gateway_that_the_node_took_goes_when_nobody_needs_it(
    executable: Path, tmp_path: Path
) -> None:
    """Once the pool names one: not before the last pod of before, and the journal says why."""
    options = ("--pool", "default=10.9.0.0/24", "--scan-interval", "1s")
    spool = tmp_path / "spool"
    with Daemon(tmp_path / "data", *options) as daemon:
        plugin = Plugin(executable, f"http://{daemon.address}", spool)
        plugin.run("ADD", "old")
        before = daemon.status()["pods"]
    named = ("--gateway", "default=10.9.0.254")
    with Daemon(tmp_path / "data", *options, *named) as daemon:
        plugin = Plugin(executable, f"http://{daemon.address}", spool)
        new = plugin.run("ADD", "new").answer["ips"][0]
        again = plugin.run("ADD", "old").answer["ips"][0]
        kept = daemon.status()["pods"]
        plugin.run("DEL", "old")
        wait_for(lambda: NODE_KEY not in daemon.status()["pods"], "the gateway to be given back")
        left = daemon.status()["pods"]
        released = {
            event.container_id: event.reason
            for _, event in daemon.events()
            if isinstance(event, AddressReleased)
        }

    assert {NODE_KEY, "old"} == before.keys()
    assert ("10.9.0.254", True) == (new["gateway"], new["address"].endswith("/24"))
    assert "10.9.0.254" == again["gateway"]
    assert {NODE_KEY, "old", "new"} == kept.keys()
    assert {"new"} == left.keys()
    assert UNNEEDED == released[NODE_KEY]


@pytest.mark.parametrize(
    "subnet",
    [
        *("0.0.0.0/0", "127.0.0.0/8", "224.0.0.0/4", "240.0.0.0/8", "169.254.7.0/24", "0.0.0.0/24"),
        *("::/0", "::/112", "::ffff:10.0.0.0/112", "fe80::/64", "ff00::/8", "128.0.0.0/1"),
    ],
)
def test_what_is_no_unicast_is_no_pool(subnet: str) -> None:
    """The reason says of which addresses it is."""
    assert why_no_unicast(Subnet.parse(subnet))
