"""coild-ipam under Debian's CNI plugins: pods in namespaces of the test's own, the real daemon."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyroute2
import pytest

from coild.rules.events import COLLECTED, REQUESTED
from tests.kits.daemon.process import Daemon, ended, wait_for
from tests.kits.plugin.cni import install_plugin
from tests.kits.plugin.runtime import Runtime, plugins
from tests.kits.system.debian import package
from tests.kits.system.netns import Namespace

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may make network namespaces")

#: What coild hands out, and what the pods' networks are parts of; the gateways are outside.
POOL = "default=10.64.128.0/17,fd00:64:0:1::/64"
SUBNETS = ["10.64.0.0/16", "fd00:64::/48"]
GATEWAYS = ["10.64.0.1", "fd00:64::1"]
DEFAULT_ROUTES = ["0.0.0.0/0", "::/0"]
PODS = 200
#: How many a busy node starts at a time.
AT_ONCE = 16
CRASHES = 3


@pytest.fixture(scope="module")
def plugin_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the installed coild-ipam and Debian's plugins; busybox is had too."""
    package("busybox-static")
    return plugins(tmp_path_factory.mktemp("cni") / "bin")


@pytest.fixture
def node(plugin_path: Path) -> Iterator[None]:
    """The node's network namespace: this thread, and what it starts, is in it."""
    with Namespace() as namespace, namespace.entered():
        for forwarding in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            Path("/proc/sys/net", forwarding).write_text("1")
        yield


@pytest.fixture
def coild(node: None, tmp_path: Path) -> Iterator[Daemon]:
    """The daemon, which runs in the node's namespace."""
    with Daemon(tmp_path / "data", "--socket", str(tmp_path / "socket"), "--pool", POOL) as daemon:
        yield daemon


@pytest.fixture
def new_pod() -> Iterator[Callable[[], str]]:
    """Makes a network namespace for a pod; its path."""
    with ExitStack() as stack:

        def made() -> str:
            return stack.enter_context(Namespace()).path

        yield made


def ipam(tmp_path: Path, address_type: str) -> dict[str, Any]:
    """The `ipam` section of a plugin's configuration, with a subnet that all pods are in."""
    families = {"ipv4": slice(0, 1), "ipv6": slice(1, 2), "dual": slice(0, 2)}[address_type]
    return {
        "type": "coild-ipam",
        "coild": f"unix:{tmp_path}/socket",
        "spool": str(tmp_path / "data" / "spool"),
        "address-type": address_type,
        "subnet": SUBNETS[families],
        "gateway": GATEWAYS[families],
        "routes": [{"dst": destination} for destination in DEFAULT_ROUTES[families]],
    }


def network_of(
    plugin: dict[str, Any], name: str = "pods", version: str = "1.0.0"
) -> dict[str, Any]:
    """The configuration of a network with one plugin."""
    return {"cniVersion": version, "name": name, "plugins": [plugin]}


def ptp(tmp_path: Path, address_type: str = "ipv4") -> dict[str, Any]:
    """Pods with a veth pair to the node each."""
    return network_of({"type": "ptp", "ipam": ipam(tmp_path, address_type)})


def bridge(tmp_path: Path, address_type: str = "ipv4") -> dict[str, Any]:
    """Pods on a bridge of the node."""
    section = ipam(tmp_path, address_type)
    return network_of({"type": "bridge", "bridge": "cni0", "isGateway": True, "ipam": section})


def inside(netns: str, *command: str) -> str:
    """What a busybox command says in a pod."""
    busybox = package("busybox-static") / "bin/busybox"
    return ended(["nsenter", f"--net={netns}", busybox, *command], check=True).stdout


def addresses(result: dict[str, Any]) -> list[str]:
    """The addresses of a result, without their prefix lengths."""
    return [ip["address"].partition("/")[0] for ip in result["ips"]]


def links() -> set[str]:
    """The node's interfaces."""
    return {name for _, name in socket.if_nameindex()}


