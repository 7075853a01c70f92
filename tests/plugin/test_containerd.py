"""Containers of Debian's containerd, with addresses by coild-ipam from the real daemon."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from coild.rules.events import REQUESTED, AddressAllocated, AddressReleased
from tests.kits.daemon.process import TIMEOUT_SECONDS, Daemon, wait_for
from tests.kits.plugin.containerd import Containerd
from tests.kits.plugin.runtime import plugins
from tests.kits.system.debian import package
from tests.kits.system.netns import Namespace

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root may start containers and make network namespaces"
)

#: A shell command that ends, in good order, when it is told to.
UNTIL_TERMINATED = "trap 'exit 0' TERM; while :; do sleep 0.1; done"


@pytest.fixture(scope="module")
def plugin_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the installed coild-ipam and Debian's plugins; other packages are had."""
    for name in ("containerd", "runc", "busybox-static"):
        package(name)
    return plugins(tmp_path_factory.mktemp("cni") / "bin")


@pytest.fixture
def coild(plugin_path: Path, tmp_path: Path) -> Iterator[Daemon]:
    """The daemon in a network namespace of its own, which this thread enters too."""
    with Namespace() as namespace, namespace.entered():
        for forwarding in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            Path("/proc/sys/net", forwarding).write_text("1")
        with Daemon(
            tmp_path / "data",
            *("--socket", str(tmp_path / "socket")),
            # The gateways are outside.
            *("--pool", "default=10.64.128.0/17,fd00:64:0:1::/64"),
        ) as daemon:
            yield daemon


@pytest.fixture
def containerd(coild: Daemon, plugin_path: Path, tmp_path: Path) -> Iterator[Containerd]:
    """A containerd of the test's own in the daemon's namespace."""
    with Containerd(tmp_path / "containerd", plugin_path) as running:
        yield running


def network(tmp_path: Path, version: str) -> dict[str, Any]:
    """The configuration of a network of veth pairs, with addresses of both families."""
    ipam = {
        "type": "coild-ipam",
        "coild": f"unix:{tmp_path}/socket",
        "spool": str(tmp_path / "data" / "spool"),
        "address-type": "dual",
        "subnet": ["10.64.0.0/16", "fd00:64::/48"],
        "gateway": ["10.64.0.1", "fd00:64::1"],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
    }
    return {"cniVersion": version, "name": "pods", "plugins": [{"type": "ptp", "ipam": ipam}]}


def journalled(daemon: Daemon) -> tuple[list[AddressAllocated], list[AddressReleased]]:
    """The allocations and the releases so far."""
    events = [event for _, event in daemon.events()]
    return (
        [event for event in events if isinstance(event, AddressAllocated)],
        [event for event in events if isinstance(event, AddressReleased)],
    )


def cgroups(name: str) -> list[str]:
    """The control groups of a container."""
    return [root for root, _, _ in os.walk("/sys/fs/cgroup") if name in root]


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0"])
def test_a_container_from_start_to_removal(
    coild: Daemon, containerd: Containerd, tmp_path: Path, version: str
) -> None:
    """A container has the addresses that coild journalled for it, and removal releases them."""
    containerd.configure(network(tmp_path, version))
    name = f"one-{uuid.uuid4().hex}"

    shown = containerd.run(name, "ip", "address", "show", "eth0")

    allocations, releases = journalled(coild)
    assert 2 == len(allocations)
    keys = [event.container_id for event in allocations]
    assert [f"default-{name}", f"default-{name}/eth0/ipv6"] == keys
    assert {("default", f"default-{name}")} == {
        (event.pod_namespace, event.pod_name) for event in allocations
    }
    assert {"pods"} == {getattr(event, "network", "") for event in allocations}
    assert "inet 10.64.128.0/16" in shown
    assert "inet6 fd00:64:0:1::/48" in shown
    assert [(key, REQUESTED) for key in sorted(keys)] == sorted(
        (event.container_id, event.reason) for event in releases
    )
    assert {} == coild.status()["pods"]


def test_containers_reach_each_other(coild: Daemon, containerd: Containerd, tmp_path: Path) -> None:
    """A container holds its addresses for as long as it runs, and other ones reach it there."""
    containerd.configure(network(tmp_path, "1.0.0"))
    name = f"two-{uuid.uuid4().hex}"

    with ThreadPoolExecutor() as threads:
        ended = threads.submit(containerd.run, name, "sh", "-c", UNTIL_TERMINATED)
        wait_for(lambda: "RUNNING" in containerd.ctr("task", "list"), "the container to run")
        held = coild.status()["pods"]
        answers = [
            containerd.run(f"ping-{uuid.uuid4().hex}", "ping", "-c", "1", "-w", "10", address)
            for address in held.values()
        ]
        still = coild.status()["pods"]
        containerd.ctr("task", "kill", "--signal", "TERM", name)
        ended.result(TIMEOUT_SECONDS)

    assert 2 == len(held)
    assert all(", 0% packet loss" in answer for answer in answers)
    assert held == still
    assert {} == coild.status()["pods"]


def test_nothing_is_left(coild: Daemon, containerd: Containerd, tmp_path: Path) -> None:
    """The test's containerd leaves no mount, process, control group or interface."""
    containerd.configure(network(tmp_path, "1.0.0"))
    name = f"left-{uuid.uuid4().hex}"

    containerd.run(name, "true")
    containerd.stop()

    assert str(tmp_path / "containerd") not in Path("/proc/self/mountinfo").read_text()
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
    assert not [command for command in commands if name.encode() in command]
    assert [] == cgroups(name)
    assert ["lo"] == [interface for _, interface in socket.if_nameindex()]
