"""The process around the API: start, stop, its files, its sockets and its log."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from coild.rules.events import SCHEMA, DaemonStarted, DaemonStopped, JournalRepaired, NodeBooted
from journal.format.chain import walk
from journal.format.segments import list_segments
from journal.fs import OsFileSystem
from tests.kits.daemon.process import TIMEOUT_SECONDS, Daemon, run, wait_for
from tests.kits.daemon.wire import (
    address_of,
    allocate_body,
    connect,
    error_of,
    exchange,
    parse_answers,
    request_bytes,
)
from tests.kits.journal.building import frames_of, patched, segments
from tests.kits.system.tool import records

SIGNALS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
STATUS = request_bytes("GET", "/status")
#: The design promises a second to an idle daemon; a busy machine gets another.
STOP_SECONDS_MAX = 2.0


def image(directory: Path) -> dict[str, tuple[int, int, bytes]]:
    """Everything below `directory`: mode, time of change and content."""
    found = {}
    for path in directory.rglob("*"):
        state = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(state.st_mode) else b""
        found[str(path.relative_to(directory))] = (state.st_mode, state.st_mtime_ns, content)
    return found


def is_marked(daemon: Daemon) -> bool:
    """Whether the journal's last frame is a mark: then an idle daemon writes no more."""
    fs = OsFileSystem()
    return walk(fs, list_segments(fs, daemon.data_dir / "journal"), SCHEMA)[-1].found.marked


def complaints(completed: subprocess.CompletedProcess[str]) -> str:
    """The one line that a daemon which did not start ends with."""
    (line,) = [line for line in completed.stderr.splitlines() if line.startswith("coild: ")]
    assert completed.stderr.endswith(f"{line}\n")
    assert "Traceback" not in completed.stderr
    assert completed.stdout == ""
    return line


def receive(sock: socket.socket, answers: int = 1) -> bytes:
    """Read until so many answers are there, or the server has closed the connection."""
    received = b""
    while len(parse_answers(received)) < answers and (more := sock.recv(65536)):
        received += more
    return received


