"""Two nodes and the world outside, in namespaces: pods reach all of it, over both families."""

# expected == actual

from __future__ import annotations

import os
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import IPRoute

from tests.kits.daemon.process import TIMEOUT_SECONDS, Daemon
from tests.kits.plugin.runtime import Runtime, plugins
from tests.kits.system.debian import package
from tests.kits.system.netns import Namespace

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may make network namespaces")

#: Of the link that the nodes and the outside share; the outside knows no way to pods.
LINK = {"outside": 9, "a": 1, "b": 2}
#: iptables, which `ptp` and `bridge` execute for ipMasq, and what it is linked with.
_IPTABLES = ("iptables", "libxtables12", "libnftnl11", "libmnl0", "libip4tc2", "libip6tc2")
_LIBRARIES = "usr/lib/x86_64-linux-gnu"
#: Two subnets, or one that the nodes have halves of: then both have the same gateway.
APART = {
    "a": [
        *("--pool", "default=10.64.0.0/20,fd00:64:0:1::/64", "--reserve-edges"),
        *("--gateway", "default=10.64.0.1,fd00:64:0:1::1"),
    ],
    "b": [
        *("--pool", "default=10.64.16.0/20,fd00:64:0:2::/64", "--reserve-edges"),
        *("--gateway", "default=10.64.16.1,fd00:64:0:2::1"),
    ],
}
_SHARED = ["--pool", "default=10.64.0.0/20,fd00:64::/64", "--reserve-edges"]
_SHARED += ["--gateway", "default=10.64.0.1,fd00:64::1"]
SHARED = {
    "a": [*_SHARED, "--reserved", "default=10.64.8.0/21,fd00:64:0:0:8000::/65"],
    "b": [*_SHARED, "--reserved", "default=10.64.0.0/21,fd00:64::/65"],
}
HALVES = {"a": ("10.64.0.0/21", "fd00:64::/65"), "b": ("10.64.8.0/21", "fd00:64:0:0:8000::/65")}
WHOLES = {
    "a": ("10.64.0.0/20", "fd00:64:0:1::/64"),
    "b": ("10.64.16.0/20", "fd00:64:0:2::/64"),
}


def on_link(node: str) -> tuple[str, str]:
    """The addresses of a node on the link."""
    return f"192.0.2.{LINK[node]}", f"2001:db8::{LINK[node]}"


@pytest.fixture(scope="module")
def plugin_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with coild-ipam, Debian's plugins and iptables; busybox is had too."""
    package("busybox-static")
    roots = [package(name) for name in _IPTABLES]
    directory = plugins(tmp_path_factory.mktemp("cni") / "bin")
    libraries = ":".join(str(root / _LIBRARIES) for root in roots)
    for name in ("iptables", "ip6tables"):
        script = directory / name
        script.write_text(
            "#!/bin/sh\n"
            f"export LD_LIBRARY_PATH={libraries} XTABLES_LIBDIR={roots[0] / _LIBRARIES}/xtables\n"
            f'exec {roots[0]}/usr/sbin/xtables-nft-multi {name} "$@"\n'
        )
        script.chmod(0o755)
    return directory


def ping(netns: str, address: str, tries: int = 8) -> bool:
    """Whether the address answers to one who is in the namespace; a new one may take a second."""
    busybox = package("busybox-static") / "bin/busybox"
    command: list[str | Path] = [
        "nsenter",
        f"--net={netns}",
        busybox,
        "ping",
        "-c",
        "1",
        "-W",
        "1",
        address,
    ]
    for _ in range(tries):
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_SECONDS, check=False)
        if done.returncode == 0:
            return True
        # It said at once that there is no way, or waited for a second.
        time.sleep(0.2)
    return False


class Nodes:
    """The namespaces, and the daemons in them."""

    def __init__(self, stack: ExitStack, directory: Path, options: dict[str, list[str]]) -> None:
        self.places = {name: stack.enter_context(Namespace()) for name in LINK}
        self.directory = directory
        self._stack = stack
        self._make_link()
        self.daemons = {}
        for node, flags in options.items():
            with self.places[node].entered():
                for forwarding in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
                    Path("/proc/sys/net", forwarding).write_text("1")
                daemon = Daemon(
                    directory / node, "--socket", str(directory / f"{node}.sock"), *flags
                )
                self.daemons[node] = stack.enter_context(daemon)

    def _make_link(self) -> None:
        with self.places["outside"].entered(), IPRoute() as netlink:
            netlink.link("add", ifname="link", kind="bridge")
            (bridge,) = netlink.link_lookup(ifname="link")
            self._configure(netlink, bridge, "outside")
            for node in ("a", "b"):
                with Path(self.places[node].path).open() as netns:
                    peer = {"ifname": "up", "net_ns_fd": netns.fileno()}
                    netlink.link("add", ifname=f"to-{node}", kind="veth", peer=peer)
                (port,) = netlink.link_lookup(ifname=f"to-{node}")
                netlink.link("set", index=port, master=bridge, state="up")
        for node in ("a", "b"):
            with self.places[node].entered(), IPRoute() as netlink:
                (up,) = netlink.link_lookup(ifname="up")
                self._configure(netlink, up, node)

    @staticmethod
    def _configure(netlink: Any, index: int, node: str) -> None:
        four, six = on_link(node)
        netlink.addr("add", index=index, address=four, prefixlen=24)
        netlink.addr("add", index=index, address=six, prefixlen=64, flags=0x02)  # no DAD
        netlink.link("set", index=index, state="up")

    def connect(self, subnets: dict[str, tuple[str, str]]) -> None:
        """Have each node send what is the other's to it, as by table 119."""
        for node, other in (("a", "b"), ("b", "a")):
            with self.places[node].entered(), IPRoute() as netlink:
                for subnet, gateway in zip(subnets[other], on_link(other), strict=True):
                    netlink.route("add", dst=subnet, gateway=gateway)

    def pod(self, node: str, path: Path, plugin: dict[str, Any], name: str) -> tuple[str, Any]:
        """Start a pod on a node: its namespace, and what ADD said of its addresses."""
        netns = self._stack.enter_context(Namespace()).path
        ipam = {
            "type": "coild-ipam",
            "coild": f"unix:{self.directory}/{node}.sock",
            "spool": str(self.directory / f"{node}-spool"),
            "address-type": "dual",
        }
        network = {"cniVersion": "1.0.0", "name": "pods", "plugins": [plugin | {"ipam": ipam}]}
        with self.places[node].entered():
            return netns, Runtime(path, network).add(name, netns)["ips"]


