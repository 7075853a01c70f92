"""A node that boots again, as the daemon sees it: boot ID and PID 1 are others."""

# expected == actual

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coild.process.clock import boottime
from coild.rules.events import REBOOTED, NodeBooted
from tests.kits.daemon.process import Daemon, wait_for
from tests.kits.system.boot import FakeProc

ROOT_ONLY = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root may mount another boot ID over the kernel's"
)
#: Mounts a file over the kernel's boot ID, where the daemon alone sees it.
_WITH_BOOT_ID = 'mount --bind "$0" /proc/sys/kernel/random/boot_id'
#: As the node's init starts it, and alone in a PID namespace of its own.
_CHILD, _ALONE = '"$@"; exit $?', 'exec "$@"'
_PIDS = ("unshare", "--mount", "--mount-proc", "--pid", "--fork", "--kill-child")

Start = Callable[..., Daemon]


@pytest.fixture
def proc(tmp_path: Path) -> FakeProc:
    """The node's proc."""
    return FakeProc(tmp_path / "proc")


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Start]:
    """Starts a daemon on the same data directory, run by a command."""
    running: list[Daemon] = []

    def start(*arguments: str, runner: tuple[str, ...] = ()) -> Daemon:
        class Booted(Daemon):
            pass

        Booted.runner = runner
        running.append(Booted(tmp_path / "data", *arguments))
        return running[-1]

    yield start
    for daemon in running:
        daemon.kill()


@pytest.fixture
def start(started: Start, proc: FakeProc) -> Start:
    """Starts a daemon that sees the node's proc."""
    return lambda *arguments: started("--proc", str(proc.path), *arguments)


def hold(daemon: Daemon, count: int) -> dict[str, str]:
    """Allocate so many addresses: container to address."""
    return {f"c{i}": daemon.allocate(f"c{i}").json()["address"] for i in range(count)}


def test_a_boot_releases_what_was_held(start: Start, proc: FakeProc) -> None:
    """Addresses held before a boot are released, as rebooted, before the daemon serves again."""
    before = start()
    held = hold(before, 40)
    before.kill()
    proc.boot()

    after = start()

    assert {} == after.status()["pods"]
    assert sorted((container_id, REBOOTED) for container_id in held) == sorted(after.releases())


def test_addresses_rest_after_a_boot(start: Start, proc: FakeProc) -> None:
    """What a boot released is not handed out at once: peers may still know the former holders."""
    before = start()
    held = hold(before, 3)
    before.kill()
    proc.boot()

    again = hold(start(), 3)

    assert set() == set(held.values()) & set(again.values())


def test_a_boot_keeps_what_is_to_be_kept(start: Start, proc: FakeProc) -> None:
    """With --after-reboot keep, a boot changes nothing; nor does a later start without the flag."""
    before = start()
    held = hold(before, 3)
    before.kill()
    proc.boot()

    after = start("--after-reboot", "keep")
    after.stop()
    later = start()

    assert held == later.status()["pods"]
    assert [] == later.releases()


@pytest.mark.parametrize("end", [Daemon.stop, Daemon.kill], ids=["stopped", "killed"])
def test_a_restart_is_no_boot(start: Start, end: Callable[[Daemon], None]) -> None:
    """A daemon that starts again in the same boot has what it had, and says nothing of boots."""
    before = start()
    held = hold(before, 3)
    end(before)

    after = start()

    assert held == after.status()["pods"]
    assert [] == after.releases()
    assert "WARNING" not in after.log
    assert 1 == sum(isinstance(event, NodeBooted) for _, event in after.events())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (FakeProc.other_id, "the boot ID is another one, but PID 1 started before coild last ran"),
        (FakeProc.other_init, "PID 1 is another one, but the boot ID is the same"),
    ],
    ids=["another ID", "another PID 1"],
)
def test_what_does_not_agree_keeps_and_warns(
    start: Start, proc: FakeProc, change: Callable[[FakeProc], None], told: str
) -> None:
    """If only one of boot ID and PID 1 is another, all stays held; that is told once."""
    before = start()
    held = hold(before, 3)
    before.kill()
    change(proc)

    start().kill()
    again = start()

    assert held == again.status()["pods"]
    assert [] == again.releases()
    assert 1 == again.log.count(told)
    assert "the 3 addresses that are held are kept" in again.log
    assert "--proc" in again.log


