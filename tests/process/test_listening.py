"""Where coild listens: no TCP at all, one address, or several on one port."""

from __future__ import annotations

import os
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from coild.config.endpoint import Endpoint
from coild.process.tcp import bind_all
from tests.kits.daemon.process import Daemon, command, ended, listening_sockets, run
from tests.kits.daemon.wire import address_of, exchange, request_bytes

#: A user that owns nothing.
_NOBODY = 65534
_CONNECT = """
import os, socket, sys
os.setgroups([])
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[2]))
sock = socket.socket(socket.AF_UNIX)
try:
    sock.connect(sys.argv[1])
except OSError as error:
    print(error.strerror)
"""


@pytest.fixture
def path() -> Iterator[Path]:
    """A path that is short enough for a unix socket, where anybody may look."""
    with tempfile.TemporaryDirectory(prefix="coild-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory) / "coild.sock"


@pytest.mark.parametrize("how", ["flag", "environment", "file"])
def test_off_is_no_tcp_at_all(tmp_path: Path, path: Path, how: str) -> None:
    """With TCP off, only the unix socket is open; the file `http` and the log say so."""
    file = tmp_path / "coild.toml"
    file.write_text('http = "off"\n' if how == "file" else "")
    line = ["--config", str(file), "--data-dir", str(tmp_path / "data"), "--socket", str(path)]
    if how == "flag":
        with Daemon(tmp_path / "data", "--http", "off", "--socket", str(path)) as daemon:
            listening = listening_sockets(daemon.process.pid)
            address = (tmp_path / "data" / "http").read_text()
            allocated = daemon.allocate("c1")
            mode = stat.S_IMODE(path.stat().st_mode)

            assert {"unix": 1} == listening
            assert f"unix:{path}\n" == address
            assert address_of(allocated)
            assert mode == 0o660
            assert f"listening on unix:{path}\n" in daemon.log
            assert "http://127" not in daemon.log
            assert f"--unix-socket {path} http://localhost/status" in daemon.log
            assert daemon.stop() == 0
        return
    variables = {"COILD_HTTP": "off"} if how == "environment" else {}
    shown = run(*line, "--check-config", **variables)

    assert (0, "") == (shown.returncode, shown.stderr)
    assert 'http = "off"\n' in shown.stdout


@pytest.mark.parametrize("data_dir", ["data"])
def test_off_needs_a_unix_socket(tmp_path: Path, data_dir: str) -> None:
    """Without TCP and without a unix socket there is nothing to serve on: exit 2, with advice."""
    done = run("--http", "off", "--data-dir", str(tmp_path / data_dir))

    assert done.returncode == 2
    assert "--http: TCP is off" in done.stderr
    assert "--socket PATH" in done.stderr
    assert not (tmp_path / data_dir).exists()


def test_a_passed_socket_that_is_none_is_no_unix_socket(tmp_path: Path) -> None:
    """What the variables of socket activation promise is looked at, not believed."""
    done = run("--http", "off", "--data-dir", str(tmp_path / "data"), LISTEN_FDS="1")

    assert done.returncode == 2
    assert "there is no unix socket" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_a_user_without_rights_cannot_even_ask(tmp_path: Path, path: Path) -> None:
    """With TCP off, a local user who is neither root nor of its group reaches nothing."""
    with Daemon(tmp_path / "data", "--http", "off", "--socket", str(path)) as daemon:
        daemon.allocate("c1")
        tried = ended([sys.executable, "-IS", "-c", _CONNECT, str(path), str(_NOBODY)], check=True)

        assert tried.stdout == "Permission denied\n"
        assert {"unix": 1} == listening_sockets(daemon.process.pid)
        assert {"c1"} == set(daemon.status()["pods"])


def test_the_tool_that_asks_the_daemon_finds_its_unix_socket(tmp_path: Path, path: Path) -> None:
    """coild-compact works beside a daemon that opens no TCP."""
    with Daemon(tmp_path / "data", "--http", "off", "--socket", str(path)) as daemon:
        daemon.allocate("c1")
        done = ended(command("--data-dir", str(tmp_path / "data"), module="tools.compact"))

        assert (0, "") == (done.returncode, done.stderr)
        assert "1 segments archived" in done.stdout


def test_localhost_is_both_families_on_one_port(tmp_path: Path) -> None:
    """Who asks localhost is answered, whichever address that is for them."""
    with Daemon(tmp_path / "data", "--http", "localhost:0") as daemon:
        asked = request_bytes("GET", "/status")
        (first,) = exchange(("127.0.0.1", daemon.port), asked)
        (second,) = exchange(("::1", daemon.port), asked)
        address = (tmp_path / "data" / "http").read_text()

        assert (200, 200) == (first.status_code, second.status_code)
        assert {"tcp": 2} == listening_sockets(daemon.process.pid)
        assert f"127.0.0.1:{daemon.port}\n" == address
        for host in ("127.0.0.1", "[::1]"):
            assert f"listening on http://{host}:{daemon.port}\n" in daemon.log


@pytest.mark.parametrize("how", ["flag", "environment", "file"])
def test_several_addresses(tmp_path: Path, how: str) -> None:
    """Addresses in a list are all listened on; with port 0, on one port that is free for all."""
    file = tmp_path / "coild.toml"
    file.write_text('http = ["127.0.0.1:0", "[::1]:0", "127.0.0.2:0"]\n' if how == "file" else "")
    text = "127.0.0.1:0, [::1]:0,127.0.0.2:0"
    arguments = ("--http", text) if how == "flag" else ()
    variables = {"COILD_HTTP": text} if how == "environment" else {}
    if how != "flag":
        # The kit's own flag would win.
        shown = run("--config", str(file), "--check-config", **variables)

        assert 'http = [\n    "127.0.0.1:0",\n    "[::1]:0",\n    "127.0.0.2:0",\n]' in shown.stdout
        return
    with Daemon(tmp_path / "data", *arguments) as daemon:
        asked = request_bytes("GET", "/status")
        hosts = ("127.0.0.1", "::1", "127.0.0.2")
        answers = [exchange((host, daemon.port), asked) for host in hosts]

        assert [200] * 3 == [answer.status_code for (answer,) in answers]
        assert {"tcp": 3} == listening_sockets(daemon.process.pid)
        assert daemon.stop() == 0


def test_of_several_addresses_the_taken_one_is_named(tmp_path: Path) -> None:
    """One address that another has is enough to refuse, and which one it is stands there."""
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        port = taken.getsockname()[1]
        done = run("--data-dir", str(tmp_path / "data"), "--http", f"localhost:{port}")

    assert done.returncode != 0
    assert f"[::1]:{port} is taken" in done.stderr


def test_localhost_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the machine has no IPv6, localhost is IPv4 alone."""
    real = socket.socket

    def without_ipv6(family: int, kind: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return real(family, kind)

    monkeypatch.setattr("coild.process.tcp.socket.socket", without_ipv6)
    sockets = bind_all((Endpoint("localhost", 0),))
    families = [sock.family for sock in sockets]
    for sock in sockets:
        sock.close()

    assert [socket.AF_INET] == families