@pytest.fixture
def iptables_in_path(plugin_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugins find iptables."""
    monkeypatch.setenv("PATH", f"{plugin_path}:{os.environ['PATH']}")


def bare(ips: list[dict[str, Any]]) -> list[str]:
    """The addresses, without their prefix lengths."""
    return [ip["address"].partition("/")[0] for ip in ips]


@pytest.mark.parametrize(
    ("plugin", "options", "routes"),
    [
        ({"type": "ptp"}, APART, WHOLES),
        ({"type": "ptp"}, SHARED, HALVES),
        ({"type": "bridge", "bridge": "cni0", "isGateway": True}, APART, WHOLES),
    ],
    ids=["ptp", "ptp with one subnet", "bridge"],
)
@pytest.mark.usefixtures("iptables_in_path")
def test_pods_reach_everything(
    plugin_path: Path,
    tmp_path: Path,
    plugin: dict[str, Any],
    options: dict[str, list[str]],
    routes: dict[str, tuple[str, str]],
) -> None:
    """Pods reach each other on a node and across, both nodes, and the outside by ipMasq."""
    with ExitStack() as stack:
        nodes = Nodes(stack, tmp_path, options)
        nodes.connect(routes)
        masked = plugin | {"ipMasq": True}
        one, one_ips = nodes.pod("a", plugin_path, plugin, "one")
        two, two_ips = nodes.pod("a", plugin_path, plugin, "two")
        far, far_ips = nodes.pod("b", plugin_path, plugin, "far")
        out, out_ips = nodes.pod("a", plugin_path, masked, "out")
        a, b = (nodes.places[each].path for each in ("a", "b"))
        reach = {
            "pod to pod": [(one, to) for to in bare(two_ips)],
            "and back": [(two, to) for to in bare(one_ips)],
            "pod to far pod": [(one, to) for to in bare(far_ips)],
            "far pod to pod": [(far, to) for to in bare(two_ips)],
            "node to pod": [(a, to) for to in bare(one_ips)],
            "node to far pod": [(a, to) for to in bare(far_ips)],
            "far node to pod": [(b, to) for to in bare(one_ips)],
            "pod to node": [(one, to) for to in on_link("a")],
            "pod to far node": [(far, to) for to in on_link("a")],
            "pod to gateway": [(one, ip["gateway"]) for ip in one_ips],
            "pod to outside": [(out, to) for to in on_link("outside")],
        }
        failed = {
            f"{what}: {to}"
            for what, pairs in reach.items()
            for netns, to in pairs
            if not ping(netns, to)
        }
        # Without ipMasq, the outside does not know where to answer.
        silent = [ping(one, to, tries=1) for to in on_link("outside")]
        with nodes.places["a"].entered():
            status = nodes.daemons["a"].status()["pods"]

    assert set() == failed
    assert [False, False] == silent
    assert sorted(bare([*one_ips, *two_ips, *out_ips])) == sorted(status.values())
    prefixes = {ip["address"].partition("/")[2] for ip in [*one_ips, *two_ips, *far_ips]}
    assert {"20", "64"} == prefixes


def test_no_pod_on_a_bridge_is_dead(plugin_path: Path, tmp_path: Path) -> None:
    """With a `subnet` that is larger than the pool, no pod gets broadcast or anycast."""
    pool = ["--pool", "default=10.79.0.252/30,fd00:79::/126", "--block-size", "1"]
    conf: dict[str, Any] = {"type": "bridge", "bridge": "cni0", "isGateway": True}
    keys = {
        "subnet": ["10.79.0.0/24", "fd00:79::/64"],
        "gateway": ["10.79.0.1", "fd00:79::ffff"],
        "address-type": "dual",
    }
    with ExitStack() as stack:
        nodes = Nodes(stack, tmp_path, {"a": pool})
        ipam = {
            "type": "coild-ipam",
            "coild": f"unix:{tmp_path}/a.sock",
            "spool": str(tmp_path / "spool"),
        }
        network = {"cniVersion": "1.0.0", "name": "b", "plugins": [conf | {"ipam": ipam | keys}]}
        runtime = Runtime(plugin_path, network)
        pods = {f"pod-{n}": stack.enter_context(Namespace()).path for n in range(3)}
        with nodes.places["a"].entered():
            given = [bare(runtime.add(*pod)["ips"]) for pod in pods.items()]
        dead = [
            each
            for addresses in given
            for each in addresses
            if not ping(nodes.places["a"].path, each)
        ]

    assert [] == dead
    assert {"10.79.0.252", "10.79.0.253", "10.79.0.254"} == {four for four, _ in given}
    assert {"fd00:79::1", "fd00:79::2", "fd00:79::3"} == {six for _, six in given}