@pytest.mark.parametrize("change", [FakeProc.other_id, FakeProc.other_init])
def test_a_boot_after_a_doubt_is_a_boot(
    start: Start, proc: FakeProc, change: Callable[[FakeProc], None]
) -> None:
    """What was in doubt once is known from then on: the next boot releases."""
    before = start()
    hold(before, 3)
    before.kill()
    change(proc)
    start().kill()
    proc.boot()

    assert {} == start().status()["pods"]


def test_what_a_start_journals_first_does_not_hide_a_boot(start: Start, proc: FakeProc) -> None:
    """A PID 1 that started after coild last ran is another one, whatever this start has journalled.

    The journal does not say when the one before started, as those of older versions do not.
    """
    (proc.path / "self").unlink()
    (proc.path / "self").symlink_to("1")
    before = start("--pool", "default=10.0.0.0/24")
    hold(before, 3)
    before.kill()
    (proc.path / "self").unlink()
    (proc.path / "self").symlink_to("4242")
    proc.other_id()
    # The first tick after that: ticks are counted as whole ones.
    proc.set(ticks=boottime() * os.sysconf("SC_CLK_TCK") // 10**9 + 1)

    # The pools are others, and journalled before the boot is.
    after = start("--pool", "default=10.0.0.0/23")

    assert {} == after.status()["pods"]


def test_without_a_boot_id_nothing_is_concluded(start: Start, proc: FakeProc) -> None:
    """A proc that is none keeps all, and is told with its path."""
    before = start()
    held = hold(before, 3)
    before.kill()
    (proc.path / "sys/kernel/random/boot_id").unlink()
    proc.other_init()

    after = start()

    assert held == after.status()["pods"]
    assert f"{proc.path} has no boot ID" in after.log


@pytest.fixture
def boot_id(tmp_path: Path) -> Path:
    """A file to be mounted over the kernel's boot ID."""
    path = tmp_path / "boot_id"
    path.write_text(f"{uuid.uuid4()}\n")
    return path


def ended(daemon: Daemon) -> None:
    """Kill a daemon that other processes run, and wait until it is gone."""
    daemon.kill()

    def free() -> bool:
        with (daemon.data_dir / "journal/LOCK").open("r+b") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

    wait_for(free, "the daemon to be gone")


@ROOT_ONLY
@pytest.mark.parametrize(
    ("unshare", "how", "other_id", "kept", "told"),
    [
        # coild in a mount namespace of its own, with a boot ID that is not the node's.
        (("unshare", "--mount"), _ALONE, True, True, "the boot ID is another one"),
        # A node that is a container: its init starts again, the kernel does not.
        (_PIDS, _CHILD, False, True, "PID 1 is another one"),
        # The same with a boot ID for each start, as LXC has it.
        (_PIDS, _CHILD, True, False, "the node was booted since"),
        # coild alone in a container of its own: it is PID 1 itself.
        (_PIDS, _ALONE, False, True, ""),
        (_PIDS, _ALONE, True, True, "the boot ID is another one"),
    ],
    ids=["another ID", "node container", "LXC", "alone", "alone, another ID"],
)
def test_namespaces(
    started: Start,
    boot_id: Path,
    unshare: tuple[str, ...],
    how: str,
    told: str,
    *,
    other_id: bool,
    kept: bool,
) -> None:
    """In namespaces of the kernel: only a PID 1 that ended with all of its containers releases."""
    runner = (*unshare, "sh", "-c", f"{_WITH_BOOT_ID} && {how}", str(boot_id))
    before = started(runner=runner)
    held = hold(before, 3)
    ended(before)
    if other_id:
        boot_id.write_text(f"{uuid.uuid4()}\n")

    after = started(runner=runner)
    pods, log = after.status()["pods"], after.log
    ended(after)

    assert (held if kept else {}) == pods
    assert told in log
    assert bool(told) == ("WARNING" in log)
