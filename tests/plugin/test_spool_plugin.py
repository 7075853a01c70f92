"""Releases that wait in the spool: the installed plugin, and a daemon that comes and goes."""

from __future__ import annotations

import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.kits.daemon.process import TIMEOUT_SECONDS, Daemon, command, environment
from tests.kits.plugin.cni import Plugin, new_id, stub
from tests.kits.plugin.spool import Node, files, held, keep
from tests.kits.system.netns import Namespace

ENTRIES = 300
#: A time-out for runs that are to reach it.
SHORT_SECONDS = 0.5
#: One for runs that are not, and wait for the test meanwhile.
LONG_SECONDS = 30
#: Coild, killed when the release of the entry with the number argv[1] is durable, before the entry
#: is removed.
_KILLED = """
import itertools, os, signal, sys
from coild import cli
from coild.spool import releases as spool
numbers, last, remove = itertools.count(1), int(sys.argv.pop(1)), spool.Claim.remove
def killed(claim):
    if next(numbers) == last:
        os.kill(os.getpid(), signal.SIGKILL)
    remove(claim)
spool.Claim.remove = killed
cli.main()
"""


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGKILL])
def test_a_del_while_the_daemon_is_down(node: Node, signal_number: signal.Signals) -> None:
    """It is a success that tells where the release is; the daemon's start applies and logs it."""
    container, other = new_id(), new_id()
    node.add(container)
    address = node.add(other)
    node.daemon.stop(signal_number)
    outcome = node.run("DEL", container)
    again = node.run("DEL", container)
    entries = files(node.spool)
    node.bring_up()

    assert [(0, b"")] * 2 == [(each.status, each.stdout) for each in (outcome, again)]
    assert f"the release of {container} is kept in {node.spool}" in outcome.stderr
    assert node.where.rpartition(":")[0] in outcome.stderr
    assert [container] == entries
    assert {other: address} == node.held
    assert [container] == node.released
    assert f"applied 1 releases of the spool {node.spool}, 1 addresses" in node.daemon.log
    assert [] == files(node.spool)


def test_both_families_wait(container: str, node: Node) -> None:
    """Each has an entry of its own, and is released by the start."""
    node.run("ADD", container, address_type="dual")
    node.daemon.kill()
    outcome = node.run("DEL", container, address_type="dual")
    entries = files(node.spool)
    node.bring_up()

    assert outcome.status == 0
    assert [container, f"{container}%2Feth0%2Fipv6"] == entries
    assert {} == node.held
    assert [] == files(node.spool)


def test_a_start_without_a_network(container: str, executable: Path, tmp_path: Path) -> None:
    """The spool is applied where there is nothing but loopback, also over a unix socket."""
    with (
        Namespace() as namespace,
        namespace.entered(),
        Daemon(tmp_path / "data", "--socket", str(tmp_path / "s")) as daemon,
    ):
        node = Node(executable, daemon)
        where = f"unix:{tmp_path}/s"
        node.add(container, coild=where)
        daemon.kill()
        outcome = node.run("DEL", container, coild=where)
        daemon.start()

        assert outcome.status == 0
        assert [container] == node.released
        assert [] == files(node.spool)


def test_a_start_while_others_apply_entries(node: Node) -> None:
    """What is held elsewhere is skipped, not waited for; the plugin's next run applies it."""
    busy, free = new_id(), new_id()
    for container in (busy, free):
        node.add(container)
    node.daemon.kill()
    for container in (busy, free):
        node.miss(container)
    with held(node.spool / busy):
        node.bring_up()
        at_start = node.released
        left = files(node.spool)
    node.run("DEL", new_id())

    assert [free] == at_start
    assert [busy] == left
    assert [free, busy] == node.released
    assert [] == files(node.spool)


