"""Under a service manager: its datagrams, its watchdog, its sockets, and the units themselves."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Self

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coild.process.systemd import Notifier, take_descriptors
from coild.rules.events import SCHEMA, Event, NodeBooted
from journal import read_events
from tests.kits.daemon.process import (
    TIMEOUT_SECONDS,
    Daemon,
    client_of,
    command,
    ended,
    environment,
    listening_sockets,
    wait_for,
)
from tests.kits.plugin.cni import Plugin, new_id
from tests.kits.system.systemd import SERVICE, SOCKET, Systemd, tool

#: Puts descriptors where a service manager would, and becomes the command: $1 their numbers.
_LAUNCH = """
import os, sys
numbers = [int(n) for n in sys.argv[1].split()]
high = [os.dup2(n, 100 + i) for i, n in enumerate(numbers)]
for i, n in enumerate(high):
    os.dup2(n, 3 + i)
    os.close(n)
if "LISTEN_FDS" in os.environ:
    os.environ["LISTEN_PID"] = str(os.getpid())
if "WATCHDOG_USEC" in os.environ and not os.environ.get("WATCHDOG_PID"):
    os.environ["WATCHDOG_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""
BODY = {"pod-namespace": "default", "pod-name": "web-0", "container-id": "c1"}


class Manager:
    """Starts coild as a service manager does, and keeps what it is told; a context manager."""

    def __init__(
        self,
        directory: Path,
        *arguments: str,
        sockets: Sequence[socket.socket] = (),
        abstract: bool = False,
        **variables: str,
    ) -> None:
        self.told: list[str] = []
        self.data_dir = directory / "data"
        self.log_path = directory / "log"
        self._inbox = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._inbox.setblocking(False)
        # A path must be short, and pytest's may be long.
        self._place = tempfile.TemporaryDirectory(prefix="coild-")
        address = f"{self._place.name}/notify"
        self._inbox.bind(f"\0{address}" if abstract else address)
        variables |= {"NOTIFY_SOCKET": f"@{address}" if abstract else address}
        if sockets:
            variables |= {"LISTEN_FDS": str(len(sockets))}
        numbers = [sock.fileno() for sock in sockets]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-c", _LAUNCH, " ".join(map(str, numbers))),
                    *command("--data-dir", str(self.data_dir), "--http", "127.0.0.1:0", *arguments),
                ],
                env=environment(**variables),
                stderr=log,
                pass_fds=numbers,
            )

    @property
    def log(self) -> str:
        """What the daemon said."""
        return self.log_path.read_text()

    def hears(self, text: str) -> bool:
        """Whether an assignment that begins so was told by now."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.told += self._inbox.recv(65536).decode().splitlines()
        return any(line.startswith(text) for line in self.told)

    def wait(self, text: str) -> Self:
        """Wait until an assignment that begins so is told."""
        wait_for(lambda: self.hears(text) or self.process.poll() is not None, text)
        assert self.hears(text), self.log
        return self

    def stop(self) -> int:
        """End coild; its exit status."""
        self.process.terminate()
        return self.process.wait(TIMEOUT_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._inbox.close()
        self._place.cleanup()


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory whose path is short enough for unix sockets."""
    with tempfile.TemporaryDirectory(prefix="coild-") as directory:
        yield Path(directory)


@pytest.fixture
def told(place: Path) -> Iterator[tuple[Notifier, socket.socket]]:
    """What tells a manager, and what that has to read; a read does not wait."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as inbox:
        inbox.bind(str(place / "notify"))
        inbox.setblocking(False)
        yield Notifier({"NOTIFY_SOCKET": str(place / "notify")}), inbox


@pytest.fixture
def tcp() -> Iterator[socket.socket]:
    """A TCP socket that listens on loopback, as a socket unit has it."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


