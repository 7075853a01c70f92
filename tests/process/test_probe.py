"""The command that probes coild over its unix socket, and the manifest's shell that waits."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.failures.test_full_disk import allocate_all, fill_beside
from tests.kits.daemon.process import (
    TIMEOUT_SECONDS,
    Daemon,
    ended,
    environment,
    listening_sockets,
    wait_for,
)
from tests.kits.plugin.cni import Plugin, new_id
from tests.kits.system.small_disks import small_disk
from tests.tools.test_install import configurations, container, daemon, manifest

#: For probes that are to reach it.
SHORT_SECONDS = 0.3


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A node's directories, as the manifest has them mounted."""
    for name in ("run/coild", "etc/coild", "host/etc/cni/net.d"):
        (tmp_path / name).mkdir(parents=True)
    data = manifest()["ConfigMap"]["data"]
    for name, text in data.items():
        (tmp_path / "etc/coild" / name).write_text(below(text, tmp_path))
    return tmp_path


def below(text: str, root: Path) -> str:
    """The text with the manifest's directories below `root`."""
    for name in ("/run/coild", "/etc/coild", "/host/etc/cni/net.d"):
        text = text.replace(name, f"{root}{name}")
    return text


def started(root: Path) -> Daemon:
    """The daemon as the manifest has it on the first node, but for the data and the proc."""
    config = root / "etc/coild" / next(iter(configurations()))
    return Daemon(root / "data", "--config", str(config), "--http", "off")


def conflist(root: Path) -> Path:
    """Where the runtime looks for the pods' network."""
    return root / "host/etc/cni/net.d/10-coild.conflist"


def python_first(root: Path) -> dict[str, str]:
    """An environment whose `python3` is the one of the tests, with warnings as errors."""
    (root / "bin").mkdir(exist_ok=True)
    program = root / "bin/python3"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -W error "$@"\n')
    program.chmod(0o755)
    return environment(PATH=f"{root / 'bin'}:{os.environ['PATH']}")


def probed(root: Path, name: str, *more: str) -> subprocess.CompletedProcess[str]:
    """How a probe of the manifest comes out."""
    words = [below(word, root) for word in daemon()[name]["exec"]["command"]]
    return ended([*words, *more], cwd="/", env=python_first(root))


@contextlib.contextmanager
def network(root: Path) -> Iterator[subprocess.Popen[str]]:
    """The container that puts the network there, with its shell's own words."""
    process = subprocess.Popen(
        [below(word, root) for word in container("network")["command"]],
        env=python_first(root),
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        # With what it runs, which outlives it where it is no container's first process.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@contextlib.contextmanager
def listener(path: Path, answer: bytes | None) -> Iterator[None]:
    """Something else at the socket, that answers one request with this, or does not answer."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(1)
        if answer is None:
            yield
            return
        script = (
            "import socket,sys\n"
            "sock,_=socket.socket(fileno=int(sys.argv[1])).accept()\n"
            "sock.recv(4096);sock.sendall(bytes.fromhex(sys.argv[2]));sock.close()"
        )
        number = server.fileno()
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(number), answer.hex()], pass_fds=[number]
        )
        try:
            yield
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize("name", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_a_daemon_that_serves_passes_each_probe(root: Path, name: str) -> None:
    """With the manifest's own configuration and command it is 0, and one line; there is no TCP."""
    with started(root) as coild:
        outcome = probed(root, name)

        assert (0, "") == (outcome.returncode, outcome.stderr)
        (line,) = outcome.stdout.splitlines()
        assert line.endswith(f" of {root}/run/coild/coild.sock: ok")
        assert {"unix": 1} == listening_sockets(coild.process.pid)


def test_the_socket_is_only_its_owners(root: Path) -> None:
    """Other users may neither connect to the socket nor put another one into its place."""
    with started(root):
        path = root / "run/coild/coild.sock"

        assert not stat.S_IMODE(path.stat().st_mode) & 0o007
        assert not stat.S_IMODE(path.parent.stat().st_mode) & 0o022


def test_a_daemon_that_is_not_there_fails(root: Path) -> None:
    """Without a socket, and with one that a crash left, it is 1, and says what to look at."""
    missing = probed(root, "livenessProbe")
    with started(root) as coild:
        coild.kill()
    left = probed(root, "livenessProbe")

    for outcome, reason in ((missing, "No such file"), (left, "Connection refused")):
        assert (1, "") == (outcome.returncode, outcome.stderr)
        (line,) = outcome.stdout.splitlines()
        assert reason in line
        assert "is coild running, with this socket?" in line


def test_a_daemon_that_does_not_answer_fails_in_time(root: Path) -> None:
    """One that is stopped lets its probe end by itself, which says so."""
    with started(root) as coild:
        coild.process.send_signal(signal.SIGSTOP)
        outcome = probed(root, "livenessProbe", "--timeout", str(SHORT_SECONDS))
        coild.process.send_signal(signal.SIGCONT)

        assert (1, "") == (outcome.returncode, outcome.stderr)
        assert f"no answer within {SHORT_SECONDS} s" in outcome.stdout
        assert probed(root, "livenessProbe").returncode == 0


def test_a_full_queue_is_waited_for_in_time(root: Path) -> None:
    """Where nobody takes connections, connecting is bounded, too."""
    path = root / "run/coild/coild.sock"
    with listener(path, None), contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(socket.socket(socket.AF_UNIX)).connect(str(path))
        outcome = probed(root, "readinessProbe", "--timeout", str(SHORT_SECONDS))

    assert (1, "") == (outcome.returncode, outcome.stderr)
    assert "no answer within" in outcome.stdout


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "not HTTP"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-", "not HTTP"),
        (b"HTTP/1.1 503 x\r\n\r\n" + json.dumps({"error": "a\nb\x1b"}).encode(), r"503 a b\x1b"),
        (b"HTTP/1.1 503 x\r\n\r\n[]", "503 []"),
        (b"HTTP/1.1 500 x\r\n\r\n\xff", "500"),
    ],
)
def test_any_other_answer_fails_in_one_line(root: Path, answer: bytes, said: str) -> None:
    """Whatever listens there, it is 1 and one line that a log can have."""
    with listener(root / "run/coild/coild.sock", answer):
        outcome = probed(root, "readinessProbe")

    assert (1, "") == (outcome.returncode, outcome.stderr)
    (line,) = outcome.stdout.splitlines()
    assert said in line
    assert line.isprintable()


