"""`coild-ipam` by the CNI specification: the installed executable against the real daemon."""

# expected == actual

from __future__ import annotations

import ipaddress
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from coild.rules.limits import COLLECT_BYTES_MAX
from tests.kits.daemon.process import TIMEOUT_SECONDS, Daemon
from tests.kits.plugin.cni import NOBODY, VERSIONS, Plugin, new_id, raw_server, stub
from tools.cni import main as plugin_main
from tools.cni.addresses import covering_prefix
from tools.cni.gateway import NODE_KEY

COMMANDS = ("ADD", "DEL", "CHECK", "GC", "STATUS")
#: What a run that may take no longer is given; a slow machine is slower than any such promise.
SHORT_SECONDS = 0.5


@pytest.fixture
def ipv4_only(executable: Path, tmp_path: Path) -> Iterator[tuple[Plugin, Daemon]]:
    """The plugin with a daemon that has four IPv4 addresses, and nothing else."""
    with Daemon(tmp_path / "data", "--pool", "default=10.9.0.0/30", "--block-size", "2") as daemon:
        yield Plugin(executable, f"http://{daemon.address}", tmp_path / "spool"), daemon


def held(daemon: Daemon) -> dict[str, str]:
    """Container ID to address."""
    pods: dict[str, str] = daemon.status()["pods"]
    return pods


@pytest.mark.parametrize("version", VERSIONS)
def test_a_container_from_start_to_end(plugin: Plugin, shared_daemon: Daemon, version: str) -> None:
    """ADD prints what the version's IPAM result is, CHECK and DEL print nothing."""
    container = new_id()
    added = plugin.run("ADD", container, version)
    entry = {"address": f"{held(shared_daemon)[container]}/16", "gateway": "10.64.0.1"}
    if version.startswith("0."):
        entry["version"] = "4"
    result = added.answer
    if version != "0.3.1":
        checked = plugin.run("CHECK", container, version, top={"prevResult": result})
        assert (0, b"", "") == (checked.status, checked.stdout, checked.stderr)
    deleted = plugin.run("DEL", container, version, top={"prevResult": result})

    assert {
        "cniVersion": version,
        "ips": [entry],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dns": {},
    } == result
    assert (0, "") == (added.status, added.stderr)
    assert (0, b"", "") == (deleted.status, deleted.stdout, deleted.stderr)
    assert container not in held(shared_daemon)


def test_an_add_that_is_repeated(container: str, plugin: Plugin) -> None:
    """When the answer was lost, the same container of the same pod is told the same address."""
    assert plugin.run("ADD", container).addresses == plugin.run("ADD", container).addresses


def test_a_container_id_that_is_another_pods(plugin: Plugin, shared_daemon: Daemon) -> None:
    """It is refused for good, in coild's words."""
    container = new_id()
    shared_daemon.allocate(container, "web-7", "shop")
    added = plugin.run("ADD", container)

    assert added.code == 100
    assert container in added.answer["msg"]


@pytest.mark.parametrize(
    ("args", "namespace", "pod"),
    [
        ("", "default", None),
        ("K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0", "shop", "web-0"),
        ("IgnoreUnknown=1;K8S_POD_NAMESPACE=;K8S_POD_NAME=web-0;COLOUR=red", "default", "web-0"),
    ],
)
def test_the_pod_is_in_the_arguments(
    plugin: Plugin, shared_daemon: Daemon, args: str, namespace: str, pod: str | None
) -> None:
    """A runtime that names none gets namespace default and the container ID as name."""
    container = new_id()
    added = plugin.run("ADD", container, args=args)
    found = shared_daemon.get(container, pod or container, namespace)

    assert added.addresses == [found.json()["address"]]


def test_every_interface_has_an_address_of_its_own(plugin: Plugin, shared_daemon: Daemon) -> None:
    """Coild's container ID is the container's alone for eth0, with the interface for others."""
    container = new_id()
    first = plugin.run("ADD", container).addresses
    second = plugin.run("ADD", container, ifname="net1").addresses
    plugin.run("DEL", container)

    assert first != second
    assert container not in held(shared_daemon)
    assert [held(shared_daemon)[f"{container}/net1"]] == second


def test_both_families(container: str, plugin: Plugin, shared_daemon: Daemon) -> None:
    """With address-type dual, ADD gets two addresses, and DEL releases them."""
    added = plugin.run("ADD", container, address_type="dual")
    keys = [container, f"{container}/eth0/ipv6"]
    now = held(shared_daemon)
    again = plugin.run("ADD", container, address_type="dual")
    deleted = plugin.run("DEL", container, address_type="dual")

    assert added.addresses == [now[key] for key in keys]
    assert ["10.64.0.1", "fd00:64::1"] == [entry["gateway"] for entry in added.answer["ips"]]
    assert [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}] == added.answer["routes"]
    assert added.addresses == again.addresses
    assert deleted.status == 0
    assert not set(keys) & set(held(shared_daemon))


def test_ipv6_alone(container: str, plugin: Plugin, shared_daemon: Daemon) -> None:
    """It goes under the container's own ID."""
    added = plugin.run("ADD", container, "0.4.0", address_type="ipv6")

    assert added.addresses == [held(shared_daemon)[container]]
    assert added.answer["ips"][0]["version"] == "6"
    assert added.answer["ips"][0]["address"].endswith("/64")


