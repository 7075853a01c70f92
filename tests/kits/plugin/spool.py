"""The spool's system calls, told of or failing; who else holds an entry; a node with a spool."""

from __future__ import annotations

import contextlib
import fcntl
import os
import posix
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from coild.rules.events import REQUESTED, AddressReleased
from coild.spool import entries as spool_entries
from coild.spool import files as spool_files
from coild.spool import releases as spool
from tests.kits.daemon.process import ROOT, Daemon, environment
from tests.kits.plugin.cni import NOBODY, Outcome, Plugin

#: Says "held" when it has the entry, and keeps it until its stdin ends.
_HOLDER = """
import sys
from coild.spool import releases as spool
claim = spool.claim(sys.argv[1], sys.argv[2], 0.0)
print("held" if claim else "none", flush=True)
sys.stdin.read()
"""
_NOBODY = 65534


class Calls:
    """The module `posix`, which notes what is done to the disk, and fails where it is told to."""

    _NOTED = ("mkdir", "write", "fsync", "link", "rename", "unlink")

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails_at: int = -1) -> None:
        """The call with the number `fails_at` is an error of input and output."""
        #: Name of the call, and last parts of the paths.
        self.made: list[tuple[str, ...]] = []
        self._fails_at = fails_at
        for module in (spool, spool_entries, spool_files):
            monkeypatch.setattr(module, "posix", self)

    def __getattr__(self, name: str) -> Any:
        real = getattr(posix, name)
        return self._noted(name, real) if name in self._NOTED else real

    def _noted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            number = len(self.made)
            self.made.append((name, *[_word(each) for each in arguments if _is_place(each)]))
            if number == self._fails_at:
                raise OSError(5, "Input/output error")
            return real(*arguments)

        return call


def _is_place(argument: object) -> bool:
    # A mode is no descriptor: those of tests are small.
    return isinstance(argument, str) or (isinstance(argument, int) and argument < 0o400)


def _word(place: str | int) -> str:
    path = place if isinstance(place, str) else posix.readlink(f"/proc/self/fd/{place}")
    name = Path(path).name
    return spool_files.TEMPORARY if name.startswith(spool_files.TEMPORARY) else name


def soon() -> float:
    """A deadline that no test reaches."""
    return monotonic() + 30


def holder_of(claim: spool.Claim) -> tuple[str, str, str]:
    """The holder in the entry."""
    return claim.pod_namespace, claim.pod_name, claim.container_id


def kept(directory: Path) -> list[tuple[str, str, str]]:
    """The spool's entries, read as by a process that applies them; they stay."""
    return sorted(holder_of(claim) for claim in spool.claims(str(directory)))


def files(directory: Path) -> list[str]:
    """The names in it; none if it is no directory."""
    return sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the entry, like a process that applies it."""
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


@contextlib.contextmanager
def held_elsewhere(directory: Path, container_id: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that has claimed the entry, until its stdin ends."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(directory), container_id],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's rights, in this process."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


class Node(Plugin):
    """The plugin and a daemon that share a spool."""

    def __init__(self, executable: Path, daemon: Daemon) -> None:
        super().__init__(executable, f"http://{daemon.address}", daemon.data_dir / "spool")
        self.daemon = daemon

    def add(self, container: str, **ipam: Any) -> str:
        """ADD, which must succeed without a notice; the address."""
        (address,) = self.run("ADD", container, **ipam).addresses
        return address

    def restart(self) -> None:
        """Have the daemon crash, and start again."""
        self.daemon.kill()
        self.bring_up()

    def bring_up(self) -> None:
        """Start the daemon, which listens elsewhere now."""
        self.daemon.start()
        self.where = f"http://{self.daemon.address}"

    def miss(self, container: str) -> Outcome:
        """DEL while nobody listens, which is kept."""
        outcome = self.run("DEL", container, coild=NOBODY)
        assert (0, b"") == (outcome.status, outcome.stdout)
        assert spool.file_name(container) in files(self.spool)
        return outcome

    @property
    def held(self) -> dict[str, str]:
        """Container ID to address, of the test's containers."""
        pods = self.daemon.status()["pods"]
        return {key: address for key, address in pods.items() if not key.startswith("@")}

    @property
    def released(self) -> list[str]:
        """The containers that the journal says were released as requested, oldest first."""
        return [
            event.container_id
            for _, event in self.daemon.events()
            if isinstance(event, AddressReleased) and event.reason == REQUESTED
        ]


def keep(plugin: Plugin, container: str, pod: str | None = None) -> Path:
    """Leave a release in the plugin's spool; the entry."""
    spool.add(str(plugin.spool), "default", pod or container, container, 0.0)
    return plugin.spool / spool.file_name(container)
