"""An attachment is its container's ID and interface: what DEL, CHECK, GC and the spool go by."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from tests.kits.daemon.process import Daemon
from tests.kits.daemon.wire import request_bytes
from tests.kits.plugin.cni import VERSIONS, Plugin, new_id, raw_server
from tests.kits.plugin.spool import Node, files

NAMES = "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web"
SHORT_SECONDS = 0.5


def of(daemon: Daemon, container: str) -> list[str]:
    """The container IDs of this container that hold something."""
    return [key for key in daemon.status()["pods"] if key.startswith(container)]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", ["ipv4", "ipv6", "dual"])
@pytest.mark.parametrize("ifname", ["eth0", "net1"])
def test_a_del_that_knows_no_more_than_the_container(
    plugin: Plugin, shared_daemon: Daemon, version: str, kind: str, ifname: str
) -> None:
    """Names, families and even the network's name may be others: all of the container goes."""
    container = new_id()
    added = plugin.run("ADD", container, version, ifname=ifname, args=NAMES, address_type=kind)
    before = of(shared_daemon, container)
    deleted = plugin.run("DEL", container, version, ifname=ifname, top={"name": "renamed"})

    assert added.status == 0
    assert len(added.answer["ips"]) == len(before)
    assert (0, b"", "") == (deleted.status, deleted.stdout, deleted.stderr)
    assert [] == of(shared_daemon, container)


@pytest.mark.parametrize("kind", ["ipv4", "dual"])
def test_the_spool_knows_no_more_either(container: str, node: Node, kind: str) -> None:
    """A DEL without names and families that waited for a daemon releases both of them."""
    node.run("ADD", container, args=NAMES, address_type=kind)
    node.daemon.kill()
    deleted = node.run("DEL", container)
    node.bring_up()

    assert deleted.status == 0
    assert {} == node.held
    assert [] == files(node.spool)


def test_check_knows_no_more_either(container: str, plugin: Plugin) -> None:
    """CHECK finds what the container has under whichever names, and compares all of prevResult."""
    result = plugin.run("ADD", container, args=NAMES, address_type="dual").answer
    same = plugin.run("CHECK", container, top={"prevResult": result})
    result["ips"][1]["address"] = "fd00::99/64"
    other = plugin.run("CHECK", container, top={"prevResult": result})

    assert (0, b"", "") == (same.status, same.stdout, same.stderr)
    assert 101 == other.code


def test_an_add_under_other_names_is_the_same(container: str, plugin: Plugin) -> None:
    """The attachment of one network is told its address again, whatever the pod is called."""
    first = plugin.run("ADD", container, args=NAMES).addresses

    assert first == plugin.run("ADD", container).addresses


def test_a_release_of_another_daemons(executable: Path, tmp_path: Path, node: Node) -> None:
    """Two daemons share a spool: neither takes the other's release for done."""
    container = new_id()
    node.add(container)
    node.daemon.kill()
    node.run("DEL", container)
    before = files(node.spool)
    with Daemon(tmp_path / "other", "--pool", "default=10.2.0.0/24") as other:
        neighbour = Plugin(executable, f"http://{other.address}", node.spool)
        added = neighbour.run("ADD", new_id())
        same = neighbour.run("ADD", container)
        between = files(node.spool)
        kept_by_other = dict(other.status()["pods"])
    node.bring_up()

    assert [0, 0] == [added.status, same.status]
    assert [container] == before == between
    assert container in kept_by_other
    assert {} == node.held
    assert [] == files(node.spool)


def test_a_release_of_nobody_knows_whom(executable: Path, tmp_path: Path, node: Node) -> None:
    """Whose it is, is asked, once each: who holds nothing leaves it to the one who does."""
    container = new_id()
    node.add(container)
    node.miss(container)
    with Daemon(tmp_path / "other", "--pool", "default=10.2.0.0/24") as other:
        neighbour = Plugin(executable, f"http://{other.address}", node.spool)
        added = neighbour.run("ADD", container)
        again = neighbour.run("ADD", new_id())
        left = files(node.spool)
        kept_by_other = container in other.status()["pods"]
    node.run("DEL", new_id())

    assert [0, 0] == [added.status, again.status]
    assert [container] == left
    assert kept_by_other
    assert {} == node.held
    assert [] == files(node.spool)