@pytest.fixture
def unix(place: Path) -> Iterator[socket.socket]:
    """A unix socket that listens."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(place / "socket"))
        sock.listen()
        yield sock


def over(sock: socket.socket) -> httpx.Client:
    """Asks over the socket that the test made."""
    name = sock.getsockname()
    return client_of(Path(name) if sock.family == socket.AF_UNIX else "{}:{}".format(*name))


@pytest.mark.parametrize("abstract", [False, True])
def test_it_is_ready_when_it_answers(tmp_path: Path, *, abstract: bool) -> None:
    """READY=1 comes once, when requests are answered; before it that the start goes on."""
    with Manager(tmp_path, abstract=abstract) as manager:
        manager.wait("READY=1")
        address = (manager.data_dir / "http").read_text().strip()
        told = [line for line in manager.told if line.startswith(("READY", "STATUS=listening"))]

        assert httpx.get(f"http://{address}/status").status_code == 200
        assert ["READY=1", f"STATUS=listening on http://{address}"] == told


def test_it_says_that_it_stops(tmp_path: Path) -> None:
    """STOPPING=1 is told at the beginning of an orderly end, after which the status is 0."""
    with Manager(tmp_path) as manager:
        manager.wait("READY=1")
        early = manager.hears("STOPPING=1")
        status = manager.stop()

        assert not early
        assert status == 0
        assert manager.hears("STOPPING=1")


def test_a_recovery_asks_for_time(tmp_path: Path) -> None:
    """While the journal is replayed, the start's time-out is put off and the progress is told."""
    with Daemon(tmp_path / "data") as daemon:
        daemon.allocate("c1")
    with Manager(tmp_path) as manager:
        manager.wait("READY=1")
        before = manager.told[: manager.told.index("READY=1")]

        assert any(line.startswith("STATUS=replaying the journal, ") for line in before)
        assert any(line.startswith("EXTEND_TIMEOUT_USEC=") for line in before)


def test_it_does_not_say_ready_for_a_start_that_fails(tmp_path: Path, tcp: socket.socket) -> None:
    """A daemon that cannot listen ends without READY=1."""
    host, port = tcp.getsockname()
    with Manager(tmp_path, "--http", f"{host}:{port}") as manager:
        status = manager.process.wait(TIMEOUT_SECONDS)

        assert status == 1
        assert not manager.hears("READY=1")


def test_the_watchdog_hears_of_a_live_loop(tmp_path: Path) -> None:
    """WATCHDOG=1 comes at least twice in its interval, and stops with a loop that is stopped."""
    with Manager(tmp_path, WATCHDOG_USEC="400000") as manager:
        manager.wait("READY=1").wait("WATCHDOG=1")
        manager.told.clear()
        started = time.monotonic()
        wait_for(lambda: manager.hears("") and manager.told.count("WATCHDOG=1") >= 5, "pings")
        taken = time.monotonic() - started
        manager.process.send_signal(signal.SIGSTOP)
        time.sleep(0.3)
        manager.hears("")
        manager.told.clear()
        time.sleep(0.5)
        heard = manager.hears("WATCHDOG=1")
        manager.process.send_signal(signal.SIGCONT)

        assert not heard
        # Five at 0.2 s each, not five at once.
        assert taken > 0.5


