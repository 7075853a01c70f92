"""Changes files of a daemon under load, and checks that every confirmed event is kept.

A schedule is one act on one target at one moment. The load goes on until the daemon ends or for a
while; then the act is undone as an operator would, if possible, and the daemon starts again.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx

from tests.kits.daemon.process import Daemon, client_of, fold, status_of, wait_for
from tests.kits.system.small_disks import fill, small_disk

SIZES = ("--segment-size=1MiB", "--compact-after=0")
#: Long names make long events, so that segments roll over under load.
_LONG = "\N{LINEAR B SYLLABLE B008 A}" * 253
_CLIENTS = 4
_LOAD_SECONDS = 0.7
_DELAY_SECONDS = 0.4
_AFTERWARDS = 20

ROOT = os.geteuid() == 0
TARGETS = (
    *("data directory", "journal", "open segment", "sealed segment"),
    *("LOCK", "snapshot", "archive", "spool", "socket"),
)
ACTS = (
    *("remove", "rename", "replace by a copy", "restore an older copy", "tar over"),
    "make read-only",
    *(("mount over", "fill") if ROOT else ()),
)
#: Targets that have the confirmed events.
_RECORDS = {"data directory", "journal", "open segment", "sealed segment", "snapshot", "archive"}
#: Targets that only a start reads.
_UNWATCHED = {"sealed segment", "snapshot", "archive"}
#: Acts that an operator cannot undo.
_TAKING = {"remove", "replace by a copy", "restore an older copy", "tar over"}


class Schedule(NamedTuple):
    """An act, its target, and its time after the load began."""

    seed: int
    act: str
    target: str
    delay: float

    @property
    def takes(self) -> bool:
        """Whether the act may take records of what was answered before."""
        return self.act in _TAKING and self.target in _RECORDS

    @property
    def noticed(self) -> bool:
        """Whether the daemon must end of it: the name of what it has open leads elsewhere."""
        if self.target not in {"data directory", "journal", "LOCK"} or self.act == "fill":
            return False
        # The same files at the same names; what is wrong with them, if anything, is their rights.
        if self.act == "make read-only":
            return False
        return not (self.target == "LOCK" and self.act == "restore an older copy")

    @classmethod
    def of(cls, seed: int) -> Schedule:
        """The schedule of a seed: it is the same for the same user."""
        choice = random.Random(seed)  # noqa: S311 # a schedule, no secret
        act = choice.choice(ACTS)
        target = choice.choice(TARGETS)
        if act == "fill":
            target = "data directory"
        if target == "socket" and act not in {"remove", "rename", "mount over"}:
            act = "remove"
        return cls(seed, act, target, choice.uniform(0, _DELAY_SECONDS))


class Answer(NamedTuple):
    """A request that was answered with 200, or a release that was only requested."""

    sent: float
    container: str
    address: str


class Load:
    """A few clients that allocate, and release every third; and their answers."""

    def __init__(self, daemon: Daemon, socket: Path) -> None:
        self.allocated: list[Answer] = []
        self.released: list[Answer] = []
        self.asked: set[str] = set()
        self._stop = threading.Event()
        self._daemon = daemon
        self._socket = socket
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(_CLIENTS)]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Have every client answered for the last time."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _client(self, number: int) -> httpx.Client:
        return self._daemon.new_client() if number else client_of(self._socket)

    def _run(self, number: int) -> None:
        count = 0
        with self._client(number) as client:
            while not self._stop.is_set():
                name = f"{number}-{count}"
                count += 1
                body = {"pod-namespace": _LONG, "pod-name": _LONG, "container-id": name}
                try:
                    sent = time.monotonic()
                    answer = client.post("/ip", json=body)
                    if not answer.is_success:
                        continue
                    self.allocated.append(Answer(sent, name, answer.json()["address"]))
                    if count % 3:
                        continue
                    self.asked.add(name)
                    sent = time.monotonic()
                    if client.delete(f"/ip/{_LONG}/{_LONG}/{name}").is_success:
                        self.released.append(Answer(sent, name, ""))
                except httpx.TransportError:
                    return


def prepare(scratch: Path) -> tuple[Path, Path]:
    """A data directory with all that can be a target, and an older copy of it."""
    data, older = scratch / "prepared", scratch / "older"
    with Daemon(data, *SIZES) as daemon:
        for number in range(20):
            assert daemon.allocate(f"early-{number}").is_success
        assert daemon.client.post("/compact").is_success
        assert daemon.allocate("sealed").is_success
        daemon.stop()
        (data / "spool").mkdir(mode=0o700, exist_ok=True)
        shutil.copytree(data, older)
        daemon.start()
        number = 0
        while len(list((data / "journal").glob("*.seg"))) < 2:
            answer = daemon.allocate(f"prepared-{number}", pod=_LONG, namespace=_LONG)
            assert answer.is_success or answer.status_code == 503, answer.text
            number += 1
        assert any((data / "journal").glob("*.snap"))
        daemon.stop()
    return data, older


def path_of(data: Path, target: str, socket: Path) -> Path:
    """Where a target is now."""
    journal = data / "journal"
    return {
        "data directory": lambda: data,
        "journal": lambda: journal,
        "open segment": lambda: max(journal.glob("*.seg")),
        "sealed segment": lambda: min(journal.glob("*.seg")),
        "LOCK": lambda: journal / "LOCK",
        "snapshot": lambda: max(journal.glob("*.snap")),
        "archive": lambda: journal / "archive",
        "spool": lambda: data / "spool",
        "socket": lambda: socket,
    }[target]()


def _command(*arguments: str | Path) -> None:
    """Run a command as an operator does, who goes on whatever vanished while it copied."""
    subprocess.run([str(each) for each in arguments], capture_output=True, check=False)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
        # The daemon may have made something there meanwhile.
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink()


def _restore(older: Path, path: Path) -> None:
    """Put what is older in the place of `path`: of a file, over its bytes; of a directory, all."""
    if path.is_dir():
        path.rename(path.with_name(f"{path.name}.before"))
        _command("cp", "-a", older, path)
    else:
        shutil.copyfile(older, path)


def _tar_over(path: Path) -> None:
    archive = path.parent / "over.tar"
    _command("tar", "-C", path.parent, "-cf", archive, path.name)
    _command("tar", "-C", path.parent, "-xf", archive)
    archive.unlink()


@contextlib.contextmanager
def mounted(source: Path, path: Path, *, read_only: bool = False) -> Iterator[None]:
    """`source` over `path`, until the end."""
    subprocess.run(["mount", "--bind", str(source), str(path)], check=True)
    try:
        if read_only:
            subprocess.run(["mount", "-o", "remount,bind,ro", str(path)], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@contextlib.contextmanager
def _renamed(path: Path, copy: Path) -> Iterator[None]:
    path.rename(copy)
    yield
    # What the daemon made in its place meanwhile is nothing that was answered.
    if path.exists():
        _remove(path)
    copy.rename(path)


@contextlib.contextmanager
def _covered(path: Path, copy: Path) -> Iterator[None]:
    """A copy mounted over it; over a socket, which cannot be copied, a file."""
    if path.is_socket():
        copy.touch()
    else:
        _command("cp", "-a", path, copy)
    with mounted(copy, path):
        yield
    _remove(copy)


@contextlib.contextmanager
def _read_only(path: Path) -> Iterator[None]:
    if ROOT:
        with mounted(path, path, read_only=True):
            yield
        return
    mode = path.stat().st_mode & 0o7777
    path.chmod(mode & 0o555)
    yield
    path.chmod(mode)


@contextlib.contextmanager
def _filled(data: Path) -> Iterator[None]:
    fill(data)
    yield
    (data / "filler").unlink()


def _replace(path: Path, copy: Path) -> None:
    _command("cp", "-a", path, copy)
    if path.is_dir():
        path.rename(path.with_name(f"{path.name}.before"))
    copy.rename(path)


def done_to(path: Path, act: str, older: Path) -> contextlib.AbstractContextManager[None]:
    """The act is done on entry, and undone at the end as far as an operator can undo it.

    What cannot be undone is done at once.
    """
    copy = path.with_name(f"{path.name}.copy")
    undone = {"fill": lambda: _filled(path), "rename": lambda: _renamed(path, copy)} | {
        "mount over": lambda: _covered(path, copy),
        "make read-only": lambda: _read_only(path),
    }
    if act in undone:
        return undone[act]()
    {
        "remove": lambda: _remove(path),
        "replace by a copy": lambda: _replace(path, copy),
        "restore an older copy": lambda: _restore(older, path),
        "tar over": lambda: _tar_over(path),
    }[act]()
    return contextlib.nullcontext()


def run_schedule(schedule: Schedule, scratch: Path, prepared: Path, older: Path) -> str:
    """Run a schedule, raising AssertionError for a broken promise.

    How it ended: whether it was told and whether something was gone by the act itself.
    """
    scratch.mkdir()
    with contextlib.ExitStack() as stack:
        data = scratch / "d"
        if schedule.act == "fill":
            stack.enter_context(small_disk(data, "12m"))
        shutil.copytree(prepared, data, dirs_exist_ok=True)
        socket = scratch / "s"
        daemon = stack.enter_context(Daemon(data, f"--socket={socket}", *SIZES))
        before = dict(daemon.status()["pods"])
        load = Load(daemon, socket)
        try:
            wait_for(lambda: load.allocated, "the load")
            time.sleep(schedule.delay)
            path = path_of(data, schedule.target, socket)
            with done_to(path, schedule.act, path_of(older, schedule.target, socket)):
                acted = time.monotonic()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    daemon.process.wait(_LOAD_SECONDS)
                load.end()
                status = daemon.stop()
        finally:
            load.end()
        return _judge(schedule, daemon, load, before, acted, status)


def _judge(
    schedule: Schedule,
    daemon: Daemon,
    load: Load,
    before: dict[str, str],
    acted: float,
    status: int,
) -> str:
    assert status in {0, 1}, f"it ended with {status}: {daemon.log}"
    assert "Traceback" not in daemon.log, daemon.log
    assert status == 1 or not schedule.noticed, f"it went on: {daemon.log}"
    held: dict[str, str] = {}
    kept = {each.container: each for each in load.allocated if each.container not in load.asked}
    for name, address in (before | {name: it.address for name, it in kept.items()}).items():
        assert address not in held, f"{address} has two holders: {held[address]} and {name}"
        held[address] = name
    since = len(daemon.log)
    try:
        daemon.start()
    except AssertionError:
        words = daemon.log[since:]
        assert schedule.takes, f"no start after an act that took nothing: {words}"
        assert daemon.process.returncode == 1, words
        assert "journal" in words, words
        assert "Traceback" not in words, words
        # These are not looked at while the writer runs (Limitations): a start without them is
        # refused, and what was answered since is in the open segment, untouched.
        if schedule.target in _UNWATCHED:
            return "refused, answers since in what is left"
        after = [it for it in load.allocated if it.sent > acted]
        assert not after, (
            f"answered in a journal that does not start: {after[0].container}: {words}"
        )
        return "refused"
    pods = daemon.status()["pods"]
    there = {it.container for it in load.allocated if pods.get(it.container) == it.address}
    gone = [it for it in kept.values() if it.container not in there]
    back = [it for it in load.released if it.container in pods]
    earlier = [name for name, address in before.items() if pods.get(name) != address]
    late = [it.container for it in (*gone, *back) if it.sent > acted]
    assert not late, f"answered after the act and gone: {late}: {daemon.log}"
    lost = len(gone) + len(back) + len(earlier)
    if lost:
        assert schedule.takes, f"{lost} gone that the act did not take: {daemon.log}"
        assert status == 1, f"{lost} gone, and nobody was told: {daemon.log}"
    taken = {it.container for it in gone} | set(earlier)
    for number in range(_AFTERWARDS):
        answer = daemon.allocate(f"afterwards-{number}")
        assert answer.is_success, answer.text
        other = held.get(answer.json()["address"])
        assert other is None or other in taken, f"{answer.text} is held by {other}"
    # Without the archive nobody can read the journal from its beginning.
    if schedule.target != "archive":
        assert status_of(fold(daemon.events())) == daemon.status()
    return f"ended with {status}" + (", records gone" if lost else "")