def test_what_was_dual_is_released_whole(plugin: Plugin, shared_daemon: Daemon) -> None:
    """A DEL whose prevResult has two addresses releases both, whatever address-type is by now."""
    container = new_id()
    result = plugin.run("ADD", container, address_type="dual").answer
    plugin.run("DEL", container, top={"prevResult": result})

    assert not [key for key in held(shared_daemon) if key.startswith(container)]


def test_the_first_family_goes_back_when_the_second_fails(
    ipv4_only: tuple[Plugin, Daemon],
) -> None:
    """Nothing is left of an ADD that failed; what the container had before it, it keeps."""
    plugin, daemon = ipv4_only
    container, before = new_id(), new_id()
    failed = plugin.run("ADD", container, address_type="dual")
    plugin.run("ADD", before)
    plugin.run("ADD", before, address_type="dual")

    assert failed.code == 11
    assert [NODE_KEY, before] == list(held(daemon))


def test_no_address_is_left(ipv4_only: tuple[Plugin, Daemon]) -> None:
    """The runtime is told to try again later, in coild's words."""
    plugin, _ = ipv4_only
    # Two are the edges of the subnet, and one the node's.
    outcomes = [plugin.run("ADD", new_id()) for _ in range(4)]

    assert [0, 1, 1, 1] == [outcome.status for outcome in outcomes]
    assert outcomes[-1].code == 11
    assert "10.9.0.0/31" in outcomes[-1].answer["msg"] or "default" in outcomes[-1].answer["msg"]


def test_over_a_unix_socket(executable: Path, tmp_path: Path) -> None:
    """`coild` may be unix:/path."""
    path = tmp_path / "s"
    with Daemon(tmp_path / "data", "--socket", str(path)) as daemon:
        plugin = Plugin(executable, f"unix:{path}", tmp_path / "spool")
        container = new_id()

        assert plugin.run("ADD", container).addresses == [held(daemon)[container]]
        assert plugin.run("DEL", container).status == 0
        assert {} == held(daemon)


@pytest.mark.parametrize("command", ["ADD", "STATUS"])
def test_the_default_is_the_unix_socket(alone: Plugin, command: str) -> None:
    """Without the key `coild`, the socket of the installed service is asked, and no TCP."""
    stdin = json.dumps(without_coild(alone)).encode()
    outcome = alone.execute(stdin, alone.variables(command, new_id()))

    assert outcome.code in {11, 50}
    assert "unix:/run/coild/coild.sock" in outcome.answer["msg"]


def without_coild(plugin: Plugin) -> dict[str, Any]:
    """A network that does not say where coild is."""
    config = plugin.config()
    del config["ipam"]["coild"]
    return config


@pytest.mark.parametrize("listening", ["127.0.0.1:0", "[::1]:0", "localhost:0"])
def test_over_localhost(executable: Path, tmp_path: Path, listening: str) -> None:
    """The name is whichever of both families coild listens on, as for coild itself."""
    with Daemon(tmp_path / "data", "--http", listening) as daemon:
        where = f"http://localhost:{daemon.port}"
        plugin = Plugin(executable, where, tmp_path / "spool")
        container = new_id()
        added = plugin.run("ADD", container, address_type="dual")
        mine = held(daemon)
        collected = collect(plugin, container)
        deleted = plugin.run("DEL", container)

        assert added.addresses == [mine[container], mine[f"{container}/eth0/ipv6"]]
        assert [(0, ""), (0, "")] == [(each.status, each.stderr) for each in (collected, deleted)]
        assert {} == held(daemon)


def test_a_spool_over_localhost(executable: Path, tmp_path: Path) -> None:
    """A release that nobody could be told of waits for a coild that listens on IPv6 alone."""
    with Daemon(tmp_path / "data", "--http", "[::1]:0") as daemon:
        plugin = Plugin(executable, f"http://localhost:{daemon.port}", tmp_path / "spool")
        container, port = new_id(), daemon.port
        plugin.run("ADD", container)
        daemon.kill()
        refused = plugin.run("ADD", new_id())
        plugin.run("DEL", container)
        waiting = plugin.entries()
    with Daemon(tmp_path / "data", "--http", f"[::1]:{port}") as daemon:
        last = plugin.run("DEL", new_id())

        assert refused.code == 11
        assert refused.answer["msg"].endswith(f"http://localhost:{port}: Connection refused")
        assert [container] == waiting
        assert 0 == last.status
        assert {} == held(daemon)


def test_what_was_sent_is_not_sent_elsewhere(executable: Path, tmp_path: Path) -> None:
    """When who listens on IPv4 hangs up on a request, nobody on IPv6 is sent it as well."""
    with raw_server(lambda _: None) as where:
        port = int(where.rpartition(":")[2])
        with Daemon(tmp_path / "data", "--http", f"[::1]:{port}") as daemon:
            plugin = Plugin(executable, f"http://localhost:{port}", tmp_path / "spool")
            added = plugin.run("ADD", new_id())

            assert added.code == 11
            assert {} == held(daemon)
            assert not [each for _, each in daemon.events() if "Address" in type(each).__name__]