@pytest.mark.parametrize("command_name", ["ADD", "DEL", "CHECK", "GC"])
def test_the_next_run_applies_what_came_after_the_start(node: Node, command_name: str) -> None:
    """Whichever command it is: when it has succeeded, the release that was missed is told."""
    lost, container = new_id(), new_id()
    node.add(lost)
    if command_name != "ADD":
        node.add(container)
    node.miss(lost)
    valid = [{"containerID": each, "ifname": "eth0"} for each in (lost, container)]
    outcome = node.run(command_name, container, top={"cni.dev/valid-attachments": valid})

    assert (0, "") == (outcome.status, outcome.stderr)
    assert [lost] == [each for each in node.released if each != container]
    assert [] == files(node.spool)


def test_a_start_before_an_add(container: str, node: Node) -> None:
    """A DEL that the start applied has no power over the ADD after it, whatever restarts."""
    node.add(container)
    node.daemon.kill()
    node.miss(container)
    node.bring_up()
    address = node.add(container)
    node.restart()
    node.run("DEL", new_id())

    assert {container: address} == node.held
    assert [container] == node.released


def test_an_add_before_the_entry_was_seen(container: str, node: Node) -> None:
    """A DEL that nobody has applied is applied by the container's ADD itself, before the rest."""
    node.add(container)
    node.miss(container)
    address = node.add(container)
    left = files(node.spool)
    node.restart()
    node.run("DEL", new_id())

    assert [] == left
    assert {container: address} == node.held
    assert [container] == node.released


def test_a_del_while_an_add_waits(container: str, node: Node) -> None:
    """A DEL that is kept while the ADD waits for the entry is the same one, and gone with it."""
    node.add(container)
    node.miss(container)
    with ThreadPoolExecutor() as threads:
        with held(node.spool / container):
            addition = threads.submit(node.add, container, timeout=LONG_SECONDS)
            node.miss(container)
            waited = not addition.done()
        address = addition.result()
    node.restart()

    assert waited
    assert {container: address} == node.held
    assert [container] == node.released
    assert [] == files(node.spool)


def test_a_del_that_a_hung_daemon_reads_late(container: str, node: Node) -> None:
    """Its request is read with that of the ADD, and then the start: the address stays."""
    node.add(container)
    node.daemon.process.send_signal(signal.SIGSTOP)
    deleted = node.run("DEL", container, timeout=SHORT_SECONDS)
    entries = files(node.spool)
    with ThreadPoolExecutor() as threads:
        addition = threads.submit(node.add, container, timeout=LONG_SECONDS)
        node.daemon.process.send_signal(signal.SIGCONT)
        address = addition.result()
    node.restart()
    node.run("DEL", new_id())

    assert deleted.status == 0
    assert "in time" in deleted.stderr
    assert [container] == entries
    assert {container: address} == node.held
    assert [container] == node.released


def test_an_add_and_a_del_that_a_hung_daemon_reads_late(container: str, node: Node) -> None:
    """Both have timed out, the runtime has given up: in the end nothing is held."""
    node.daemon.process.send_signal(signal.SIGSTOP)
    added = node.run("ADD", container, timeout=SHORT_SECONDS)
    deleted = node.run("DEL", container, timeout=SHORT_SECONDS)
    node.daemon.process.send_signal(signal.SIGCONT)
    node.run("DEL", new_id())

    assert added.code == 11
    assert deleted.status == 0
    assert {} == node.held
    assert [] == files(node.spool)


def test_an_add_waits_for_who_applies_the_entry(container: str, node: Node) -> None:
    """It asks for no address before the entry is let go of, or gone."""
    path = keep(node, container)
    with ThreadPoolExecutor() as threads:
        with held(path):
            addition = threads.submit(node.add, container, timeout=LONG_SECONDS)
            threading.Event().wait(SHORT_SECONDS)
            before = node.held
            path.unlink()
        address = addition.result()

    assert {} == before
    assert {container: address} == node.held