@pytest.fixture
def socket_path() -> Iterator[Path]:
    """A path that is short enough for a unix socket, in a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="coild-") as directory:
        yield Path(directory) / "socket"


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port of loopback that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@SIGNALS
def test_an_idle_daemon_stops_at_once(daemon: Daemon, number: signal.Signals) -> None:
    """A signal ends an idle daemon with status 0, open keep-alive connections or not."""
    connections = [connect((daemon.host, daemon.port)) for _ in range(3)]
    for sock in connections[:2]:
        sock.sendall(STATUS)
        assert b"keep-alive" in receive(sock)
    started = time.monotonic()
    status = daemon.stop(number)
    taken = time.monotonic() - started

    assert status == 0
    assert taken < STOP_SECONDS_MAX
    # One that asked, one that asked nothing: both are closed in order, not reset.
    assert [b"", b"", b""] == [sock.recv(1) for sock in connections]
    for sock in connections:
        sock.close()


@SIGNALS
def test_a_stop_is_journalled_and_marked(daemon: Daemon, number: signal.Signals) -> None:
    """The last event of a stopped daemon says so, and a mark vouches for it."""
    daemon.allocate("cid")
    daemon.stop(number)

    assert isinstance(daemon.events()[-1][1], DaemonStopped)
    assert is_marked(daemon)


def test_a_start_is_journalled(daemon: Daemon) -> None:
    """The journal begins with pools, boot, and the start, with version, node and boot."""
    pools, booted, started = (event for _, event in daemon.events())

    assert ["default"] == list(pools.pools)
    assert isinstance(started, DaemonStarted)
    assert re.fullmatch(r"\d+\.\d+\.\d+", started.version)
    assert started.node_name
    assert re.fullmatch(r"[0-9a-f-]{36}", started.boot_id)
    assert isinstance(booted, NodeBooted)
    assert started.boot_id == booted.boot_id


@SIGNALS
def test_a_request_in_flight_is_finished(daemon: Daemon, number: signal.Signals) -> None:
    """A request that was being sent when the signal came is answered, and its event is durable.

    More signals neither hasten nor break the stop that waits for it.
    """
    request = request_bytes("POST", "/ip", allocate_body("cid", "web-0"))
    with connect((daemon.host, daemon.port)) as sock:
        sock.sendall(request[:-10])
        daemon.status()
        daemon.process.send_signal(number)
        wait_for(lambda: "stopping" in daemon.log, "the daemon to take the signal")
        daemon.process.send_signal(signal.SIGTERM)
        daemon.process.send_signal(signal.SIGINT)
        sock.sendall(request[-10:])
        address_of(parse_answers(receive(sock))[0])
        daemon.process.send_signal(number)

    assert daemon.process.wait(STOP_SECONDS_MAX) == 0
    assert daemon.events()[-2][1].container_id == "cid"
    assert isinstance(daemon.events()[-1][1], DaemonStopped)
    assert daemon.log.count("stopping") == 1


@SIGNALS
def test_signals_until_the_very_end_change_nothing(daemon: Daemon, number: signal.Signals) -> None:
    """However late another signal comes, the process ends with status 0."""
    daemon.client.close()
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while daemon.process.poll() is None and time.monotonic() < deadline:
        daemon.process.send_signal(number)
        time.sleep(0.001)

    assert daemon.process.returncode == 0


def test_a_stopping_daemon_accepts_nobody(daemon: Daemon) -> None:
    """From the signal on, no new connection is accepted, though an old one is still served."""
    with connect((daemon.host, daemon.port)) as sock:
        sock.sendall(request_bytes("POST", "/ip", b"{}")[:-1])
        daemon.status()
        daemon.process.send_signal(signal.SIGTERM)
        wait_for(lambda: "stopping" in daemon.log, "the daemon to take the signal")

        def refused() -> bool:
            try:
                connect((daemon.host, daemon.port)).close()
            except ConnectionRefusedError:
                return True
            return False

        wait_for(refused, "connections to be refused")
        sock.sendall(b"}")
        error_of(parse_answers(receive(sock))[0], 400)

    assert daemon.process.wait(STOP_SECONDS_MAX) == 0


def test_a_second_daemon_touches_nothing(daemon: Daemon) -> None:
    """A second daemon on a data directory says who has it, in one line, and changes no byte."""
    daemon.allocate("cid")
    wait_for(lambda: is_marked(daemon), "the mark of an idle journal")
    before = image(daemon.data_dir)
    completed = run("--data-dir", str(daemon.data_dir), "--http", "127.0.0.1:0")
    line = complaints(completed)

    assert completed.returncode == 1
    assert str(daemon.process.pid) in line
    assert str(daemon.data_dir) in line
    assert line == completed.stderr.strip()
    assert before == image(daemon.data_dir)
    assert daemon.get("cid").status_code == 200


def test_a_repair_waits_for_a_start_that_has_its_port(tmp_path: Path, taken_port: int) -> None:
    """A start that fails for its port changes nothing; the next one repairs, and journals that."""
    data_dir = tmp_path / "data"
    with Daemon(data_dir) as daemon:
        daemon.allocate("cid")
        daemon.stop()
    (segment,) = segments(data_dir / "journal")
    data = segment.read_bytes()
    _, frames = frames_of(data)
    segment.write_bytes(patched(data, frames[-1].end, b"torn"))
    before = {path.name: path.read_bytes() for path in segment.parent.iterdir()}
    completed = run("--data-dir", str(data_dir), "--http", f"127.0.0.1:{taken_port}")
    after = {path.name: path.read_bytes() for path in segment.parent.iterdir()}
    with Daemon(data_dir) as daemon:
        (kept,) = segment.parent.glob("*.torn-*")
        repairs = [event for _, event in daemon.events() if isinstance(event, JournalRepaired)]

    assert completed.returncode == 1
    assert before == after
    assert [(segment.name, frames[-1].end, 4, kept.name)] == [
        (repair.segment, repair.offset, repair.size, repair.kept) for repair in repairs
    ]
    assert b"torn" == kept.read_bytes()


def test_a_taken_port_is_named(tmp_path: Path, taken_port: int) -> None:
    """A port that is taken ends the start with status 1, the key and the address, no event."""
    data_dir = tmp_path / "data"
    completed = run("--data-dir", str(data_dir), "--http", f"127.0.0.1:{taken_port}")
    line = complaints(completed)

    assert completed.returncode == 1
    assert "http" in line.partition("127")[0]
    assert f"127.0.0.1:{taken_port}" in line
    assert not (data_dir / "http").exists()
    with Daemon(data_dir) as daemon:
        assert [1, 2, 3] == [sequence for sequence, _ in daemon.events()]


@pytest.mark.parametrize("http", ["0.0.0.0:0", "[::]:0", ":0", "192.0.2.1:0", "[2001:db8::1]:0"])
def test_an_address_that_is_not_loopback_is_refused(tmp_path: Path, http: str) -> None:
    """Without --allow-remote, an address others may reach is status 2, and nothing is made."""
    completed = run("--data-dir", str(tmp_path / "data"), "--http", http)

    assert completed.returncode == 2
    assert "--allow-remote" in complaints(completed)
    assert not (tmp_path / "data").exists()


def test_an_address_that_is_not_the_machines_is_named(tmp_path: Path) -> None:
    """An address that the machine does not have is status 1 and named."""
    # 192.0.2.0/24 is for documentation (RFC 5737): no machine has it.
    completed = run("--data-dir", str(tmp_path / "data"), "--http", "192.0.2.1:0", "--allow-remote")

    assert completed.returncode == 1
    assert "192.0.2.1" in complaints(completed)


@pytest.mark.parametrize("http", ["127.0.0.1:0", "[::1]:0", "localhost:0", "127.1.2.3:0"])
def test_the_address_in_use_is_written_down(tmp_path: Path, http: str) -> None:
    """`<data-dir>/http` has the address with the port that was picked, until the daemon stops."""
    with Daemon(tmp_path / "data", "--http", http) as daemon:
        content = (daemon.data_dir / "http").read_text()
        host = http.replace("localhost", "127.0.0.1").rpartition(":")[0]

        assert re.fullmatch(re.escape(host) + r":[1-9]\d*\n", content)
        assert f"listening on http://{content.strip()}\n" in daemon.log
        assert daemon.status()["status"] == 200
        daemon.stop()
        assert not (daemon.data_dir / "http").exists()


def test_the_port_is_free_for_the_next_at_once(tmp_path: Path) -> None:
    """After a crash with open connections, the same port can be listened on again."""
    with Daemon(tmp_path / "data") as daemon:
        sock = connect((daemon.host, daemon.port))
        sock.sendall(STATUS)
        receive(sock)
        address = daemon.address
        daemon.kill()
        with Daemon(tmp_path / "data", "--http", address) as again:
            assert address == again.address
        sock.close()


def test_all_is_the_owners_alone(tmp_path: Path) -> None:
    """The data directory has mode 0700 and its files 0600, whatever the umask is."""
    umask = os.umask(0)
    try:
        with Daemon(tmp_path / "data", "--segment-size=1MiB") as daemon:
            journal = daemon.data_dir / "journal"
            wait_for((journal / "spare.tmp").exists, "the spare segment")
            modes = {
                str(path.relative_to(daemon.data_dir)): oct(stat.S_IMODE(path.lstat().st_mode))
                for path in daemon.data_dir.rglob("*")
            }

            assert oct(0o700) == oct(stat.S_IMODE(daemon.data_dir.stat().st_mode))
            assert {
                "http": "0o600",
                "journal": "0o700",
                "journal/00000000000000000001.seg": "0o600",
                "journal/LOCK": "0o600",
                "journal/spare.tmp": "0o600",
            } == modes
    finally:
        os.umask(umask)


def test_a_data_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A data directory below a file is status 1 and named."""
    (tmp_path / "file").touch()
    completed = run("--data-dir", str(tmp_path / "file" / "data"), "--http", "127.0.0.1:0")
    line = complaints(completed)

    assert completed.returncode == 1
    assert "data-dir" in line
    assert str(tmp_path / "file" / "data") in line