def test_a_subnet_makes_the_prefix_length(plugin: Plugin) -> None:
    """And there are no gateway and no routes then, unless they are given."""
    answer = plugin.run("ADD", new_id(), subnet="10.64.0.0/16").answer
    full = plugin.run(
        "ADD",
        new_id(),
        address_type="dual",
        subnet=["fd00:64::/64", "10.64.0.0/16"],
        gateway=["10.64.255.254", "fd00:64::ffff"],
        routes=[{"dst": "10.0.0.0/8", "gw": "10.64.255.254", "mtu": 1400, "color": "red"}],
    ).answer

    assert answer["ips"][0]["address"].endswith("/16")
    assert set(answer["ips"][0]) == {"address"}
    assert [] == answer["routes"]
    assert ["16", "64"] == [entry["address"].partition("/")[2] for entry in full["ips"]]
    assert ["10.64.255.254", "fd00:64::ffff"] == [entry["gateway"] for entry in full["ips"]]
    assert [{"dst": "10.0.0.0/8", "gw": "10.64.255.254", "mtu": 1400}] == full["routes"]


@given(
    st.integers(4, 30).flatmap(
        lambda bits: st.tuples(*[st.integers(1 << 28, (1 << 28) + (1 << bits) - 1)] * 2)
    )
)
def test_a_subnet_for_address_and_gateway(pair: tuple[int, int]) -> None:
    """It is the smallest that has both, and neither is the network's address or broadcast."""
    address, gateway = map(ipaddress.ip_address, pair)
    prefix = covering_prefix(str(address), str(gateway))

    def fits(length: int) -> bool:
        network = ipaddress.ip_interface(f"{address}/{length}").network
        edge = {network.network_address, network.broadcast_address}
        return gateway in network and (length >= 31 or not edge & {address, gateway})

    if prefix < 32:
        assert fits(prefix)
    assert not any(fits(length) for length in range(max(prefix + 1, 4), 32))


@pytest.mark.parametrize(
    ("address", "gateway", "prefix"),
    [
        ("10.64.0.1", "10.64.0.3", 29),
        ("10.64.0.5", "10.64.0.0", 9),
        ("10.0.0.2", "10.0.0.0", 6),
        ("10.64.0.1", "10.64.0.0", 31),
        ("192.168.0.9", "192.168.0.0", 12),
        ("10.64.0.5", "169.254.1.1", 32),
        ("1.1.1.1", "10.64.0.0", 32),
        ("10.64.0.5", "fe80::1", 32),
        ("fd00:64::5", "fe80::1", 128),
        ("fd00:64::5", "fd00:64::4", 127),
        ("2001:db8::5", "fd00:64::4", 128),
    ],
)
def test_what_is_of_one_network(address: str, gateway: str, prefix: int) -> None:
    """If nothing is, the address is whole, and the gateway has to be reached in another way."""
    assert prefix == covering_prefix(address, gateway)


def test_the_node_has_one_gateway(executable: Path, tmp_path: Path) -> None:
    """Without one in the pool, one address is the gateway of all, and no list collects it."""
    with Daemon(tmp_path / "data", "--pool", "default=10.9.0.0/24") as daemon:
        plugin = Plugin(executable, f"http://{daemon.address}", tmp_path / "spool")
        with ThreadPoolExecutor(8) as threads:
            added = list(threads.map(lambda _: plugin.run("ADD", new_id()), range(16)))
        valid: dict[str, list[Any]] = {"cni.dev/valid-attachments": []}
        collected = plugin.run("GC", "", top=valid)
        # Of no network: those of Coil v1's clients.
        sequence = daemon.client.get("/health").json()["sequence"]
        daemon.client.post("/gc", json={"sequence": sequence, "valid": [], "network": ""})
        # What has the same words for its name.
        plugin.run("DEL", "coild-ipam", ifname="gateway")

        assert 1 == len({each.answer["ips"][0]["gateway"] for each in added})
        assert collected.status == 0
        assert [NODE_KEY] == list(held(daemon))


@pytest.mark.parametrize(
    ("pools", "key"),
    [
        (["shop=10.70.0.0/24"], f"{NODE_KEY}/shop"),
        (["default=10.70.0.0/24", "shop=198.51.100.0/24"], f"{NODE_KEY}/shop"),
        (["default=10.70.0.0/24", "shop=10.71.0.0/24"], f"{NODE_KEY}/shop"),
        (["default=10.70.0.0/24"], NODE_KEY),
    ],
)
def test_a_pool_has_a_gateway_near_it(
    executable: Path, tmp_path: Path, pools: list[str], key: str
) -> None:
    """The node's address is of the pod's pool and subnet, whose prefix the pod has."""
    options = [word for each in pools for word in ("--pool", each)]
    with Daemon(tmp_path / "data", *options) as daemon:
        plugin = Plugin(executable, f"http://{daemon.address}", tmp_path / "spool")
        added = plugin.run("ADD", new_id(), args="K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0")

        assert added.answer["ips"][0]["gateway"] == held(daemon)[key]
        assert added.answer["ips"][0]["address"].endswith("/24")