@pytest.mark.parametrize(
    "variables",
    [
        {"WATCHDOG_USEC": "100000", "WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "-1"},
        {},
    ],
)
def test_a_watchdog_of_others_hears_nothing(variables: dict[str, str]) -> None:
    """Nothing is to be pinged without an interval, or with that of another process."""
    notifier = Notifier(dict(variables))

    assert notifier.watchdog_seconds is None


@pytest.mark.parametrize("address", ["vsock:2:1", "relative", "/nowhere/notify", "@nobody"])
def test_a_manager_that_cannot_be_reached_is_none(address: str) -> None:
    """An address that is no unix socket, or nobody's, keeps no daemon from its work."""
    notifier = Notifier({"NOTIFY_SOCKET": address})
    notifier.ready("here")
    notifier.close()
    notifier.alive()


def test_progress_is_told_once_a_second(told: tuple[Notifier, socket.socket]) -> None:
    """However often a start says that it goes on, a datagram goes out once a second at most."""
    notifier, inbox = told
    started = time.monotonic()
    # Fewer than an inbox holds.
    for _ in range(5):
        notifier.starting("1 %")
    taken = time.monotonic() - started
    notifier.close()
    received = 0
    with contextlib.suppress(BlockingIOError):
        while inbox.recv(4096):
            received += 1

    assert 1 <= received <= 1 + taken


def test_a_manager_that_does_not_read_is_not_waited_for(
    told: tuple[Notifier, socket.socket],
) -> None:
    """With an inbox that is full, pings are dropped at once; what was told before is all there."""
    notifier, inbox = told
    notifier.ready("here")
    # At a second each, longer than any test may take.
    for _ in range(1000):
        notifier.alive()
    notifier.close()
    first, second = inbox.recv(4096), inbox.recv(4096)

    assert b"READY=1\nSTATUS=here" == first
    assert b"WATCHDOG=1" == second


def test_ready_arrives_at_a_manager_that_reads_later_and_nobody_waits_for_it(
    told: tuple[Notifier, socket.socket],
) -> None:
    """With an inbox that is full, READY and STOPPING come in order as soon as there is room."""
    notifier, inbox = told
    for _ in range(1000):
        notifier.alive()
    # Nothing is read before they returned: whoever waits for room would wait in vain.
    notifier.ready("here")
    notifier.stopping("going")
    inbox.settimeout(TIMEOUT_SECONDS)
    received = [inbox.recv(4096)]
    while not received[-1].startswith(b"STOPPING"):
        received.append(inbox.recv(4096))
    notifier.close()

    assert [b"READY=1\nSTATUS=here", b"STOPPING=1\nSTATUS=going"] == received[-2:]
    assert {b"WATCHDOG=1"} == set(received[:-2])


def test_children_are_told_nothing() -> None:
    """What a service manager said is taken out of the environment, whoever it was meant for."""
    names = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
    listen = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    variables = dict.fromkeys((*names, *listen), "1") | {"PATH": "/bin"}
    Notifier(variables)
    descriptors = take_descriptors(variables)

    assert descriptors == []
    assert variables == {"PATH": "/bin"}


@given(
    st.dictionaries(
        st.sampled_from(["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"]),
        st.one_of(st.text(max_size=8), st.sampled_from(["0", str(os.getpid()), "1000", "a:b"])),
    )
)
def test_any_environment_is_taken_or_refused(variables: dict[str, str]) -> None:
    """Whatever the variables hold, they are gone, and the outcome is a list or one ValueError."""
    # So many that one of them is not open.
    if variables.get("LISTEN_FDS", "").isdigit() and variables["LISTEN_FDS"] != "0":
        variables["LISTEN_FDS"] = "999999"
    ours = variables.get("LISTEN_PID") == str(os.getpid())
    good = variables.get("LISTEN_FDS") == "0"
    if ours and not good:
        inheritable = {n: os.get_inheritable(n) for n in _open_descriptors()}
        with pytest.raises(ValueError, match=r"LISTEN_FDS|descriptor"):
            take_descriptors(variables)
        for number, value in inheritable.items():
            os.set_inheritable(number, value)
    else:
        assert take_descriptors(variables) == []

    assert variables == {}


def _open_descriptors() -> list[int]:
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            os.get_inheritable(int(entry.name))
            found.append(int(entry.name))
    return found


def test_inherited_sockets_replace_both(
    tmp_path: Path, place: Path, tcp: socket.socket, unix: socket.socket
) -> None:
    """Sockets of both kinds, in any order, are served; those of the configuration are not made."""
    other = place / "other"
    with Manager(tmp_path, "--socket", str(other), sockets=[unix, tcp]) as manager:
        manager.wait("READY=1")
        with over(tcp) as first, over(unix) as second:
            answers = [first.post("/ip", json=BODY), second.get("/ip/default/web-0/c1")]
        made = other.exists()
        address = (manager.data_dir / "http").read_text().strip()
        status = manager.stop()

        assert [200, 200] == [answer.status_code for answer in answers]
        assert answers[0].json() == answers[1].json()
        assert not made
        host, port = tcp.getsockname()
        assert address == f"{host}:{port}"
        assert f"listening on unix:{unix.getsockname()}" in manager.log
        assert status == 0
        assert Path(unix.getsockname()).is_socket()


def test_who_asks_while_it_is_away_is_answered_later(tmp_path: Path, unix: socket.socket) -> None:
    """A connection made before the start, or between two, waits and is answered."""
    for container in ("c1", "c2"):
        with over(unix) as client:
            client.timeout = TIMEOUT_SECONDS
            answers: list[httpx.Response] = []
            body = BODY | {"container-id": container}
            asking = threading.Thread(
                target=lambda c=client, b=body, a=answers: a.append(c.post("/ip", json=b))
            )
            asking.start()
            with Manager(tmp_path, sockets=[unix]) as manager:
                manager.wait("READY=1")
                asking.join(TIMEOUT_SECONDS)
                status = manager.stop()

        assert [200] == [answer.status_code for answer in answers]
        assert status == 0


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_one_that_is_inherited_replaces_both(
    tmp_path: Path, place: Path, tcp: socket.socket, unix: socket.socket, kind: str
) -> None:
    """With one socket inherited there is no other: a unit with a unix socket opens no TCP."""
    path = place / "own"
    given = tcp if kind == "tcp" else unix
    with Manager(tmp_path, "--socket", str(path), sockets=[given]) as manager:
        manager.wait("READY=1")
        with over(given) as client:
            answer = client.get("/status")
        listening = listening_sockets(manager.process.pid)
        address = (manager.data_dir / "http").read_text().strip()
        made = path.exists()
        manager.stop()

        assert answer.status_code == 200
        assert {kind: 1} == listening
        assert not made
        assert address == (
            "{}:{}".format(*tcp.getsockname()) if kind == "tcp" else f"unix:{unix.getsockname()}"
        )
        assert ("listening on http://" in manager.log) == (kind == "tcp")


def test_off_refuses_an_inherited_tcp_socket(tmp_path: Path, tcp: socket.socket) -> None:
    """What is configured to open no TCP does not serve on a TCP socket that a unit passes."""
    with Manager(tmp_path, "--http", "off", sockets=[tcp]) as manager:
        status = manager.process.wait(TIMEOUT_SECONDS)

        assert status == 2, manager.log
        assert "http: it is off, but a TCP socket on 127.0.0.1:" in manager.log
        assert "ListenStream=" in manager.log


def test_off_takes_an_inherited_unix_socket(tmp_path: Path, unix: socket.socket) -> None:
    """Without TCP, a unix socket that a unit passes is enough."""
    with Manager(tmp_path, "--http", "off", sockets=[unix]) as manager:
        manager.wait("READY=1")
        listening = listening_sockets(manager.process.pid)

        assert {"unix": 1} == listening
        assert manager.stop() == 0


def _datagram(place: Path) -> list[socket.socket]:
    return [socket.socket(socket.AF_INET, socket.SOCK_DGRAM)]


def _silent(place: Path) -> list[socket.socket]:
    return [socket.socket(socket.AF_INET, socket.SOCK_STREAM)]


def _two(place: Path) -> list[socket.socket]:
    return [socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))]