def test_a_corrupt_journal_is_refused(tmp_path: Path) -> None:
    """A damaged journal ends the start with status 1; a line has file, offset and command."""
    with Daemon(tmp_path / "data", "--segment-size=1MiB") as daemon:
        daemon.allocate("first")
        daemon.allocate("second")
        daemon.stop()
    (segment,) = (daemon.data_dir / "journal").glob("*.seg")
    data = bytearray(segment.read_bytes())
    place = data.index(b"first")
    data[place] ^= 1
    segment.write_bytes(data)
    before = image(daemon.data_dir)
    completed = run("--data-dir", str(daemon.data_dir), "--http", "127.0.0.1:0")
    line = complaints(completed)
    offset = int(re.findall(r"offset (\d+)", line)[0])

    assert completed.returncode == 1
    assert str(segment) in line
    assert place - 200 < offset < place
    assert f"coild-verify --data-dir {daemon.data_dir}" in line
    after = image(daemon.data_dir)
    # Whoever had the lock last is written there.
    lock = "journal/LOCK"
    assert before | {lock: after[lock]} == after


def test_a_torn_journal_is_repaired_and_told(tmp_path: Path) -> None:
    """What a crash left of an unanswered write is set aside, journalled and logged; then served."""
    with Daemon(tmp_path / "data", "--segment-size=1MiB") as daemon:
        daemon.allocate("cid")
        daemon.kill()
        (segment,) = (daemon.data_dir / "journal").glob("*.seg")
        data = segment.read_bytes()
        end = len(data.rstrip(b"\0")) + 7 & ~7
        segment.write_bytes(data[:end] + b"torn" + data[end + 4 :])
        daemon.start()
        kept = list((daemon.data_dir / "journal").glob("*.torn-*"))
        repairs = [event for _, event in daemon.events() if hasattr(event, "kept")]

        assert [b"torn"] == [path.read_bytes() for path in kept]
        assert [kept[0].name] == [repair.kept for repair in repairs]
        assert [(segment.name, end, 4)] == [(r.segment, r.offset, r.size) for r in repairs]
        assert str(kept[0]) in daemon.log
        assert daemon.get("cid").status_code == 200