@pytest.mark.parametrize(("kind", "left"), [(ptp, {"lo"}), (bridge, {"lo", "cni0"})])
def test_pods_reach_each_other(
    coild: Daemon,
    plugin_path: Path,
    tmp_path: Path,
    new_pod: Callable[[], str],
    kind: Callable[..., dict[str, Any]],
    left: set[str],
) -> None:
    """Two pods get an address of each family and reach each other; then nothing of them is left."""
    runtime = Runtime(plugin_path, kind(tmp_path, "dual"))
    pods = {"one": new_pod(), "two": new_pod()}

    with ThreadPoolExecutor() as threads:
        results = list(threads.map(runtime.add, pods, pods.values()))
    one, two = map(addresses, results)
    held = coild.status()["pods"]
    answers = [inside(pods["one"], "ping", "-c", "1", "-w", "10", address) for address in two]
    answers += [inside(pods["two"], "ping", "-c", "1", "-w", "10", address) for address in one]
    for container_id, netns in pods.items():
        runtime.check(container_id, netns)
        runtime.delete(container_id, netns)

    assert sorted(one + two) == sorted(held.values())
    assert all(", 0% packet loss" in answer for answer in answers)
    assert {} == coild.status()["pods"]
    assert left == links()


def test_a_pod_is_removed_while_the_daemon_is_down(
    coild: Daemon, plugin_path: Path, tmp_path: Path, new_pod: Callable[[], str]
) -> None:
    """DEL succeeds without a daemon; the address is free once there is one, as requested."""
    runtime = Runtime(plugin_path, ptp(tmp_path))
    netns = new_pod()
    runtime.add("one", netns)
    coild.kill()

    runtime.delete("one", netns)
    left = links()
    coild.start()

    assert {"lo"} == left
    assert {} == coild.status()["pods"]
    assert [("one", REQUESTED)] == coild.releases()


