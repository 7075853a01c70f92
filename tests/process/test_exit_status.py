"""What may pass is exit status 1, which a service manager tries again; the wrong form is 2."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kits.daemon.process import Daemon, command, ended, run

#: For root alone: without what makes it stronger than permissions.
_POWERS = "-dac_override,-dac_read_search,-fowner,-net_bind_service"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory where whatever a start needs may come and go."""
    place = tmp_path / "place"
    place.mkdir()
    return place


@contextlib.contextmanager
def _port(place: Path) -> Iterator[tuple[str, ...]]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield "--http", f"127.0.0.1:{sock.getsockname()[1]}"


@contextlib.contextmanager
def _either_family(place: Path) -> Iterator[tuple[str, ...]]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield "--http", f"localhost:{sock.getsockname()[1]}"


@contextlib.contextmanager
def _live_socket(place: Path) -> Iterator[tuple[str, ...]]:
    path = place / "s"
    with Daemon(place / "other", "--socket", str(path)):
        yield "--socket", str(path)


@contextlib.contextmanager
def _no_directory_of_socket(place: Path) -> Iterator[tuple[str, ...]]:
    yield "--socket", str(place / "run" / "s")
    (place / "run").mkdir()


@contextlib.contextmanager
def _file_for_socket(place: Path) -> Iterator[tuple[str, ...]]:
    (place / "s").touch()
    yield "--socket", str(place / "s")
    (place / "s").unlink()


@contextlib.contextmanager
def _link_for_lock(place: Path) -> Iterator[tuple[str, ...]]:
    (place / "s.lock").symlink_to("nowhere")
    yield "--socket", str(place / "s")
    (place / "s.lock").unlink()


@contextlib.contextmanager
def _file_for_directory(place: Path) -> Iterator[tuple[str, ...]]:
    (place / "above").touch()
    yield "--data-dir", str(place / "above" / "data")
    (place / "above").unlink()


@contextlib.contextmanager
def _no_config(place: Path) -> Iterator[tuple[str, ...]]:
    yield "--config", str(place / "coild.toml")
    (place / "coild.toml").touch()


@contextlib.contextmanager
def _directory_for_config(place: Path) -> Iterator[tuple[str, ...]]:
    # What container runtimes make of a mount whose source is not there yet.
    (place / "coild.toml").mkdir()
    yield "--config", str(place / "coild.toml")
    (place / "coild.toml").rmdir()
    (place / "coild.toml").touch()


CAUSES: dict[str, tuple[str, Callable[[Path], contextlib.AbstractContextManager[tuple[str, ...]]]]]
CAUSES = {
    "port": ("http: ", _port),
    "port of one family": ("http: ", _either_family),
    "socket": ("socket: ", _live_socket),
    "directory of the socket": ("socket: ", _no_directory_of_socket),
    "file for the socket": ("socket: ", _file_for_socket),
    "link for the lock": ("socket: ", _link_for_lock),
    "file for the directory": ("data-dir: ", _file_for_directory),
    "configuration": ("--config: ", _no_config),
    "directory for the configuration": ("--config: ", _directory_for_config),
}


@pytest.mark.parametrize(("key", "cause"), CAUSES.values(), ids=list(CAUSES))
def test_what_may_pass_is_status_1_until_it_has(
    tmp_path: Path,
    place: Path,
    key: str,
    cause: Callable[[Path], contextlib.AbstractContextManager[tuple[str, ...]]],
) -> None:
    """A start that fails for what may pass ends with 1, and the same start is good once it has."""
    with cause(place) as arguments:
        done = run("--data-dir", str(tmp_path / "data"), "--http", "127.0.0.1:0", *arguments)
        made = (tmp_path / "data").exists()

    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith(f"coild: {key}")
    assert "Traceback" not in done.stderr
    assert not made
    with Daemon(tmp_path / "data", *arguments) as daemon:
        assert daemon.stop() == 0


def test_a_place_where_nothing_may_be_made_is_status_1(tmp_path: Path) -> None:
    """A file system that takes no new names is named, for each of what coild would make there."""
    for arguments in (
        ("--data-dir", "/proc/coild/data", "--http", "127.0.0.1:0"),
        ("--data-dir", str(tmp_path / "data"), "--http", "off", "--socket", "/proc/coild.sock"),
    ):
        done = run(*arguments)

        assert done.returncode == 1
        assert "/proc/coild" in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr


def test_an_address_that_may_come_is_status_1(tmp_path: Path) -> None:
    """An address that the machine does not have now, it may have later."""
    data_dir = str(tmp_path / "data")
    # 192.0.2.0/24 and 2001:db8::/32 are for documentation (RFC 5737, RFC 3849).
    for host in ("192.0.2.1", "[2001:db8::1]"):
        done = run("--data-dir", data_dir, "--http", f"{host}:0", "--allow-remote")

        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith(f"coild: http: cannot listen on {host}")


def test_a_working_directory_that_is_gone_is_status_1(place: Path) -> None:
    """A relative path from a directory that was removed is a line, not a traceback."""
    done = ended(
        ["sh", "-c", 'rmdir "$PWD"; exec "$@"', "sh", *command("--data-dir", "data")], cwd=place
    )

    assert done.returncode == 1
    assert "coild: --data-dir: cannot use 'data': No such file or directory\n" == done.stderr


def test_what_is_not_permitted_is_status_1(tmp_path: Path, place: Path) -> None:
    """A user who may not go there gets a line with 1: permissions are given without a restart."""
    (place / "coild.toml").touch()
    place.chmod(0)
    data = ("--data-dir", str(tmp_path / "data"))
    try:
        for arguments in (
            ("--data-dir", str(place / "data")),
            (*data, "--config", str(place / "coild.toml")),
            (*data, "--socket", str(place / "s")),
        ):
            done = _powerless("--http", "127.0.0.1:0", *arguments)

            assert done.returncode == 1, done.stderr
            assert "Permission denied" in done.stderr.splitlines()[-1]
            assert "Traceback" not in done.stderr
    finally:
        place.chmod(0o700)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_dead_socket_that_may_not_be_removed_is_status_1(place: Path) -> None:
    """A dead socket of another user's, in a directory like /tmp, is named."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(place / "s"))
    (place / "s").chmod(0o666)
    os.chown(place / "s", 65534, -1)
    os.chown(place, 65534, -1)
    place.chmod(0o1777)
    done = _powerless("--data-dir", str(place / "data"), "--http", "off", "--socket", f"{place}/s")

    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert f"coild: socket: cannot remove {place}/s, a socket of a process that ended: " in last


@pytest.mark.parametrize(
    "arguments",
    [
        ("--config", f"/{'x' * 300}"),
        ("--data-dir", f"/{'x' * 300}"),
        ("--data-dir", "/x" * 2500),
        ("--http", "localhost:0,127.0.0.1:0"),
        ("--http", "[fe80::1]:0", "--allow-remote"),
    ],
)
def test_what_no_start_can_mend_is_status_2(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """A value with which every start fails ends with 2, also if only the kernel says so."""
    done = run("--data-dir", str(tmp_path / "data"), *arguments)

    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "data").exists()


def _powerless(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `coild` as a user to whom permissions apply."""
    powers = ("setpriv", f"--bounding-set={_POWERS}", f"--inh-caps={_POWERS}")
    return ended([*(powers if os.geteuid() == 0 else ()), *command(*arguments)])