def _remote(place: Path) -> list[socket.socket]:
    return [socket.create_server(("", 0))]


def _netlink(place: Path) -> list[socket.socket]:
    return [socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (_datagram, "descriptor 3 (here): it is no stream socket"),
        (_silent, "descriptor 3 (here): it does not listen"),
        (_two, "descriptor 4 (there): it is the second tcp socket"),
        (_remote, "descriptor 3 (here): 0.0.0.0:"),
        (_netlink, "descriptor 3 (here): it is neither a TCP nor a unix socket"),
    ],
)
def test_what_coild_cannot_listen_on_is_named(
    tmp_path: Path, place: Path, make: object, told: str
) -> None:
    """A descriptor of the wrong kind ends the start with its number, its name and the reason."""
    assert callable(make)
    sockets: list[socket.socket] = make(place)
    with Manager(tmp_path, sockets=sockets, LISTEN_FDNAMES="here:there") as manager:
        status = manager.process.wait(TIMEOUT_SECONDS)

        assert status == 2
        assert f"coild: {told}" in manager.log
        assert len(manager.log.splitlines()) == 1
        assert not manager.data_dir.exists()
    for sock in sockets:
        sock.close()


def test_a_remote_socket_needs_leave(tmp_path: Path) -> None:
    """With --allow-remote, an inherited socket that others can reach is served."""
    with (
        socket.create_server(("", 0)) as sock,
        Manager(tmp_path, "--allow-remote", sockets=[sock]) as manager,
    ):
        manager.wait("READY=1")
        port = sock.getsockname()[1]

        assert httpx.get(f"http://127.0.0.1:{port}/status").status_code == 200