def test_a_full_disk_fails_the_readiness_probe_alone(root: Path, disk: Path) -> None:
    """The line has coild's reason; a restart would mend nothing, so the others pass."""
    path = root / "run/coild/coild.sock"
    arguments = "--segment-size", "1MiB", "--compact-after", "0", "--socket", str(path)
    with Daemon(disk / "data", *arguments) as coild:
        fill_beside(coild)
        allocate_all(coild)
        outcome = probed(root, "readinessProbe")

        assert (1, "") == (outcome.returncode, outcome.stderr)
        assert ": 503 journal: no space for the journal: " in outcome.stdout
        assert probed(root, "livenessProbe").returncode == 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    with small_disk(tmp_path / "disk", "8m") as path:
        yield path


def test_the_network_comes_when_coild_is_ready(root: Path, executable: Path) -> None:
    """Not before; then whole, beside no other file, and the plugin has addresses by it."""
    with network(root) as waiting:
        assert waiting.stdout is not None
        assert "No such file" in waiting.stdout.readline()
        assert [] == list(conflist(root).parent.iterdir())
        with started(root):
            wait_for(conflist(root).exists, "the network")
            assert [conflist(root)] == list(conflist(root).parent.iterdir())
            found = json.loads(conflist(root).read_text())
            ipam = found["plugins"][0]["ipam"]
            plugin = Plugin(executable, ipam["coild"], root / "spool")

            assert manifest()["ConfigMap"]["data"]["10-coild.conflist"] == (
                conflist(root).read_text().replace(str(root), "")
            )
            assert len(plugin.run("ADD", new_id(), version="1.0.0").addresses) == 1
            assert waiting.poll() is None


def test_the_network_ends_when_it_is_asked_to(root: Path) -> None:
    """SIGTERM ends it at once, waiting or done: a node is without coild until its pod is gone."""
    with network(root) as waiting:
        assert waiting.stdout is not None
        waiting.stdout.readline()
        waiting.terminate()

        assert waiting.wait(TIMEOUT_SECONDS) == 0
    assert not conflist(root).exists()
    with started(root), network(root) as done:
        wait_for(conflist(root).exists, "the network")
        done.terminate()

        assert done.wait(TIMEOUT_SECONDS) == 0


def test_a_restart_replaces_the_network_as_a_whole(root: Path) -> None:
    """What is there stays while coild is down; then another file has its place, not its bytes."""
    conflist(root).write_text("older")
    with conflist(root).open() as reader, network(root) as waiting:
        assert waiting.stdout is not None
        waiting.stdout.readline()
        assert conflist(root).read_text() == "older"
        with started(root):
            wait_for(lambda: conflist(root).read_text() != "older", "the new network")

            assert json.loads(conflist(root).read_text())["name"] == "pods"
        assert reader.read() == "older"


def test_a_network_that_cannot_be_put_is_tried_again_by_kubernetes(root: Path) -> None:
    """Without the directory the container fails, and says why; it does not seem well."""
    conflist(root).parent.rmdir()
    with started(root), network(root) as failing:
        assert failing.wait(TIMEOUT_SECONDS) != 0
        assert failing.stdout is not None
        assert ".10-coild.conflist.new" in failing.stdout.read()
