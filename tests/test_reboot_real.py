"""A node that boots again, as the daemon sees it: the kernel's boot ID is another one."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coild.events import REBOOTED, AddressReleased
from tests.daemon_kit import Daemon

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root may mount another boot ID over the kernel's"
)
#: Mounts a file over the kernel's boot ID, where the daemon alone sees it, and becomes the daemon.
_WITH_BOOT_ID = 'mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"'


@pytest.fixture
def boot_id(tmp_path: Path) -> Path:
    """The file that names the boot of the test's node."""
    path = tmp_path / "boot_id"
    path.write_text(f"{uuid.uuid4()}\n")
    return path


@pytest.fixture
def start(tmp_path: Path, boot_id: Path) -> Iterator[Callable[..., Daemon]]:
    """Starts a daemon on the same data directory, in the node's present boot."""

    class Booted(Daemon):
        runner = ("unshare", "--mount", "sh", "-c", _WITH_BOOT_ID, str(boot_id))

    running: list[Daemon] = []

    def started(*arguments: str) -> Daemon:
        running.append(Booted(tmp_path / "data", *arguments))
        return running[-1]

    yield started
    for daemon in running:
        daemon.kill()


def boot(boot_id: Path) -> None:
    """Let the node have booted."""
    boot_id.write_text(f"{uuid.uuid4()}\n")


def released(daemon: Daemon) -> list[tuple[str, str]]:
    """The releases in the journal, oldest first: container and reason."""
    return [
        (event.container_id, event.reason)
        for _, event in daemon.events()
        if isinstance(event, AddressReleased)
    ]


def hold(daemon: Daemon, count: int) -> dict[str, str]:
    """Allocate so many addresses: container to address."""
    return {f"c{i}": daemon.allocate(f"c{i}").json()["address"] for i in range(count)}


def test_a_boot_releases_what_was_held(start: Callable[..., Daemon], boot_id: Path) -> None:
    """Addresses held before a boot are released, as rebooted, before the daemon serves again."""
    before = start()
    held = hold(before, 40)
    before.kill()
    boot(boot_id)

    after = start()

    assert {} == after.status()["pods"]
    assert sorted((container_id, REBOOTED) for container_id in held) == sorted(released(after))


def test_addresses_rest_after_a_boot(start: Callable[..., Daemon], boot_id: Path) -> None:
    """What a boot released is not handed out at once: peers may still know the former holders."""
    before = start()
    held = hold(before, 3)
    before.kill()
    boot(boot_id)

    again = hold(start(), 3)

    assert set() == set(held.values()) & set(again.values())


def test_a_boot_keeps_what_is_to_be_kept(start: Callable[..., Daemon], boot_id: Path) -> None:
    """With --after-reboot keep, a boot changes nothing; nor does a later start without the flag."""
    before = start()
    held = hold(before, 3)
    before.kill()
    boot(boot_id)

    after = start("--after-reboot", "keep")
    after.stop()
    later = start()

    assert held == later.status()["pods"]
    assert [] == released(later)


@pytest.mark.parametrize("end", [Daemon.stop, Daemon.kill], ids=["stopped", "killed"])
def test_a_restart_is_no_boot(start: Callable[..., Daemon], end: Callable[[Daemon], None]) -> None:
    """A daemon that starts again in the same boot has what it had."""
    before = start()
    held = hold(before, 3)
    end(before)

    after = start()

    assert held == after.status()["pods"]
    assert [] == released(after)
