"""The unix socket's file and its lock, removed or replaced beside a running daemon."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coild.process.socket_watch import SocketWatch
from tests.http.test_readiness import told
from tests.kits.daemon.process import Daemon, client_of, listening_sockets, run, wait_for
from tests.kits.daemon.wire import exchange, request_bytes
from tests.process.test_systemd import Manager

STATUS = request_bytes("GET", "/status")


@pytest.fixture
def path() -> Iterator[Path]:
    """A path that is short enough for a unix socket, in a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="coild-") as directory:
        inner = Path(directory) / "run"
        inner.mkdir()
        yield inner / "coild.sock"


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_second_daemon_is_refused_without_the_lock_file(
    tmp_path: Path, path: Path, how: str
) -> None:
    """A lock file that is removed or replaced opens the socket's path to no other daemon."""
    lock = path.with_name(f"{path.name}.lock")
    with Daemon(tmp_path / "one", "--socket", str(path)):
        lock.unlink()
        if how == "replaced":
            lock.touch()
        done = run(
            "--data-dir", str(tmp_path / "two"), "--http", "127.0.0.1:0", "--socket", str(path)
        )

        assert done.returncode == 1
        assert f"{path} is in use" in done.stderr
        assert [200] == [answer.status_code for answer in exchange(path, STATUS)]


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path, path: Path) -> None:
    """A symbolic link in the lock's place is refused and told; what it leads to is not made."""
    path.with_name(f"{path.name}.lock").symlink_to(tmp_path / "elsewhere")
    done = run("--data-dir", str(tmp_path / "data"), "--http", "127.0.0.1:0", "--socket", str(path))

    assert done.returncode == 1
    assert f"{path}.lock: it is a symbolic link" in done.stderr
    assert not (tmp_path / "elsewhere").exists()


def test_a_socket_moved_into_its_place_is_not_removed(tmp_path: Path, path: Path) -> None:
    """A stop removes the socket's file only if it is the daemon's own."""
    with Daemon(tmp_path / "data", "--socket", str(path)) as daemon:
        path.unlink()
        path.write_text("precious")

        assert daemon.stop() == 0
        assert path.read_text() == "precious"


def lock_of(path: Path) -> Path:
    """The lock beside a socket."""
    return path.with_name(f"{path.name}.lock")


def is_served(path: Path) -> bool:
    """Whether a daemon answers at a path."""
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(os.fspath(path))
        except OSError:
            return False
    return [200] == [answer.status_code for answer in exchange(path, STATUS)]


def _remove(path: Path) -> None:
    path.unlink()


def _rename(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))


def _remove_with_lock(path: Path) -> None:
    lock_of(path).unlink()
    path.unlink()


def _remove_directory(path: Path) -> None:
    _remove_with_lock(path)
    path.parent.rmdir()
    path.parent.mkdir()


def _rename_directory(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))
    path.parent.mkdir()


def _replace_by_dead(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(path))


@pytest.mark.parametrize(
    "lose",
    [
        _remove,
        _rename,
        _remove_with_lock,
        _remove_directory,
        _rename_directory,
        _replace_by_dead,
    ],
)
def test_a_lost_file_is_bound_again(
    tmp_path: Path, path: Path, lose: Callable[[Path], None]
) -> None:
    """However the socket's file goes, the daemon is reached by its path again, and says so."""
    with Daemon(tmp_path / "data", "--socket", str(path)) as daemon:
        lose(path)
        wait_for(lambda: is_served(path), "the socket")
        wait_for(lambda: f"{path} was removed or replaced; it is bound again" in daemon.log, "it")

        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert lock_of(path).exists()
        assert {"tcp": 1, "unix": 1} == listening_sockets(daemon.process.pid)
        assert told(daemon, "socket") == told(daemon, "socket-lock") == ""
        assert daemon.stop() == 0
        assert not path.exists()