def test_many_pods_and_crashes(
    coild: Daemon, plugin_path: Path, tmp_path: Path, new_pod: Callable[[], str]
) -> None:
    """200 pods come and go while the daemon crashes: no address twice, and none is left."""
    runtime = Runtime(plugin_path, ptp(tmp_path))
    pods = {f"pod-{i}": new_pod() for i in range(PODS)}
    done = threading.Semaphore(0)

    def crashing(operation: Callable[[str, str], Any]) -> list[Any]:
        """Do it to all pods, and crash the daemon a few times meanwhile."""

        def one(container_id: str) -> Any:
            try:
                return operation(container_id, pods[container_id])
            finally:
                done.release()

        with ThreadPoolExecutor(AT_ONCE) as threads:
            results = threads.map(one, pods)
            for _ in range(CRASHES):
                for _ in range(PODS // (CRASHES + 1)):
                    done.acquire()
                coild.kill()
                coild.start()
        return list(results)

    given = [address for result in crashing(runtime.add) for address in addresses(result)]
    held = coild.status()["pods"]
    crashing(runtime.delete)
    # What came into the spool after the daemon had looked there, the next plugins bring.
    last = new_pod()

    def is_settled() -> bool:
        runtime.add("last", last)
        runtime.delete("last", last)
        return not list((tmp_path / "data" / "spool").iterdir())

    wait_for(is_settled, "the spool to be empty")

    assert PODS == len(set(given))
    assert dict(zip(pods, given, strict=True)) == held
    assert {} == coild.status()["pods"]
    released = [container_id for container_id, _ in coild.releases() if container_id != "last"]
    assert sorted(pods) == sorted(released)
    assert {"lo"} == links()


def test_a_runtime_forgot_containers(
    coild: Daemon, plugin_path: Path, tmp_path: Path, new_pod: Callable[[], str]
) -> None:
    """GC releases what the runtime does not name, of its network alone, and journals why."""
    # Debian's plugins are older than GC: the IPAM plugin is executed as they would.
    plugin = {"type": "coild-ipam", "ipam": ipam(tmp_path, "dual")}
    pods = Runtime(plugin_path, network_of(plugin, "pods", "1.1.0"))
    storage = Runtime(plugin_path, network_of(plugin, "storage", "1.1.0"))
    containers = {f"pod-{i}": new_pod() for i in range(4)}
    for container_id, netns in containers.items():
        pods.add(container_id, netns)
        storage.add(container_id, netns, "eth1")

    pods.collect([("pod-0", "eth0"), ("pod-3", "eth0"), ("pod-1", "eth1")])

    gone = {"pod-1", "pod-1/eth0/ipv6", "pod-2", "pod-2/eth0/ipv6"}
    stay = {"pod-0", "pod-0/eth0/ipv6", "pod-3", "pod-3/eth0/ipv6"}
    stay |= {f"{each}/eth1{family}" for each in containers for family in ("", "/ipv6")}
    assert stay == coild.status()["pods"].keys()
    assert {(container_id, COLLECTED) for container_id in gone} == set(coild.releases())


def routes() -> set[tuple[str, int, str]]:
    """The routes in table 119 of this namespace: destination, protocol, interface."""
    found = set()
    with pyroute2.IPRoute() as netlink:
        for family in (socket.AF_INET, socket.AF_INET6):
            for route in netlink.get_routes(family=family, table=119):
                subnet = f"{route.get('dst')}/{route['dst_len']}"
                found.add((subnet, route["proto"], socket.if_indextoname(route.get("oif"))))
    return found


def test_blocks_are_routes(
    node: None, plugin_path: Path, tmp_path: Path, new_pod: Callable[[], str]
) -> None:
    """Each block is a route on lo in table 119, protocol 30, until it is given back."""
    runtime = Runtime(plugin_path, ptp(tmp_path, "dual"))
    netns = new_pod()
    with Daemon(
        tmp_path / "data",
        *("--socket", str(tmp_path / "socket"), "--pool", POOL),
        *("--export-routes", "--scan-interval", "1s", "--reuse-after", "0s"),
    ) as coild:

        def exported() -> bool:
            blocks = coild.status()["address-blocks"].get("default", [])
            return routes() == {(block, 30, "lo") for block in blocks}

        none_at_first = routes()
        runtime.add("one", netns)
        blocks = coild.status()["address-blocks"]["default"]
        wait_for(exported, "a route to each block")
        coild.kill()
        after_a_crash = routes()
        coild.start()
        wait_for(exported, "a route to each block, still")
        runtime.delete("one", netns)
        wait_for(lambda: not coild.status()["address-blocks"], "the blocks to be given back")
        left = routes()

    assert set() == none_at_first
    assert 2 == len(blocks) == len(after_a_crash)
    assert set() == left


@pytest.mark.parametrize("address_type", [None, "ipv6", "dual"])
def test_the_network_to_start_from(
    node: None,
    plugin_path: Path,
    tmp_path: Path,
    new_pod: Callable[[], str],
    address_type: str | None,
) -> None:
    """With what --install prints, pods reach each other and the node, over each family."""
    network = json.loads(install_plugin(tmp_path / "bin").stdout)
    options = network["plugins"][0]["ipam"]
    assert options.pop("coild") == "unix:/run/coild/coild.sock"
    socket = tmp_path / "s"
    options |= {"coild": f"unix:{socket}", "spool": str(tmp_path / "data" / "spool")}
    if address_type:
        options["address-type"] = address_type
    runtime = Runtime(plugin_path, network)
    pods = {"one": new_pod(), "two": new_pod()}
    with Daemon(tmp_path / "data", "--socket", str(socket)) as coild:
        results = [runtime.add(*pod) for pod in pods.items()]
        reached = [ip["gateway"] for ip in results[1]["ips"]] + addresses(results[1])
        answers = [
            inside(pods["one"], "ping", "-c", "1", "-w", "10", address)
            for address in reached
            if address != "fe80::1"
        ]
        for container_id, netns in pods.items():
            runtime.check(container_id, netns)
            runtime.delete(container_id, netns)
        left = coild.status()["pods"].keys()

    assert answers
    assert all(", 0% packet loss" in answer for answer in answers)
    assert left == set()
    assert links() == {"lo"}