def test_a_unix_socket_is_served(tmp_path: Path, socket_path: Path) -> None:
    """With --socket, the same API is served on a unix socket of mode 0660, gone at the end."""
    with Daemon(tmp_path / "data", "--socket", str(socket_path)) as daemon:
        request = request_bytes("POST", "/ip", allocate_body("cid", "web-0"))
        (answer,) = exchange(socket_path, request)

        assert oct(0o660) == oct(stat.S_IMODE(socket_path.stat().st_mode))
        assert address_of(answer) == address_of(daemon.get("cid"))
        assert daemon.stop() == 0
        assert not socket_path.exists()


def test_idle_connections_of_a_unix_socket_do_not_hold_a_stop(
    tmp_path: Path, socket_path: Path
) -> None:
    """A keep-alive connection on the unix socket is closed at once, as one over TCP."""
    with (
        Daemon(tmp_path / "data", "--socket", str(socket_path)) as daemon,
        connect(socket_path) as sock,
    ):
        sock.sendall(STATUS)
        receive(sock)
        started = time.monotonic()

        assert daemon.stop() == 0
        assert time.monotonic() - started < STOP_SECONDS_MAX
        assert sock.recv(1) == b""


def test_a_live_socket_is_not_replaced(tmp_path: Path, socket_path: Path) -> None:
    """A socket that another coild serves ends the start with status 1, and goes on being served."""
    with Daemon(tmp_path / "one", "--socket", str(socket_path)):
        inode = socket_path.stat().st_ino
        arguments = ("--data-dir", str(tmp_path / "two"), "--http", "127.0.0.1:0")
        completed = run(*arguments, "--socket", str(socket_path))

        assert completed.returncode == 1
        assert str(socket_path) in complaints(completed)
        assert inode == socket_path.stat().st_ino
        assert len(exchange(socket_path, STATUS)) == 1


def test_a_live_socket_of_another_program_is_not_replaced(
    tmp_path: Path, socket_path: Path
) -> None:
    """A socket that any program listens on ends the start with status 1, and is left alone."""
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(socket_path))
        other.listen()
        inode = socket_path.stat().st_ino
        arguments = ("--data-dir", str(tmp_path / "data"), "--http", "127.0.0.1:0")
        completed = run(*arguments, "--socket", str(socket_path))

        assert completed.returncode == 1
        assert str(socket_path) in complaints(completed)
        assert inode == socket_path.stat().st_ino