@pytest.mark.parametrize(
    ("top", "args", "ipam", "named"),
    [
        ({}, "IgnoreUnknown=1;IP=10.64.0.77", {}, "IP=10.64.0.77"),
        ({}, "IgnoreUnknown=true;GATEWAY=10.64.0.1", {}, "GATEWAY"),
        ({"runtimeConfig": {"ips": ["10.64.0.77/24"]}}, "", {}, "runtimeConfig.ips"),
        ({"runtimeConfig": {"ipRanges": [[{"subnet": "10.1.0.0/16"}]]}}, "", {}, "ipRanges"),
        ({"runtimeConfig": {"IPs": "10.64.0.77"}}, "", {}, "runtimeConfig.IPs"),
        ({"runtimeConfig": {"dns": {"servers": ["192.0.2.1"]}}}, "", {}, "runtimeConfig.dns"),
        ({"args": {"cni": {"ips": ["10.64.0.77"]}}}, "", {}, "args.cni.ips"),
        ({}, "IP=10.64.0.77", {}, "IP"),
        ({}, "", {"exclude": ["10.64.0.0/29"]}, "exclude"),
        ({}, "", {"rangeStart": "10.64.0.9"}, "rangeStart"),
        ({}, "", {"addresses": [{"address": "10.64.0.9/24"}]}, "addresses"),
    ],
)
def test_what_is_asked_for_is_not_dropped(
    plugin: Plugin, shared_daemon: Daemon, top: Any, args: str, ipam: Any, named: str
) -> None:
    """ADD refuses it by its name and gives nothing; no DEL fails for it."""
    container = new_id()
    refused = plugin.run("ADD", container, args=args, top=top, **ipam)
    nothing = of(shared_daemon, container)
    plugin.run("ADD", container)
    deleted = plugin.run("DEL", container, args=args, top=top, **ipam)

    assert refused.code in {4, 7}
    assert named in refused.answer["msg"]
    assert [] == nothing == of(shared_daemon, container)
    assert deleted.status == 0


def test_what_is_passed_empty_is_not_asked_for(plugin: Plugin) -> None:
    """Runtimes in Go pass empty lists, and null, for what nobody asked for."""
    top = {"runtimeConfig": {"dns": {"servers": [], "searches": None}, "ips": []}}

    assert plugin.run("ADD", new_id(), top=top).status == 0


def test_check_reads_addresses_in_any_spelling(container: str, plugin: Plugin) -> None:
    """Who keeps the result writes an IPv6 address in its own way."""
    result = plugin.run("ADD", container, address_type="ipv6").answer
    address, _, prefix = result["ips"][0]["address"].partition("/")
    result["ips"][0]["address"] = f"{ip_address(address).exploded.upper()}/{prefix}"
    checked = plugin.run("CHECK", container, address_type="ipv6", top={"prevResult": result})

    assert (0, b"") == (checked.status, checked.stdout)


def test_check_is_not_asked_of_another_plugins_address(container: str, plugin: Plugin) -> None:
    """A plugin of the chain may have added one: `address-type` says how many are coild's."""
    result = plugin.run("ADD", container, address_type="ipv4").answer
    result["ips"].append({"address": "2001:db8::5/64"})
    top = {"prevResult": result}
    checked = plugin.run("CHECK", container, address_type="ipv4", top=top)
    dual = plugin.run("CHECK", container, address_type="dual", top=top)

    assert (0, b"") == (checked.status, checked.stdout)
    assert dual.code == 3


@pytest.mark.parametrize(
    "lists",
    [
        {"cni.dev/valid-attachments": [], "cni.dev/attachments": [{}]},
        {"cni.dev/valid-attachments": [{"containerID": "", "ifname": ""}]},
        {"cni.dev/valid-attachments": [{"containerID": "x", "ifname": ""}]},
        {"cni.dev/valid-attachments": [{"containerID": "x" * 300, "ifname": "eth0"}]},
    ],
)
def test_gc_of_a_list_that_is_not_one_releases_nothing(
    plugin: Plugin, shared_daemon: Daemon, lists: Any
) -> None:
    """What it cannot read may be what it must keep."""
    container = new_id()
    plugin.run("ADD", container, top={"name": "odd"})
    refused = plugin.run("GC", container, top={"name": "odd", **lists})

    assert refused.code in {7, 100}
    assert "regex" not in refused.answer["msg"]
    assert [container] == of(shared_daemon, container)


def test_gc_keeps_what_either_list_names(plugin: Plugin, shared_daemon: Daemon) -> None:
    """The key was another one at first, and runtimes pass both."""
    container = new_id()
    plugin.run("ADD", container, top={"name": "both"})
    listed = [{"containerID": container, "ifname": "eth0"}]
    top = {"name": "both", "cni.dev/valid-attachments": [], "cni.dev/attachments": listed}
    collected = plugin.run("GC", container, top=top)

    assert collected.status == 0
    assert [container] == of(shared_daemon, container)