def test_pools_that_get_other_subnets_have_another_gateway(
    executable: Path, tmp_path: Path
) -> None:
    """The node's address of before is kept for the pods that run, and is no longer given out."""
    with Daemon(tmp_path / "data", "--pool", "default=10.70.0.0/24") as daemon:
        plugin = Plugin(executable, f"http://{daemon.address}", tmp_path / "spool")
        before = plugin.run("ADD", new_id()).answer["ips"][0]["gateway"]
    with Daemon(tmp_path / "data", "--pool", "default=172.20.0.0/24") as daemon:
        plugin = Plugin(executable, f"http://{daemon.address}", tmp_path / "spool")
        after = plugin.run("ADD", new_id()).answer["ips"][0]["gateway"]

        assert before.startswith("10.70.")
        assert after.startswith("172.20.")
        assert {before, after} < set(held(daemon).values())


def test_a_gateway_that_cannot_be_had(executable: Path, tmp_path: Path) -> None:
    """The error says which keys to set; with them, pods start; nothing stays allocated."""
    options = ("--pool", "default=10.9.0.0/31", "--block-size", "0")
    with Daemon(tmp_path / "data", *options) as daemon:
        plugin = Plugin(executable, f"http://{daemon.address}", tmp_path / "spool")
        daemon.allocate("one")
        refused = plugin.run("ADD", new_id())
        left = set(held(daemon))
        added = plugin.run("ADD", new_id(), subnet="10.9.0.0/16", gateway="10.9.255.254")

        assert refused.code == 11
        assert "name one in the pool, in coild's configuration" in refused.answer["details"]
        assert {"one"} == left
        assert added.status == 0


def test_gc_of_a_runtime_that_has_no_attachment(plugin: Plugin, shared_daemon: Daemon) -> None:
    """A list that is null is an empty one, as runtimes in Go write it."""
    container = new_id()
    plugin.run("ADD", container)
    collected = plugin.run("GC", "", top={"cni.dev/valid-attachments": None})

    assert collected.status == 0
    assert container not in held(shared_daemon)


def test_fields_of_routes_that_a_version_does_not_have(plugin: Plugin) -> None:
    """Before 1.1.0, a route is a destination and a gateway."""
    answer = plugin.run("ADD", new_id(), "1.0.0", routes=[{"dst": "::/0", "mtu": 1400}]).answer

    assert [{"dst": "::/0"}] == answer["routes"]


def test_an_address_outside_the_subnet(plugin: Plugin, shared_daemon: Daemon) -> None:
    """It is an error of the configuration, and the address is released again."""
    container = new_id()
    added = plugin.run("ADD", container, subnet="10.99.0.0/16")

    assert added.code == 7
    assert "ipam.subnet 10.99.0.0/16" in added.answer["msg"]
    assert container not in held(shared_daemon)


def test_dns(plugin: Plugin, tmp_path: Path) -> None:
    """The network's dns is the result's, unless there is a resolvConf."""
    dns = {"nameservers": ["10.0.0.53"], "domain": "example.org", "search": ["example.org"]}
    file = tmp_path / "resolv.conf"
    file.write_text("# none\nnameserver 10.0.0.54\nnameserver ::1\nsearch a b\noptions ndots:5\n")
    given_ = plugin.run("ADD", new_id(), top={"dns": dns}).answer
    read = plugin.run("ADD", new_id(), top={"dns": dns}, resolvConf=str(file)).answer
    missing = plugin.run("ADD", new_id(), resolvConf=str(tmp_path / "none"))

    assert dns == given_["dns"]
    assert {
        "nameservers": ["10.0.0.54", "::1"],
        "search": ["a", "b"],
        "options": ["ndots:5"],
    } == read["dns"]
    assert missing.code == 5


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("coild", 1),
        ("coild", "127.0.0.1:9383"),
        ("coild", "http://coild.example.org:9383"),
        ("coild", "http://127.0.0.1"),
        ("coild", "http://127.0.0.1:0"),
        ("coild", "http://127.0.0.1:65536"),
        ("coild", "http://::1:9383"),
        ("coild", "http://[127.0.0.1]:9383"),
        ("coild", "https://127.0.0.1:9383"),
        ("coild", "unix:relative"),
        ("coild", "unix:/" + "x" * 200),
        ("address-type", "ipv5"),
        ("address-type", ["ipv4"]),
        ("timeout", "10"),
        ("timeout", True),
        ("timeout", 0),
        ("timeout", 301),
        ("spool", ""),
        ("spool", "relative"),
        ("subnet", "10.64.0.0"),
        ("subnet", "10.64.0.0/33"),
        ("subnet", ["10.64.0.0/16", "10.65.0.0/16"]),
        ("subnet", "fd00:64::/64"),
        ("subnet", 16),
        ("gateway", "10.64.0"),
        ("gateway", ["10.64.0.1", "10.64.0.2"]),
        ("gateway", {}),
        ("routes", {}),
        ("routes", ["0.0.0.0/0"]),
        ("routes", [{"gw": "10.64.0.1"}]),
        ("routes", [{"dst": "0.0.0.0/0", "gw": "none"}]),
        ("routes", [{"dst": "0.0.0.0/0", "mtu": "large"}]),
        ("resolvConf", 1),
    ],
)
def test_a_wrong_key(plugin: Plugin, shared_daemon: Daemon, key: str, value: Any) -> None:
    """It is error 7, which names the key; nothing is allocated."""
    container = new_id()
    added = plugin.run("ADD", container, **{key: value})

    assert added.code == 7
    assert f"ipam.{key}" in added.answer["msg"]
    assert container not in held(shared_daemon)