def test_it_is_bound_again_as_often_as_it_is_lost(tmp_path: Path, path: Path) -> None:
    """The only listener comes back each time; connections that are open go on, a stop ends them."""
    with Daemon(tmp_path / "data", "--http", "off", "--socket", str(path)) as daemon:
        clients = []
        for _ in range(3):
            client = daemon.new_client()
            assert client.get("/status").status_code == 200
            clients.append(client)
            path.unlink()
            wait_for(lambda: is_served(path), "the socket")

        assert [200] * 3 == [client.get("/status").status_code for client in clients]
        assert daemon.stop() == 0
        assert "bug" not in daemon.log
        for client in clients:
            client.close()


def test_the_limit_of_connections_is_not_doubled(tmp_path: Path, path: Path) -> None:
    """Connections by the lost file count: for one more, the one that is idle longest is closed."""
    with Daemon(tmp_path / "data", "--socket", str(path), "--max-connections", "1") as daemon:
        with socket.socket(socket.AF_UNIX) as first:
            first.settimeout(10)
            first.connect(os.fspath(path))
            first.sendall(STATUS)
            assert first.recv(65536).startswith(b"HTTP/1.1 200")
            path.unlink()
            wait_for(lambda: is_served(path), "the socket")

            assert first.recv(65536) == b""
        assert daemon.stop() == 0


@pytest.mark.parametrize("what", ["file", "directory", "socket"])
def test_what_took_the_place_is_left_alone_and_told(tmp_path: Path, path: Path, what: str) -> None:
    """A file, a directory, a live socket in the place is told once; when it goes, all is well."""
    with (
        Daemon(tmp_path / "data", "--socket", str(path)) as daemon,
        socket.socket(socket.AF_UNIX) as other,
    ):
        taken = path.with_name("taken")
        if what == "file":
            taken.write_text("precious")
        elif what == "directory":
            taken.mkdir()
        else:
            other.bind(os.fspath(taken))
            other.listen()
        path.unlink()
        taken.rename(path)
        before = path.lstat()
        wait_for(lambda: told(daemon, "socket"), "the check")
        reason = told(daemon, "socket")

        assert f"requests over the unix socket {path} do not reach this daemon" in reason
        assert ("in use by another process" if what == "socket" else "is no socket") in reason
        assert "coild binds it again within a second" in reason
        assert daemon.client.get("/readyz").status_code == 200
        assert before.st_ino == path.lstat().st_ino
        path.rename(taken)
        wait_for(lambda: is_served(path), "the socket")
        wait_for(lambda: not told(daemon, "socket"), "the check")

        assert daemon.log.count("do not reach this daemon") == 1


def test_the_only_listener_fails_readiness(tmp_path: Path, path: Path) -> None:
    """Without TCP, a daemon that cannot be reached by its path is not ready."""
    with Daemon(tmp_path / "data", "--http", "off", "--socket", str(path)) as daemon:
        assert daemon.client.get("/readyz").status_code == 200
        moved = path.with_name("elsewhere")
        moved.mkdir()
        path.unlink()
        moved.rename(path)
        wait_for(lambda: daemon.client.get("/readyz").status_code == 503, "the check")

        assert f"socket: requests over the unix socket {path}" in daemon.client.get("/readyz").text
        path.rmdir()
        wait_for(lambda: daemon.client.get("/readyz").status_code == 200, "the check")
        assert is_served(path)


def test_a_directory_that_is_gone_is_told(tmp_path: Path, path: Path) -> None:
    """Without its directory the socket cannot be made; it is once the directory is there."""
    with Daemon(tmp_path / "data", "--socket", str(path)) as daemon:
        _remove_with_lock(path)
        path.parent.rmdir()
        wait_for(lambda: told(daemon, "socket"), "the check")

        assert f"cannot create {path}.lock: No such file" in told(daemon, "socket")
        assert "make its directory again" in told(daemon, "socket")
        path.parent.mkdir()
        wait_for(lambda: is_served(path), "the socket")