def test_an_add_waits_no_longer_than_its_time(node: Node) -> None:
    """Then it is to be tried again, and nothing was allocated; other containers start meanwhile."""
    container, other = new_id(), new_id()
    with held(keep(node, container)):
        outcome = node.run("ADD", container, timeout=SHORT_SECONDS)
        node.add(other)
        now = node.held

    assert outcome.code == 11
    assert f"{node.spool}/{container}: another process is applying it" == outcome.answer["msg"]
    assert {other} == now.keys()


@pytest.mark.parametrize("status", [500, 503, 403])
def test_an_entry_stays_until_coild_has_taken_it(alone: Plugin, status: int) -> None:
    """An answer that is not 200 leaves it, for ADD and for what looks after another command."""
    container = new_id()
    keep(alone, container)

    def answer(method: str, _target: str, _body: Any) -> tuple[int, dict[str, Any]]:
        if method == "DELETE":
            return status, {"error": "so it is"}
        return 200, {"address": "10.1.1.1"}

    with stub(answer) as where:
        added = alone.run("ADD", container, coild=where)
        checked = alone.run("CHECK", new_id(), coild=where)

    assert added.code == (100 if status == 403 else 11)
    assert "so it is" == added.answer["msg"]
    assert (0, b"") == (checked.status, checked.stdout)
    assert "the spool is left as it is: so it is" in checked.stderr
    assert [container] == files(alone.spool)


@pytest.mark.parametrize("status", [400, 404])
def test_an_entry_that_coild_will_never_take(alone: Plugin, status: int) -> None:
    """It is set aside and told of, and keeps no container from starting."""
    container, other = new_id(), new_id()
    for each in (container, other):
        keep(alone, each)

    def answer(method: str, _target: str, _body: Any) -> tuple[int, dict[str, Any]]:
        return (status, {}) if method == "DELETE" else (200, {"address": "10.1.1.1"})

    with stub(answer) as where:
        added = alone.run("ADD", container, coild=where, subnet="10.1.0.0/16")

    assert added.status == 0
    for each in (container, other):
        assert f"set aside: {alone.spool}/{each}.rejected" in added.stderr
    assert sorted(f"{each}.rejected" for each in (container, other)) == files(alone.spool)


def test_an_entry_of_another_pods_container(node: Node) -> None:
    """It releases nothing, whoever applies it, and is gone."""
    container, other = new_id(), new_id()
    address = node.add(container)
    keep(node, container, "web-9")
    node.run("CHECK", container)
    by_plugin = files(node.spool)
    keep(node, container, "web-9")
    node.restart()
    keep(node, container, "web-9")
    again = node.add(container)
    node.add(other)

    assert [] == by_plugin == files(node.spool)
    assert f"applied 1 releases of the spool {node.spool}, 0 addresses" in node.daemon.log
    assert address == again == node.held[container]
    assert [] == node.released


@pytest.mark.parametrize("killed_at", [(150,), (1, 299), (300,)])
def test_many_entries_and_crashes(node: Node, killed_at: tuple[int, ...]) -> None:
    """300 are applied by the start, and each is released once, wherever it is killed meanwhile."""
    containers = [f"c{number}" for number in range(ENTRIES)]
    for container in containers:
        node.daemon.allocate(container, container)
        keep(node, container)
    bystander = node.add("bystander", spool="/nonexistent")
    node.daemon.kill()
    arguments = command("--data-dir", str(node.daemon.data_dir), "--http", "127.0.0.1:0")[5:]
    for number in killed_at:
        done = subprocess.run(
            [*command()[:1], "-c", _KILLED, str(number), *arguments],
            env=environment(),
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        assert -signal.SIGKILL == done.returncode
    left = len(files(node.spool))
    node.bring_up()

    assert ENTRIES - sum(killed_at) + len(killed_at) == left
    assert {"bystander": bystander} == node.held
    assert sorted(containers) == sorted(node.released)
    assert f"applied {left} releases of the spool" in node.daemon.log
    assert [] == files(node.spool)
