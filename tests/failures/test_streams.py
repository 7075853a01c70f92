"""What a daemon does with its standard streams and its signals: nothing there hurts it."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain, combinations
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from coild.process import logs
from tests.kits.daemon.process import (
    TIMEOUT_SECONDS,
    Daemon,
    client_of,
    command,
    ended,
    environment,
    wait_for,
)

SUBSETS = list(chain.from_iterable(combinations("012", size) for size in (1, 2, 3)))
SILENT = ["HUP", "USR1", "USR2", "ALRM", "VTALRM", "PROF", "IO", "PWR", "STKFLT", "XCPU", "PIPE"]


@contextmanager
def started(data_dir: Path, redirections: str, stderr: int | None = None) -> Iterator[str]:
    """A daemon under a shell's redirections: where it listens. It is killed at the end."""
    line = [*command("--data-dir", str(data_dir), "--http", "127.0.0.1:0")]
    process = subprocess.Popen(
        ["sh", "-c", f'exec "$@" {redirections}', "sh", *line], env=environment(), stderr=stderr
    )
    file = data_dir / "http"
    try:
        wait_for(lambda: file.exists() or process.poll() is not None, "coild to start")
        assert process.poll() is None
        yield f"{process.pid} {file.read_text().strip()}"
        process.terminate()
        assert process.wait(TIMEOUT_SECONDS) == 0
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def daemon_socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The unix socket of a daemon that is ready."""
    # Short enough for the path of a socket.
    with TemporaryDirectory(prefix="coild-") as place:
        path = Path(place) / "socket"
        with Daemon(tmp_path_factory.mktemp("probed") / "d", "--socket", str(path)):
            yield path


@pytest.mark.parametrize("closed", SUBSETS, ids="".join)
def test_no_file_of_ours_is_a_standard_stream(tmp_path: Path, closed: tuple[str, ...]) -> None:
    """Whichever of the three were closed, /dev/null is there, and no file of the journal."""
    shut = " ".join("<&-" if number == "0" else f"{number}>&-" for number in closed)
    with started(tmp_path / "data", shut) as told:
        pid = told.split()[0]
        links = {number: str(Path(f"/proc/{pid}/fd/{number}").readlink()) for number in closed}

    assert links == dict.fromkeys(closed, "/dev/null")


@pytest.mark.parametrize(
    "module", ["coild.upkeep.worker", "tools.verify", "tools.ipam", "tools.history"]
)
def test_every_entry_point_opens_its_streams(module: str) -> None:
    """By the time that the module runs, the three descriptors are open."""
    code = (
        f"import os, importlib; importlib.import_module({module!r}); "
        "assert {os.readlink(f'/proc/self/fd/{n}') for n in range(3)} == {'/dev/null'}"
    )
    python = command()[0]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", python, "-c", code],
        env=environment(),
        check=False,
    )

    assert done.returncode == 0


@pytest.mark.parametrize("module", ["coild", "tools"])
def test_without_devices_the_streams_are_open_all_the_same(module: str) -> None:
    """In a chroot that has no /dev/null, a closed stream becomes what cannot be written either."""
    code = (
        "import os, posix; opened = posix.open; "
        "posix.open = lambda path, *how: opened(path.replace('/dev/', '/no/'), *how); "
        f"import {module}; "
        "assert {os.readlink(f'/proc/self/fd/{number}') for number in range(3)} == {'/'}"
    )
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", command()[0], "-c", code],
        env=environment(),
        check=False,
    )

    assert done.returncode == 0


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full", "1</dev/null", ">&- 2>&-"])
def test_a_probe_tells_of_the_daemon_not_of_its_stdout(
    tmp_path: Path, daemon_socket: Path, redirection: str
) -> None:
    """A daemon is not restarted for a probe whose words nobody could read."""
    probe = [command()[0], "-m", "coild.process.probe", "livez", "--socket"]
    line = ["sh", "-c", f'exec "$@" {redirection}', "sh"]
    live, dead = (
        subprocess.run([*line, *probe, path], env=environment(), capture_output=True, check=False)
        for path in (daemon_socket, tmp_path / "none")
    )

    assert (live.returncode, dead.returncode) == (0, 1)
    assert live.stderr == dead.stderr == b""


@pytest.mark.parametrize(
    ("redirection", "status"), [("2>/dev/full", 0), ("2>&-", 0), (">/dev/full", 1), (">&-", 1)]
)
def test_an_installation_fails_only_for_what_it_prints(
    tmp_path: Path, redirection: str, status: int
) -> None:
    """The network on stdout is what was asked for; of what stderr takes, nothing depends."""
    line = [command()[0], "-m", "tools.ipam", "--install", str(tmp_path / "bin")]
    done = ended(["sh", "-c", f'exec "$@" {redirection}', "sh", *line])

    assert done.returncode == status
    assert ("coild-ipam" in done.stdout) == (not status)
    assert "Traceback" not in done.stderr
    assert (tmp_path / "bin/coild-ipam").exists()


@contextmanager
def full_pipe(*, blocking: bool) -> Iterator[tuple[int, int]]:
    """A pipe into which nothing more fits: the end to read, and the one to write."""
    reader, writer = os.pipe()
    try:
        os.set_blocking(writer, False)
        with suppress(BlockingIOError):
            while True:
                os.write(writer, b"." * 4096)
        os.set_blocking(writer, blocking)
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("blocking", [True, False])
def test_an_unread_log_holds_nothing_up(tmp_path: Path, *, blocking: bool) -> None:
    """A stderr that takes not one line holds up no start, no answer and no stop."""
    with (
        full_pipe(blocking=blocking) as (_, writer),
        started(tmp_path / "data", "", writer) as told,
        client_of(told.split()[1]) as client,
    ):
        body = {"pod-namespace": "default", "pod-name": "web-0", "container-id": "c1"}
        statuses = [client.post("/ip", json=body).status_code for _ in range(2)]

        assert statuses == [200, 409]
        assert client.get("/livez").status_code == 200


@pytest.mark.parametrize("blocking", [True, False])
def test_lines_that_do_not_fit_are_counted_and_told(
    monkeypatch: pytest.MonkeyPatch, *, blocking: bool
) -> None:
    """When they are taken again: those that were kept, in order, then how many were not."""
    monkeypatch.setattr(logs, "_LINES_MAX", 5)
    with full_pipe(blocking=blocking) as (reader, writer):
        handler = logs.Writer(writer)
        handler.setFormatter(logging.Formatter("%(message)s"))
        for number in range(20):
            handler.emit(logging.LogRecord("x", logging.INFO, "", 0, f"line {number}", (), None))
        dropped = handler.dropped
        handler.drain(0.01)
        read = bytearray()
        while not read.endswith(b"nobody read them\n"):
            read += os.read(reader, 4096)
        handler.drain(TIMEOUT_SECONDS)
    lines = read.lstrip(b".").decode().splitlines()

    assert dropped in {14, 15}
    assert lines[:-1] == [f"line {number}" for number in range(20 - dropped)]
    assert lines[-1].startswith(f"{dropped} lines of the log were dropped")


def test_a_flood_of_signals_changes_nothing(daemon: Daemon) -> None:
    """However many come while others are being told of."""
    for _ in range(5000):
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGRTMIN):
            daemon.process.send_signal(number)

    assert daemon.allocate("c1").status_code == 200
    assert daemon.stop() == 0
    assert "Traceback" not in daemon.log


@pytest.mark.parametrize("name", SILENT)
def test_no_signal_ends_it_silently(daemon: Daemon, name: str) -> None:
    """What would kill a program changes nothing, and but for PIPE leaves a line."""
    number = getattr(signal, f"SIG{name}")
    daemon.process.send_signal(number)
    if name != "PIPE":
        said = "nothing to reload" if name == "HUP" else f"signal {number:d} "
        wait_for(lambda: said in daemon.log, "the line")

    assert daemon.allocate("c1").status_code == 200
    assert daemon.stop() == 0


@pytest.mark.parametrize("name", ["HUP", "RTMIN"])
@pytest.mark.parametrize("failed", [False, True])
def test_no_signal_changes_how_it_ends(daemon: Daemon, name: str, *, failed: bool) -> None:
    """However late one comes: systemd would take a failure for a clean end, and start no other."""
    if failed:
        (daemon.data_dir / "journal/LOCK").unlink()
    else:
        daemon.process.terminate()
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while daemon.process.poll() is None and time.monotonic() < deadline:
        daemon.process.send_signal(getattr(signal, f"SIG{name}"))
        time.sleep(0.001)

    assert daemon.process.returncode == int(failed)


def test_signals_are_dealt_with_before_anything_is_loaded(tmp_path: Path) -> None:
    """Loading the program takes longest of a start: by then none ends it without a word."""
    with subprocess.Popen(
        command("--data-dir", str(tmp_path / "data"), "--http", "127.0.0.1:0"),
        env=environment(),
        stderr=subprocess.DEVNULL,
    ) as process:
        of_kernel = Path(f"/proc/{process.pid}")
        wait_for(lambda: "msgspec" in (of_kernel / "maps").read_text(), "the first library")
        status = (of_kernel / "status").read_text()
        process.terminate()

    masks = [int(mask, 16) for mask in re.findall(r"Sig(?:Ign|Cgt):\t(\w+)", status)]
    assert len(masks) == 2
    kept = ["HUP", "INT", "QUIT", "TERM", "USR1", "RTMIN", "TTOU", "TTIN"]
    assert [
        name
        for name in kept
        if any(mask >> (getattr(signal, f"SIG{name}") - 1) & 1 for mask in masks)
    ] == kept
    assert process.returncode == 0


def test_a_parent_that_blocks_signals_does_not_keep_it_from_stopping(tmp_path: Path) -> None:
    """The mask is inherited: without an end of that, only KILL would end it, and no compaction."""
    data_dir = tmp_path / "data"
    blocking = (
        "import os, signal as s, sys; s.pthread_sigmask(s.SIG_SETMASK, s.valid_signals()); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    line = [*command("--data-dir", str(data_dir), "--http", "127.0.0.1:0")]
    with subprocess.Popen([line[0], "-c", blocking, *line], env=environment()) as process:
        try:
            wait_for((data_dir / "http").exists, "coild to start")
            address = (data_dir / "http").read_text().strip()
            with client_of(address) as client:
                body = {"pod-namespace": "default", "pod-name": "web-0", "container-id": "c1"}
                statuses = [
                    client.post("/ip", json=body).status_code,
                    client.post("/compact").status_code,
                ]
            process.terminate()
            status = process.wait(TIMEOUT_SECONDS)
        finally:
            process.kill()

    assert [200, 200] == statuses
    assert 0 == status


def test_a_background_job_may_log_to_its_terminal(tmp_path: Path) -> None:
    """With `stty tostop` the kernel would stop it at its first line, and with it every answer."""
    controller, terminal = os.openpty()
    modes = termios.tcgetattr(terminal)
    modes[3] |= termios.TOSTOP
    termios.tcsetattr(terminal, termios.TCSANOW, modes)
    # The leader of the terminal's session is in the foreground, its child is not.
    leader = (
        "import fcntl, subprocess, sys, termios; fcntl.ioctl(2, termios.TIOCSCTTY, 0); "
        "child = subprocess.Popen(sys.argv[1:], stdout=2, process_group=0); "
        "print(child.pid, flush=True); sys.exit(child.wait())"
    )
    data_dir = tmp_path / "data"
    line = [*command("--data-dir", str(data_dir), "--http", "127.0.0.1:0")]
    with subprocess.Popen(
        [line[0], "-c", leader, *line],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=terminal,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        try:
            wait_for((data_dir / "http").exists, "coild to start")
            os.kill(child, signal.SIGTERM)
            status = process.wait(TIMEOUT_SECONDS)
        finally:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
    os.close(controller)
    os.close(terminal)

    assert status == 0


def test_a_terminal_that_is_stopped_holds_up_no_replay(tmp_path: Path) -> None:
    """The progress bar of a start is drawn when the terminal goes on (Ctrl-S, Ctrl-Q)."""
    data_dir = tmp_path / "data"
    at_once = (
        "import sys, coild.recovery as recovery; recovery._PROGRESS_AFTER_SECONDS = 0; "
        "from coild.__main__ import main; sys.exit(main())"
    )
    controller, terminal = os.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    termios.tcflow(terminal, termios.TCOOFF)
    with subprocess.Popen(
        [command()[0], "-c", at_once, "--data-dir", str(data_dir), "--http", "127.0.0.1:0"],
        env=environment(),
        stderr=terminal,
    ) as process:
        try:
            wait_for((data_dir / "http").exists, "coild to start")
            termios.tcflow(terminal, termios.TCOON)
            process.terminate()
            status = process.wait(TIMEOUT_SECONDS)
        finally:
            process.kill()
    os.close(terminal)
    shown = ""
    with suppress(OSError):  # the end of it
        while True:
            shown += os.read(controller, 1 << 16).decode()
    os.close(controller)

    assert status == 0
    assert "replaying the journal" in shown
    assert shown.index("replaying the journal") < shown.index("replayed ")


def test_quit_stops_it_in_order(daemon: Daemon) -> None:
    """QUIT is as TERM."""
    assert daemon.stop(signal.SIGQUIT) == 0
    assert "stopping" in daemon.log