def test_what_only_add_needs_keeps_no_container_from_going(
    plugin: Plugin, shared_daemon: Daemon
) -> None:
    """DEL releases, although the configuration would be wrong for ADD by now."""
    container = new_id()
    plugin.run("ADD", container)
    plugin.run("ADD", container, address_type="dual", ifname="eth1")
    deleted = plugin.run("DEL", container, gateway="wrong", subnet=16, routes="all")
    other = plugin.run("DEL", container, ifname="eth1", address_type="duel", timeout="10s")

    assert [0, 0] == [deleted.status, other.status]
    assert [] == [each for each in held(shared_daemon) if each.startswith(container)]


@pytest.mark.parametrize("top", [{"name": ""}, {"name": "a b"}, {"name": 1}, {"ipam": None}])
def test_a_network_without_a_name_or_ipam(plugin: Plugin, top: dict[str, Any]) -> None:
    """It is error 7."""
    outcome = plugin.run("ADD", new_id(), top=top)

    assert outcome.code == 7
    assert outcome.answer["msg"].startswith(next(iter(top)))


@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CNI_CONTAINERID", ""),
        ("CNI_CONTAINERID", "-x"),
        ("CNI_CONTAINERID", "x/y"),
        ("CNI_CONTAINERID", "x" * 300),
        ("CNI_IFNAME", ""),
        ("CNI_IFNAME", "."),
        ("CNI_IFNAME", ".."),
        ("CNI_IFNAME", "a/b"),
        ("CNI_IFNAME", "a:b"),
        ("CNI_IFNAME", "a b"),
        ("CNI_IFNAME", "eth0\n"),
        ("CNI_IFNAME", "x" * 16),
        ("CNI_IFNAME", "\udcff"),
    ],
)
def test_a_wrong_variable(alone: Plugin, command: str, name: str, value: str) -> None:
    """It is error 4, which names the variable; nothing is spooled."""
    variables = alone.variables(command, new_id()) | {name: value}
    outcome = alone.execute(json.dumps(alone.config()).encode(), variables)

    assert outcome.code == 4
    assert name in outcome.answer["msg"]
    assert [] == alone.entries()


@pytest.mark.parametrize(
    "args",
    [
        "K8S_POD_NAME",
        "K8S_POD_NAME=a=b",
        "K8S_POD_NAME=web-0;",
        "IP=10.0.0.1",
        "FOO=BAR",
        "IgnoreUnknown=maybe",
        "K8S_POD_NAME=a/b",
        "K8S_POD_NAMESPACE=a\tb",
        f"K8S_POD_NAME={'x' * 254}",
        "K8S_POD_NAME=\udcff",
    ],
)
def test_arguments_that_are_wrong(plugin: Plugin, shared_daemon: Daemon, args: str) -> None:
    """They are error 4 of ADD; DEL and CHECK need none of them, whatever they say by then."""
    container = new_id()
    refused = plugin.run("ADD", container, args=args)
    plugin.run("ADD", container)
    checked = plugin.run("CHECK", container, args=args)
    deleted = plugin.run("DEL", container, args=args)

    assert refused.code == 4
    assert "CNI_ARGS" in refused.answer["msg"]
    assert (0, b"") == (checked.status, checked.stdout)
    assert (0, b"") == (deleted.status, deleted.stdout)
    assert container not in held(shared_daemon)