def test_a_file_is_no_socket(tmp_path: Path) -> None:
    """A descriptor that is no socket at all is named, too."""
    (tmp_path / "file").touch()
    with (
        (tmp_path / "file").open() as file,
        Manager(
            tmp_path,
            sockets=[file],  # type: ignore[list-item]
        ) as manager,
    ):
        manager.process.wait(TIMEOUT_SECONDS)

        assert "coild: descriptor 3 (unknown): it is no socket" in manager.log


def test_check_config_takes_nothing(tmp_path: Path, tcp: socket.socket) -> None:
    """--check-config prints the configuration, tells nobody, and leaves the sockets alone."""
    with Manager(tmp_path, "--check-config", sockets=[tcp]) as manager:
        status = manager.process.wait(TIMEOUT_SECONDS)

        assert status == 0
        assert not manager.hears("")


def test_it_is_activated_by_systemds_own_tool(tmp_path: Path, place: Path) -> None:
    """systemd-socket-activate starts the daemon at the first connection, which is answered."""
    path = place / "socket"
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                *tool("systemd-socket-activate"),
                *("-l", str(path), "--fdname=api"),
                *(f"--setenv={name}={value}" for name, value in environment().items()),
                *command("--data-dir", str(tmp_path / "data"), "--http", "127.0.0.1:0"),
            ],
            stderr=log,
        )
    try:
        wait_for(path.exists, "the socket")
        before = (tmp_path / "data").exists()
        with client_of(path) as client:
            answer = client.post("/ip", json=BODY)
        process.terminate()
        status = process.wait(TIMEOUT_SECONDS)
    finally:
        process.kill()
        process.wait()

    assert not before
    assert answer.status_code == 200
    assert status == 0


@pytest.mark.parametrize("unit", [SERVICE, SOCKET], ids=lambda path: path.name)
def test_the_units_are_what_systemd_takes(unit: Path, tmp_path: Path) -> None:
    """systemd-analyze finds nothing to complain of but that the command is not installed here."""
    for file in (SERVICE, SOCKET):
        (tmp_path / file.name).write_text(
            file.read_text().replace("/usr/local/bin/coild", "/bin/true")
        )
    done = ended(
        [*tool("systemd-analyze"), "verify", "--recursive-errors=no", str(tmp_path / unit.name)]
    )

    assert done.stderr + done.stdout == ""
    assert done.returncode == 0


def test_the_service_is_rated_two_or_better() -> None:
    """systemd-analyze security rates the exposure of the service at 2.0 at most."""
    done = ended(
        [*tool("systemd-analyze"), "security", "--offline=true", "--threshold=20", str(SERVICE)]
    )

    assert done.returncode == 0, done.stdout.splitlines()[-1:]


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Systemd]:
    """A systemd for the tests of this module."""
    with Systemd(tmp_path_factory.mktemp("systemd")) as running:
        yield running


@pytest.fixture
def systemd(manager: Systemd) -> Iterator[Systemd]:
    """That systemd with nothing started, nothing failed and no drop-in of a test's."""
    yield manager
    manager.reset()
    manager.configure("")