def test_a_dead_socket_is_replaced(tmp_path: Path, socket_path: Path) -> None:
    """The socket that a crash left behind does not keep the next daemon from starting."""
    with Daemon(tmp_path / "data", "--socket", str(socket_path)) as daemon:
        daemon.kill()
        assert socket_path.exists()
        daemon.start()

        assert len(exchange(socket_path, STATUS)) == 1


def test_what_is_no_socket_is_left_alone(tmp_path: Path, socket_path: Path) -> None:
    """A file at the socket's path ends the start with status 1, and keeps its content."""
    socket_path.write_text("precious")
    arguments = ("--data-dir", str(tmp_path / "data"), "--http", "127.0.0.1:0")
    completed = run(*arguments, "--socket", str(socket_path))

    assert completed.returncode == 1
    assert str(socket_path) in complaints(completed)
    assert socket_path.read_text() == "precious"


@pytest.mark.parametrize(
    ("name", "word", "status"),
    [("a" * 120, "107", 2), ("missing/socket", "No such file", 1)],
    ids=["long", "lost"],
)
def test_a_socket_path_that_cannot_be_is_named(
    tmp_path: Path, socket_path: Path, name: str, word: str, status: int
) -> None:
    """A path that is too long is status 2, one in no directory 1; either says why."""
    arguments = ("--data-dir", str(tmp_path / "data"), "--http", "127.0.0.1:0")
    completed = run(*arguments, "--socket", str(socket_path.parent / name))
    line = complaints(completed)

    assert completed.returncode == status
    assert "socket" in line
    assert word in line


def test_the_embedded_default_says_what_it_chose(daemon: Daemon) -> None:
    """Who configured nothing reads the pools, where the journal is, and what to curl."""
    for words in (
        "10.64.0.0/16",
        "fd00:64::/64",
        f"the journal is in {daemon.data_dir / 'journal'}",
        f"curl -s http://{daemon.address}/status",
        "replayed 0 events from 1 segments",
    ):
        assert words in daemon.log


def test_a_plain_log_has_a_line_an_entry(daemon: Daemon) -> None:
    """Each line has time, level and message, also when a client sends line breaks."""
    daemon.ask("DELETE", "/ip/a/b/%0A%ff")
    daemon.ask("GET", "/ip/a/b/c%0Ad")
    daemon.stop()

    for line in daemon.log.splitlines():
        assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (INFO|WARNING|ERROR) +\S", line)
    assert "c\\nd" in daemon.log


def test_a_json_log_has_an_object_a_line(tmp_path: Path) -> None:
    """With --log-format json each line is an object with an RFC 3339 time in UTC."""
    with Daemon(tmp_path / "data", "--log-format", "json") as daemon:
        daemon.ask("GET", "/ip/a/b/c%0Ad")
        daemon.stop()
    entries = records(daemon.log)

    assert len(entries) > 3
    for entry in entries:
        assert {"time", "level", "logger", "message"} == set(entry)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", entry["time"])
        assert entry["level"] in {"info", "warning"}


def test_a_log_level_hides_what_is_below(tmp_path: Path) -> None:
    """With --log-level warning a daemon that fares well says nothing."""
    with Daemon(tmp_path / "data", "--log-level", "warning") as daemon:
        daemon.ask("GET", "/nowhere")
        assert daemon.stop() == 0

    assert daemon.log == ""


@pytest.mark.parametrize(("names", "mode"), [((), 0o700), (("other",), 0o755)])
def test_a_data_directory_that_is_there_becomes_coild_s_alone(
    tmp_path: Path, names: tuple[str, ...], mode: int
) -> None:
    """An empty directory is closed to others, one that holds anything else is left as it is."""
    path = tmp_path / "data"
    path.mkdir(mode=0o755)
    path.chmod(0o755)
    for name in names:
        (path / name).touch()
    with Daemon(path):
        found = stat.S_IMODE(path.stat().st_mode)
        journal = stat.S_IMODE((path / "journal").stat().st_mode)

    assert mode == found
    assert journal == 0o700