@pytest.mark.parametrize(
    ("command", "required"),
    [
        ("ADD", ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"]),
        ("CHECK", ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"]),
        ("DEL", ["CNI_CONTAINERID", "CNI_IFNAME"]),
        ("GC", ["CNI_PATH"]),
        ("STATUS", ["CNI_PATH"]),
    ],
)
def test_missing_variables_are_named(alone: Plugin, command: str, required: list[str]) -> None:
    """All of them at once; what is not required is not."""
    outcome = alone.execute(b"{}", {"CNI_COMMAND": command})

    assert outcome.code == 4
    assert outcome.answer["msg"].endswith(f": {', '.join(required)}")


@pytest.mark.parametrize("variables", [{}, {"CNI_COMMAND": "RUN"}, {"CNI_COMMAND": "\udcff"}])
def test_a_command_that_is_none(alone: Plugin, variables: dict[str, str]) -> None:
    """It is error 4, also without a command when nobody is at a terminal."""
    outcome = alone.execute(b"", variables)

    assert outcome.code == 4
    assert "CNI_COMMAND" in outcome.answer["msg"]


def test_a_namespace_that_is_gone(container: str, plugin: Plugin, shared_daemon: Daemon) -> None:
    """DEL needs no CNI_NETNS, and may come again."""
    plugin.run("ADD", container)
    variables = plugin.variables("DEL", container)
    del variables["CNI_NETNS"]
    config = json.dumps(plugin.config()).encode()

    assert [0, 0] == [plugin.execute(config, variables).status for _ in range(2)]
    assert container not in held(shared_daemon)


#: Versions that nothing can be answered in; None: the configuration has none.
OTHER_VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "1.2.0", "", None)


def in_version(plugin: Plugin, version: object) -> bytes:
    """A configuration with that version, or without any."""
    config = plugin.config() | {"cniVersion": version}
    if version is None:
        del config["cniVersion"]
    return json.dumps(config).encode()


@pytest.mark.parametrize("version", [*OTHER_VERSIONS, 7])
def test_del_goes_by_no_version(plugin: Plugin, shared_daemon: Daemon, version: object) -> None:
    """DEL releases what ADD gave, whatever version the configuration has by then."""
    container = new_id()
    plugin.run("ADD", container)
    outcome = plugin.execute(in_version(plugin, version), plugin.variables("DEL", container))

    assert (0, b"", "") == (outcome.status, outcome.stdout, outcome.stderr)
    assert container not in held(shared_daemon)


@pytest.mark.parametrize("command", [command for command in COMMANDS if command != "DEL"])
@pytest.mark.parametrize("version", OTHER_VERSIONS)
def test_versions_that_are_not_supported(alone: Plugin, command: str, version: str | None) -> None:
    """They are error 1, in the newest version; none at all is 0.1.0."""
    outcome = alone.execute(in_version(alone, version), alone.variables(command, new_id()))

    assert outcome.code == 1
    assert outcome.answer["cniVersion"] == "1.1.0"
    assert "0.3.1, 0.4.0, 1.0.0, 1.1.0" in outcome.answer["details"]


@pytest.mark.parametrize(
    ("command", "version"),
    [("CHECK", "0.3.1")]
    + [(command, version) for command in ("GC", "STATUS") for version in VERSIONS[:-1]],
)
def test_commands_that_a_version_does_not_have(alone: Plugin, command: str, version: str) -> None:
    """They are error 1, in that version."""
    outcome = alone.run(command, new_id(), version)

    assert (1, version) == (outcome.code, outcome.answer["cniVersion"])


@pytest.mark.parametrize("stdin", [b"", b'{"cniVersion":"0.4.0"}', b"\xff", b'{"cniVersion":7}'])
def test_version(alone: Plugin, stdin: bytes) -> None:
    """VERSION tells what is supported, in the version that is asked for if it is one of these."""
    outcome = alone.execute(stdin, {"CNI_COMMAND": "VERSION"})
    version = "0.4.0" if b"0.4.0" in stdin else "1.1.0"

    assert (0, "") == (outcome.status, outcome.stderr)
    assert {"cniVersion": version, "supportedVersions": list(VERSIONS)} == outcome.answer


@settings(max_examples=60)
@given(stdin=st.binary() | st.text().map(str.encode), command=st.sampled_from(COMMANDS))
def test_garbage_on_stdin(executable: Path, stdin: bytes, command: str) -> None:
    """Any bytes that are no configuration: one JSON error, status 1, never a traceback."""
    plugin = Plugin(executable, NOBODY, Path("/nonexistent"))
    outcome = plugin.execute(stdin, plugin.variables(command, "c1"))

    assert outcome.code in {1, 6}


@pytest.mark.parametrize(
    "stdin",
    [
        *(b"[" * 200_000, b'{"a":' * 100_000, b'{"a":NaN}', b'{"a":1} x', b"[]", b'"x"'),
        *(b"9" * 5000, b'"', b'{"a":"', b'{"a":"\\x"}', b'{"a":1', b"{a:1}"),
    ],
)
def test_json_that_is_no_configuration(alone: Plugin, stdin: bytes) -> None:
    """Nested too deeply, followed by more, no object: error 6."""
    assert alone.execute(stdin, alone.variables("ADD", "c1")).code == 6


def test_a_configuration_without_an_end(alone: Plugin) -> None:
    """No more of it is read than the longest may have."""
    command = ["bash", "-c", 'yes | "$0"', str(alone.executable)]
    done = subprocess.run(
        command,
        env=alone.variables("ADD", "c1") | {"PATH": os.environ["PATH"]},
        capture_output=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    answer = json.loads(done.stdout)

    assert 6 == answer["code"]
    assert f"more than {64 << 20} bytes" in answer["msg"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
OPTIONS = ("address-type", "subnet", "gateway", "routes", "timeout", "resolvConf", "unknown")


@settings(max_examples=60)
@given(
    ipam=st.dictionaries(st.sampled_from(OPTIONS), JSON, max_size=3),
    top=st.dictionaries(st.sampled_from(("prevResult", "dns", "name", "args")), JSON),
    command=st.sampled_from(("ADD", "CHECK", "GC", "STATUS")),
)
def test_any_configuration(
    executable: Path, ipam: dict[str, Any], top: dict[str, Any], command: str
) -> None:
    """Whatever the values are: an error that is not the plugin's own fault."""
    plugin = Plugin(executable, NOBODY, Path("/nonexistent"))
    outcome = plugin.run(command, "c1", top=top, **ipam)

    assert outcome.code in {5, 6, 7, 11, 50}


def test_a_bug_is_an_error_in_json(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What nobody thought of is error 999, never a traceback on stdout."""

    def fail() -> str:
        raise LookupError("nobody thought of it")

    monkeypatch.setattr(plugin_main, "command", fail)
    status = plugin_main.run()
    said = json.loads(capfd.readouterr().out)

    assert (1, 999) == (status, said["code"])
    assert "LookupError: nobody thought of it" in said["msg"]


@pytest.mark.parametrize(
    ("command", "code"), [("ADD", 11), ("CHECK", 11), ("GC", 11), ("STATUS", 50)]
)
def test_nobody_is_there(alone: Plugin, command: str, code: int) -> None:
    """Try again later, or not available; the error says who was asked."""
    outcome = alone.run(command, new_id(), top={"cni.dev/valid-attachments": []})

    assert outcome.code == code
    assert NOBODY in outcome.answer["msg"]


def drip(sock: Any) -> None:
    """An answer that never ends, a byte at a time."""
    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while True:
        sock.sendall(b" ")
        time.sleep(0.01)


def wait(sock: Any) -> None:
    """No answer, until the plugin has gone."""
    sock.recv(1)


@pytest.mark.parametrize("answer", [drip, wait])
@pytest.mark.parametrize(("command", "code"), [("ADD", 11), ("CHECK", 11), ("STATUS", 50)])
def test_a_slow_daemon(alone: Plugin, answer: Any, command: str, code: int) -> None:
    """The time-out is for the whole run, however the bytes come."""
    with raw_server(answer) as where:
        outcome = alone.run(command, new_id(), coild=where, timeout=SHORT_SECONDS)

    assert outcome.code == code
    assert "in time" in outcome.answer["msg"]


@settings(max_examples=40)
@given(
    answer=st.binary()
    | st.binary().map(lambda body: b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n" + body)
    | st.sampled_from(
        [
            *(b"HTTP/1.1 200 OK\r\n\r\n{}", b"HTTP/1.1 200\r\ncontent-length: 2\r\n\r\n{}", b""),
            # Numbers that Python does not read.
            b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n{}",
            b"HTTP/1.1 " + b"2" * 5000 + b" OK\r\nContent-Length: 2\r\n\r\n{}",
        ]
    )
)
@example(b"HTTP/1.1 200 OK\r\nContent-Length: " + b"1" * 5000 + b"\r\n\r\n{}")
@example(b"HTTP/1.1 " + b"2" * 5000 + b" OK\r\nContent-Length: 2\r\n\r\n{}")
def test_an_answer_that_is_not_coilds(executable: Path, answer: bytes) -> None:
    """Whatever comes back: try again later."""
    plugin = Plugin(executable, NOBODY, Path("/nonexistent"))
    with raw_server(lambda sock: sock.sendall(answer)) as where:
        outcome = plugin.run("ADD", "c1", coild=where)

    assert outcome.code == 11
    assert where in outcome.answer["msg"]


@pytest.mark.parametrize(
    ("status", "code"), [(500, 11), (503, 11), (400, 100), (403, 100), (404, 100)]
)
def test_a_refusal_is_in_coilds_words(alone: Plugin, status: int, code: int) -> None:
    """What repeating might change is tried again; what it would not, is not."""
    with stub(lambda *_: (status, {"status": status, "error": "so it is"})) as where:
        outcome = alone.run("ADD", new_id(), coild=where)

    assert outcome.code == code
    assert outcome.answer["msg"] == "so it is"


def test_check_finds_nothing(plugin: Plugin) -> None:
    """A container that holds no address is unknown: error 3."""
    outcome = plugin.run("CHECK", new_id())

    assert outcome.code == 3


def test_check_finds_another_address(container: str, plugin: Plugin) -> None:
    """The address must be one of prevResult's."""
    plugin.run("ADD", container)
    result = {"ips": [{"address": "10.1.1.1/32"}]}
    outcome = plugin.run("CHECK", container, top={"prevResult": result})

    assert outcome.code == 101
    assert "10.1.1.1" in outcome.answer["msg"]


def collect(plugin: Plugin, *valid: str, name: str = "pods") -> Any:
    """GC with these containers' eth0."""
    attachments = [{"containerID": container, "ifname": "eth0"} for container in valid]
    top = {"name": name, "cni.dev/valid-attachments": attachments}
    return plugin.run("GC", "", top=top)


def test_gc_releases_what_nobody_knows_of(plugin: Plugin, shared_daemon: Daemon) -> None:
    """Of this network, both families, and no container that is valid."""
    kept, lost, other = new_id(), new_id(), new_id()
    for container in (kept, lost):
        plugin.run("ADD", container, address_type="dual")
    plugin.run("ADD", other, top={"name": "others"})
    outcome = collect(plugin, kept)
    now = held(shared_daemon)

    assert (0, b"") == (outcome.status, outcome.stdout)
    assert "released" in outcome.stderr
    assert {kept, f"{kept}/eth0/ipv6", other} <= set(now)
    assert not [key for key in now if key.startswith(lost)]


@pytest.mark.parametrize(
    "valid",
    ["missing", {}, "", ["x"], [{"containerID": "x"}], [{"containerID": "x", "ifname": 1}]],
)
def test_gc_without_a_list_releases_nothing(
    plugin: Plugin, shared_daemon: Daemon, valid: Any
) -> None:
    """A key that is missing by mistake is error 7, not an empty list."""
    container = new_id()
    plugin.run("ADD", container)
    top = {} if valid == "missing" else {"cni.dev/valid-attachments": valid}
    outcome = plugin.run("GC", "", top=top)

    assert outcome.code == 7
    assert "cni.dev/valid-attachments" in outcome.answer["msg"]
    assert container in held(shared_daemon)


@pytest.mark.parametrize("refusals", [0, 1, 2])
def test_gc_asks_once_more(alone: Plugin, refusals: int) -> None:
    """A list that is too old is judged by a new sequence, once."""
    asked: list[Any] = []

    def answer(method: str, target: str, body: Any) -> tuple[int, dict[str, Any]]:
        asked.append(body)
        if method == "GET":
            return 200, {"sequence": len(asked), "writable": True, "routes": "off"}
        if len(asked) <= 2 * refusals:
            return 409, {"error": "too old"}
        return 200, {"released": []}

    with stub(answer) as where:
        top = {"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "net1"}]}
        outcome = alone.run("GC", "", top=top, coild=where)

    assert (refusals == 2) == (outcome.status == 1)
    valid = ["c1/net1", "c1/net1/ipv6"]
    assert {"sequence": 1, "network": "pods", "valid": valid} == asked[1]
    assert min(refusals + 1, 2) * 2 == len(asked)


def test_gc_of_many(plugin: Plugin, shared_daemon: Daemon) -> None:
    """A list of 20,000 attachments is taken: what is in it is kept, the rest is released."""
    kept, lost = new_id(), new_id()
    for container in (kept, lost):
        plugin.run("ADD", container)
    outcome = collect(plugin, *[f"{number:064x}" for number in range(20_000)], kept)
    now = held(shared_daemon)

    assert (0, b"") == (outcome.status, outcome.stdout)
    assert kept in now
    assert lost not in now


def test_gc_of_too_many(plugin: Plugin, shared_daemon: Daemon) -> None:
    """A list that is longer than coild reads is a CNI error: what, where, and what to do."""
    lost = new_id()
    plugin.run("ADD", lost)
    many = COLLECT_BYTES_MAX // (2 * 256)
    outcome = collect(plugin, *[f"{number:0256x}" for number in range(many)])

    assert outcome.code == 100
    told = outcome.answer["msg"] + outcome.answer["details"]
    for part in (f"{2 * many} container IDs", plugin.where, str(COLLECT_BYTES_MAX), "forget"):
        assert part in told
    assert lost in held(shared_daemon)


@pytest.mark.parametrize(
    ("ready", "code"),
    [
        ((200, {"checks": []}), 0),
        ((200, {"checks": [{"name": "routes", "ok": True, "reason": ""}]}), 0),
        ((200, {"checks": [{"name": "routes", "ok": False, "reason": "so"}]}), 51),
        ((200, {"checks": [{"name": "pools", "ok": False, "reason": "so"}]}), 0),
        ((200, {"checks": ["routes", {"ok": False}, {"name": "routes", "ok": 0}]}), 0),
        ((200, {"checks": {}}), 50),
        ((503, {"status": 503, "error": "journal: no space"}), 50),
        ((200, {}), 50),
        ((500, {"error": "broken"}), 50),
        ((404, {"error": "there is no /readyz"}), 50),
    ],
)
def test_status(alone: Plugin, ready: tuple[int, dict[str, Any]], code: int) -> None:
    """Nothing to say when an ADD would be served, 50 or 51 otherwise."""
    with stub(lambda *_: ready) as where:
        outcome = alone.run("STATUS", "", coild=where)

    assert code == (outcome.code if code else outcome.status)
    assert code or outcome.stdout == b""


def test_status_of_a_daemon(plugin: Plugin) -> None:
    """It is well."""
    outcome = plugin.run("STATUS", "")

    assert (0, b"", "") == (outcome.status, outcome.stdout, outcome.stderr)


def imported(command: list[str], variables: dict[str, str], stdin: bytes) -> set[str]:
    """The modules that a program of Python imports."""
    python, *rest = command
    done = subprocess.run(
        [python, "-IS", "-X", "importtime", *rest],
        input=stdin,
        env=variables,
        capture_output=True,
        timeout=TIMEOUT_SECONDS,
        check=True,
    )
    told = done.stderr.decode()
    return set(re.findall(r"^import time: +\d+ \| +\d+ \| +(\S+)$", told, re.MULTILINE))


def test_the_interpreter_outlives_its_version(plugin: Plugin) -> None:
    """The first line names `python3`, which is there after an upgrade, when `python3.11` is not."""
    python = Path(plugin.executable.read_text().partition("\n")[0].removeprefix("#!").split()[0])

    assert python.name == "python3"
    assert python.resolve() == Path(sys._base_executable).resolve()  # type: ignore[attr-defined]


def test_an_add_imports_little(plugin: Plugin) -> None:
    """Beside what a bare interpreter has, it is two modules in C and a dozen of the plugin's."""
    python = plugin.executable.read_text().partition("\n")[0].removeprefix("#!").split()[0]
    bare = imported([python, "-c", "pass"], {}, b"")
    variables = plugin.variables("ADD", new_id())
    stdin = json.dumps(plugin.config()).encode()
    more = imported([python, str(plugin.executable)], variables, stdin) - bare
    own = {name for name in more if name.partition(".")[0] in {"tools", "coild"}}

    assert {"__future__", "_json", "_socket"} == more - own
    assert 14 >= len(own)