def test_the_service_serves_under_its_sandbox(systemd: Systemd) -> None:
    """Started, it answers at once, allocates, compacts in a process of its own, and stops well."""
    systemd.systemctl("start", "coild.socket", "coild.service")
    with systemd.client() as client:
        answers = [
            client.post("/ip", json=BODY),
            client.post("/compact"),
            client.get("/health"),
            client.delete("/ip/default/web-0/c1"),
        ]
    status = systemd.show("StatusText")
    systemd.systemctl("stop", "coild.service")

    assert [200, 200, 200, 200] == [answer.status_code for answer in answers]
    assert answers[2].json()["writable"]
    assert "listening on unix:/run/coild/coild.sock" == status
    assert systemd.show("Result") == "success"
    assert " ERROR " not in systemd.log


def test_the_service_has_one_power(systemd: Systemd) -> None:
    """The process is root's, with CAP_NET_ADMIN only, gains no more, and its calls are filtered."""
    systemd.systemctl("start", "coild.service")
    status = systemd.main

    # linux/capability.h: CAP_NET_ADMIN is 12.
    assert [1 << 12] * 3 == [int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")]
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert status["Uid"].split() == ["0"] * 4


#: Removes the routes of blocks, as `ip route flush table 119` does.
FLUSH = "import pyroute2; pyroute2.IPRoute().flush_routes(table=119)"


def test_the_service_sees_boots_and_routes(systemd: Systemd) -> None:
    """Its sandbox leaves it PID 1 and the boot ID, and hears of the routes that others change."""
    systemd.systemctl("start", "coild.socket", "coild.service")
    with systemd.client() as client:
        client.post("/ip", json=BODY)
        wait_for(lambda: client.get("/health").json()["routes"] == "exported", "the routes")
        network = ("nsenter", f"--net={systemd.path('/proc/1/ns/net')}")
        subprocess.run([*network, sys.executable, "-c", FLUSH], check=True, timeout=30)
        wait_for(lambda: "was not as coild left it" in systemd.log, "coild to hear of it")
        client.delete("/ip/default/web-0/c1")
    events = read_events(systemd.path("/var/lib/coild/journal"), Event, schema=SCHEMA, start=None)
    (booted,) = (event for _, event in events if isinstance(event, NodeBooted))

    assert booted.init_start is not None
    assert booted.boot_id
    assert "the kernel does not tell" not in systemd.log


def test_the_directories_are_the_units(systemd: Systemd) -> None:
    """The journal is where the CNI plugin and the tools look, for root only."""
    systemd.systemctl("start", "coild.service")
    state = systemd.path("/var/lib/coild")

    assert state.stat().st_mode & 0o777 == 0o700
    assert (state / "journal").is_dir()
    assert not state.is_symlink()


def test_the_socket_starts_the_service(systemd: Systemd) -> None:
    """With the socket unit alone, the first request starts the daemon and is answered."""
    systemd.systemctl("start", "coild.socket")
    before = systemd.show("ActiveState")
    mode = systemd.path("/run/coild/coild.sock").stat().st_mode & 0o777
    with systemd.client() as client:
        answer = client.get("/status")

    assert before == "inactive"
    assert mode == 0o660
    assert answer.status_code == 200
    assert systemd.show("ActiveState") == "active"


def test_a_restart_refuses_nobody(systemd: Systemd) -> None:
    """Requests one after the other, each on a new connection, all succeed through two restarts."""
    systemd.systemctl("start", "coild.socket", "coild.service")
    done = threading.Event()
    seen: list[int] = []
    failures: list[Exception] = []

    def ask() -> None:
        while not done.is_set():
            try:
                with systemd.client() as client:
                    seen.append(client.get("/status", headers={"Connection": "close"}).status_code)
            except httpx.HTTPError as error:
                failures.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for _ in range(2):
            systemd.systemctl("restart", "coild.service")
            enough = len(seen) + 5
            wait_for(partial(_has, seen, enough), "answers after a restart")
    finally:
        done.set()
        asking.join()

    assert failures == []
    assert {200} == set(seen)


def _has(found: Sequence[object], count: int) -> bool:
    return len(found) > count


def test_a_stuck_service_is_replaced(systemd: Systemd) -> None:
    """The watchdog ends a daemon that is stopped, and the next one holds what was allocated."""
    systemd.configure("[Service]\nWatchdogSec=1s\nRestartSec=100ms\n")
    systemd.systemctl("start", "coild.socket", "coild.service")
    with systemd.client() as client:
        given = client.post("/ip", json=BODY).json()
    stuck = systemd.show("MainPID")
    systemd.systemctl("kill", "--signal=STOP", "coild.service")
    wait_for(lambda: systemd.show("MainPID") not in {stuck, "0"}, "another process")
    with systemd.client() as client:
        found = client.get("/ip/default/web-0/c1").json()
        client.delete("/ip/default/web-0/c1")

    assert given == found
    assert systemd.show("NRestarts") == "1"


def test_a_live_service_outlives_its_watchdog(systemd: Systemd) -> None:
    """A daemon that is idle for several intervals of the watchdog is left alone."""
    systemd.configure("[Service]\nWatchdogSec=500ms\n")
    systemd.systemctl("start", "coild.service")
    process = systemd.show("MainPID")
    time.sleep(2)

    assert process == systemd.show("MainPID")
    assert systemd.show("NRestarts") == "0"


def test_a_wrong_configuration_is_not_tried_again(systemd: Systemd) -> None:
    """A configuration that is refused fails the unit, with the reason, and is not restarted."""
    file = systemd.path("/etc/coild.toml")
    good = file.read_text()
    file.write_text("scan-interval = 'never'\n")
    try:
        systemd.systemctl("start", "coild.service", check=False)
        wait_for(lambda: systemd.show("ActiveState") == "failed", "the failure")
    finally:
        file.write_text(good)

    assert systemd.show("ExecMainStatus") == "2"
    assert systemd.show("NRestarts") == "0"
    assert "/etc/coild.toml: scan-interval: 'never'" in systemd.log


def test_a_killed_service_is_started_again(systemd: Systemd) -> None:
    """A daemon that was killed is back without anyone's doing."""
    systemd.configure("[Service]\nRestartSec=100ms\n")
    systemd.systemctl("start", "coild.socket", "coild.service")
    killed = systemd.show("MainPID")
    systemd.systemctl("kill", "--signal=KILL", "coild.service")
    wait_for(lambda: systemd.show("MainPID") not in {killed, "0"}, "another process")
    with systemd.client() as client:
        answer = client.get("/status")

    assert answer.status_code == 200


@pytest.mark.parametrize("began", [True, False], ids=["stopped", "not started"])
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_what_waited_in_a_full_backlog(
    request: pytest.FixtureRequest, place: Path, executable: Path, kind: str, *, began: bool
) -> None:
    """ADDs whose runtime gave up allocate nothing when coild, activated by socket, reads them."""
    sock: socket.socket = request.getfixturevalue(kind)
    sock.listen(1)
    address = sock.getsockname()
    where = f"unix:{address}" if kind == "unix" else f"http://127.0.0.1:{address[1]}"
    plugin = Plugin(executable, where, place / "spool")
    containers = [new_id() for _ in range(5)]

    def give_up(container: str) -> tuple[int, int]:
        added = plugin.run("ADD", container, timeout=0.5)
        return added.code, plugin.run("DEL", container, timeout=0.5).status

    with contextlib.ExitStack() as stack:
        if began:
            manager = stack.enter_context(Manager(place, sockets=[sock])).wait("READY=1")
            assert plugin.run("STATUS", "").status == 0
            manager.process.send_signal(signal.SIGSTOP)
        with ThreadPoolExecutor(len(containers)) as pool:
            outcomes = list(pool.map(give_up, containers))
        waiting = plugin.entries()
        if began:
            manager.process.send_signal(signal.SIGCONT)
        else:
            manager = stack.enter_context(Manager(place, sockets=[sock])).wait("READY=1")
        last = new_id()
        after = [plugin.run(each, last).status for each in ("ADD", "DEL")]
        events = read_events(manager.data_dir / "journal", Event, schema=SCHEMA)
        # The release of what nobody holds is none, and on no record.
        named = {getattr(event, "container_id", "") for _, event in events}

        assert [(11, 0)] * len(containers) == outcomes
        assert sorted(containers) == waiting
        assert [0, 0] == after
        assert [] == plugin.entries()
        assert last in named
        assert not named & set(containers)