def test_an_answer_that_is_somebody_elses(container: str, node: Node) -> None:
    """Without the journal's ID an answer is none: ADD fails, and a DEL is kept."""

    def imitate(sock: socket.socket) -> None:
        sock.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}")

    node.add(container)
    with raw_server(imitate) as where:
        added = node.run("ADD", new_id(), coild=where)
        deleted = node.run("DEL", container, coild=where)
        entries = files(node.spool)
    node.run("DEL", new_id())

    assert 11 == added.code
    assert 0 == deleted.status
    assert [container] == entries
    assert {} == node.held


def test_a_request_that_is_read_after_its_client_gave_up(node: Node) -> None:
    """ADD and DEL timed out while the daemon hung; what it reads then changes nothing."""
    containers = [new_id() for _ in range(3)]
    node.daemon.process.send_signal(signal.SIGSTOP)
    added = [node.run("ADD", each, timeout=SHORT_SECONDS).code for each in containers]
    node.daemon.process.send_signal(signal.SIGCONT)
    journalled = [type(event).__name__ for _, event in node.daemon.events()]
    held = node.held

    assert [11] * 3 == added
    assert {} == held
    assert not [name for name in journalled if name.endswith("Allocated")]


def test_a_deadline_of_any_form(shared_daemon: Daemon) -> None:
    """Over is 503, another machine's clock says nothing, what is none is 400."""
    past = time.monotonic_ns() - 1
    statuses = {}
    for value in (str(past), f"{past + 10**11}", f"{past} another/clock", "-1", "soon", "1" * 30):
        body = b'{"container-ids": ["deadline"]}'
        request = request_bytes("POST", "/release", body).replace(
            b"\r\n\r\n", f"\r\nCoild-Deadline: {value}\r\n\r\n".encode(), 1
        )
        (answer,) = shared_daemon.send(request)
        statuses[value] = answer.status_code

    assert [503, 200, 200, 400, 400, 400] == list(statuses.values())


def test_gc_names_what_coild_does_not_know(plugin: Plugin, shared_daemon: Daemon) -> None:
    """A valid attachment that holds nothing is told of, by the answer and by the plugin."""
    known, unknown = new_id(), new_id()
    plugin.run("ADD", known)
    attachments = [{"containerID": each, "ifname": "eth0"} for each in (known, unknown)]
    outcome = plugin.run("GC", "", top={"cni.dev/valid-attachments": attachments})

    assert 0 == outcome.status
    assert unknown in outcome.stderr
    assert known not in outcome.stderr
    assert "of 1 valid attachments" in outcome.stderr


def test_gc_names_some_of_very_many_that_coild_does_not_know(plugin: Plugin) -> None:
    """Where coild names no more of them, their number is said to be the least."""
    attachments = [{"containerID": new_id(), "ifname": "eth0"} for _ in range(101)]
    outcome = plugin.run("GC", "", top={"cni.dev/valid-attachments": attachments})

    assert 0 == outcome.status
    assert "of at least 100 valid attachments" in outcome.stderr


def test_a_spool_of_another_users(container: str, plugin: Plugin, shared_daemon: Daemon) -> None:
    """A runtime that may not list it adds and deletes as if it were empty."""
    plugin.spool.mkdir(mode=0o000)
    with contextlib.ExitStack() as stack:
        stack.callback(plugin.spool.chmod, 0o700)
        added = plugin.run("ADD", container)
        deleted = plugin.run("DEL", container)

    assert [(0, ""), (0, "")] == [(each.status, each.stderr) for each in (added, deleted)]
    assert [] == of(shared_daemon, container)


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    """A pipe that nobody writes to."""
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"


def test_a_resolv_conf_that_is_no_file(plugin: Plugin, fifo: Path, tmp_path: Path) -> None:
    """A pipe, a huge file and a directory are errors at once."""
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.truncate(2**34)
    codes = [plugin.run("ADD", new_id(), resolvConf=str(p)).code for p in (fifo, huge, tmp_path)]

    assert [5, 5, 5] == codes


@pytest.mark.parametrize("key", ["spool", "coild", "resolvConf", "subnet"])
def test_half_of_a_character(plugin: Plugin, key: str) -> None:
    """A lone surrogate in the configuration is a wrong value, not a bug."""
    value = {"spool": "/\ud800", "coild": "unix:/\ud800"}.get(key, "\ud800")

    assert plugin.run("ADD", new_id(), **{key: value}).code in {5, 7}
