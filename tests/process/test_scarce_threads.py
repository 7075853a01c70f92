"""A system that gives no further thread is told of in a line, at the start and never later."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from coild.process.threads import start_workers
from tests.kits.daemon.process import TIMEOUT_SECONDS, Daemon, command, ended, environment, wait_for
from tests.kits.variants import scarce_threads


class ScarceDaemon(Daemon):
    """A coild that gets a number of threads."""

    module = scarce_threads.__name__


def test_a_daemon_that_serves_needs_no_further_thread(tmp_path: Path) -> None:
    """With those of its start it serves, compacts and stops; with one less, or none, a line."""
    with Daemon(tmp_path / "plenty") as daemon:
        threads = len(list(Path(f"/proc/{daemon.process.pid}/task").iterdir())) - 1

    enough = {scarce_threads.VARIABLE: str(threads)}
    with ScarceDaemon(tmp_path / "enough", **enough) as daemon:
        answers = [daemon.allocate("c1"), daemon.client.post("/compact"), daemon.release("c1")]
        status, log = daemon.stop(), daemon.log
    scarce = [_start(tmp_path / str(number), number) for number in (0, 2, threads - 1)]

    assert [200] * 3 == [answer.status_code for answer in answers]
    assert (0, False) == (status, "Traceback" in log)
    for done in scarce:
        last = done.stderr.splitlines()[-1]
        assert (1, False) == (done.returncode, "Traceback" in done.stderr)
        assert last.startswith("coild: the system gives coild no further thread: raise its limit")


def test_nothing_that_a_daemon_may_have_starts_a_thread_later(tmp_path: Path) -> None:
    """Routes, a unix socket that is lost and a service manager that reads nothing need no more."""
    inbox = str(tmp_path / "notify")
    variables = {"COILD_SOCKET": str(tmp_path / "s"), "NOTIFY_SOCKET": inbox}
    runner: tuple[str, ...] = ()
    if os.geteuid() == 0:
        variables["COILD_EXPORT_ROUTES"] = "yes"
        runner = ("unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(inbox)
        with _running(Daemon, tmp_path / "plenty", runner, variables) as daemon:
            threads = len(list(Path(f"/proc/{daemon.process.pid}/task").iterdir())) - 1
        variables[scarce_threads.VARIABLE] = str(threads)
        with full(inbox), _running(ScarceDaemon, tmp_path / "enough", runner, variables) as daemon:
            Path(variables["COILD_SOCKET"]).unlink()
            wait_for(Path(variables["COILD_SOCKET"]).exists, "the socket to be bound again")
            # Only then there is room for what the service manager is told.
            manager.setblocking(False)
            told = b""
            while b"READY=1" not in told:
                wait_for(lambda: select.select([manager], [], [], 0)[0], "READY")
                told = manager.recv(4096)
            status, log = daemon.stop(), daemon.log

    assert (0, False) == (status, "Traceback" in log), log


@contextlib.contextmanager
def full(inbox: str) -> Iterator[None]:
    """Have no room in the inbox at this path."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        with contextlib.suppress(BlockingIOError):
            while sender.sendto(b"x", socket.MSG_DONTWAIT, inbox):
                pass
        yield


def _running(
    kind: type[Daemon], data_dir: Path, runner: Sequence[str], variables: dict[str, str]
) -> Daemon:
    """A daemon that is executed by `runner`, asked over its unix socket."""
    executed: type[Daemon] = type("Executed", (kind,), {"runner": runner})
    return executed(data_dir, **variables)


def test_all_workers_are_there_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many calls beside the loop as there are workers start no thread."""
    together = threading.Barrier(8)

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    async def call() -> list[int]:
        calls = [asyncio.to_thread(together.wait, TIMEOUT_SECONDS) for _ in range(8)]
        return await asyncio.gather(*calls)

    with asyncio.Runner() as runner:
        start_workers(runner.get_loop())
        with monkeypatch.context() as patched:
            patched.setattr(threading, "_start_new_thread", refuse)
            places = runner.run(call())

    assert sorted(places) == list(range(8))


def _start(data_dir: Path, threads: int) -> subprocess.CompletedProcess[str]:
    """A start with so many threads, which ends by itself."""
    return ended(
        command(
            *("--data-dir", str(data_dir), "--http", "127.0.0.1:0", "--segment-size=1MiB"),
            module=scarce_threads.__name__,
        ),
        env=environment(**{scarce_threads.VARIABLE: str(threads)}),
    )