def test_a_second_daemon_on_a_lost_path_never_shares_it(tmp_path: Path, path: Path) -> None:
    """Who comes first has the path; the other is refused, or tells and has it back afterwards."""
    with Daemon(tmp_path / "one", "--socket", str(path)) as one:
        one.process.send_signal(signal.SIGSTOP)
        _remove_with_lock(path)
        with Daemon(tmp_path / "two", "--socket", str(path)) as two:
            one.process.send_signal(signal.SIGCONT)
            wait_for(lambda: told(one, "socket"), "the check")

            assert f"{path} is in use by another coild" in told(one, "socket")
            assert told(two, "socket") == told(two, "socket-lock") == ""
            two.allocate("c1")
            assert exchange(path, STATUS)[0].json() == two.status()
            assert two.stop() == 0
        wait_for(lambda: is_served(path), "the socket")
        _remove_with_lock(path)
        wait_for(lambda: is_served(path), "the socket")
        done = run(
            "--data-dir", str(tmp_path / "two"), "--http", "127.0.0.1:0", "--socket", str(path)
        )

        assert done.returncode == 1
        assert f"{path} is in use by another coild" in done.stderr


@pytest.mark.parametrize("how", ["removed", "replaced", "linked"])
def test_a_lost_lock_is_locked_again_or_told(tmp_path: Path, path: Path, how: str) -> None:
    """The lock is taken anew; where a link is in its place, that is told until it is removed."""
    lock = lock_of(path)
    with Daemon(tmp_path / "data", "--socket", str(path)) as daemon:
        before = path.stat().st_ino
        lock.unlink()
        if how == "replaced":
            lock.touch()
        elif how == "linked":
            lock.symlink_to(tmp_path / "elsewhere")
            wait_for(lambda: told(daemon, "socket-lock"), "the check")

            assert "it is a symbolic link" in told(daemon, "socket-lock")
            assert told(daemon, "socket") == ""
            lock.unlink()
        wait_for(lambda: f"{lock} was removed or replaced; it is locked" in daemon.log, "the lock")

        assert told(daemon, "socket-lock") == ""
        assert before == path.stat().st_ino


def test_a_passed_socket_is_only_told(tmp_path: Path, path: Path) -> None:
    """The file of a socket that was passed is not made by coild; who makes it is named."""
    kept = path.with_name("kept")
    with client_of(kept) as client, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(os.fspath(path))
        unix.listen()
        kept.hardlink_to(path)
        with Manager(tmp_path, sockets=[unix]) as manager:
            manager.wait("READY=1")
            assert client.get("/readyz").status_code == 200
            path.unlink()
            wait_for(lambda: client.get("/readyz").status_code == 503, "the check")

            assert "systemctl restart coild.socket" in client.get("/readyz").text
            assert not path.exists()
            path.hardlink_to(kept)
            wait_for(lambda: client.get("/readyz").status_code == 200, "the check")
            assert manager.stop() == 0
            assert manager.log.count("do not reach this daemon") == 1
            assert "is where it was again" in manager.log


class HangingSocket:
    """A unix socket on a file system that does not answer before it is told to."""

    ADVICE = ""
    is_locked = True
    socket = None

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked = threading.Event()
        self.go = threading.Event()
        #: Whether it was told to go on while it hung.
        self.freed = False

    @property
    def is_bound(self) -> bool:
        """What a stat of the path says."""
        self.asked.set()
        self.freed = self.go.wait(5)
        return True


def test_a_path_that_does_not_answer_holds_up_nobody(path: Path) -> None:
    """While the look at it hangs, the loop turns, and a stop is not kept for ever."""
    unix = HangingSocket(path)

    async def look() -> None:
        watch = SocketWatch(unix, None)  # type: ignore[arg-type]
        task = asyncio.create_task(watch.run())
        while not unix.asked.is_set():
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        unix.go.set()

    asyncio.run(look())
    wait_for(lambda: unix.freed, "the end of the hanging look")


def test_a_path_whose_owner_accepts_nothing_is_named(tmp_path: Path, path: Path) -> None:
    """A live socket with a full backlog is in use, and the error says so instead of waiting."""
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(socket.socket(socket.AF_UNIX))
        other.bind(os.fspath(path))
        other.listen(0)
        for _ in range(2):
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(os.fspath(path))
        done = run(
            "--data-dir", str(tmp_path / "data"), "--http", "127.0.0.1:0", "--socket", str(path)
        )

    assert done.returncode == 1
    assert f"{path} is in use by another process, which accepts no connection" in done.stderr
