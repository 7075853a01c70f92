"""The unix socket's file and its lock, removed or replaced beside a running daemon."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon_kit import Daemon, run
from tests.wire_kit import exchange, request_bytes

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
