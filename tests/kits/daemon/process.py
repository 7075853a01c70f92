"""The real daemon, as a process, for tests that talk to it as its users do."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import httpx
import msgspec

from coild.rules.events import SCHEMA, AddressReleased, Event
from coild.rules.projection import Projection
from journal import read_events
from tests.kits.daemon.wire import exchange, request_bytes

ROOT = Path(__file__).parents[3]
#: Longer than any start, stop or answer takes on a slow machine; a test that waits so long fails.
TIMEOUT_SECONDS = 30.0
_LISTENING = re.compile(r"listening on http://([^\s\"]+)")


def command(*arguments: str, module: str = "coild") -> list[str]:
    """The command line of `coild` in this environment."""
    return [sys.executable, "-W", "error", "-m", module, *arguments]


def environment(**variables: str) -> dict[str, str]:
    """The environment without anything that configures coild, but for `variables`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("COIL", "SANIC"))}
    # Absolute: the README's is relative to the checkout, and not every test's process runs there.
    inherited = [str(ROOT / path) for path in kept.get("PYTHONPATH", "").split(os.pathsep) if path]
    return (
        kept
        | {"COILD_EXPORT_ROUTES": "no", "PYTHONPATH": os.pathsep.join([str(ROOT), *inherited])}
        | variables
    )


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `coild` until it ends by itself."""
    return ended(command(*arguments), env=environment(**variables))


def ended(
    words: Sequence[str | Path],
    *,
    env: dict[str, str] | None = None,
    check: bool = False,
    **options: Any,
) -> subprocess.CompletedProcess[str]:
    """Run a command until it ends by itself, with `environment()` if there is no other.

    `options` are those of `subprocess.run`. Raises CalledProcessError if it is to be checked.
    """
    return subprocess.run(
        words,
        env=environment() if env is None else env,
        capture_output=True,
        text=True,
        timeout=2 * TIMEOUT_SECONDS,
        check=check,
        **options,
    )


def client_of(address: str | Path) -> httpx.Client:
    """A client of a TCP address, host and port, or of a unix socket."""
    if isinstance(address, Path):
        transport = httpx.HTTPTransport(uds=str(address))
        return httpx.Client(
            transport=transport, base_url="http://localhost", timeout=TIMEOUT_SECONDS
        )
    return httpx.Client(base_url=f"http://{address}", timeout=TIMEOUT_SECONDS)


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Wait until `condition` holds."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)


def listening_sockets(pid: int) -> dict[str, int]:
    """How many sockets of each kind (tcp, unix) a process listens on, as the kernel has them."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            inodes.update(re.findall(r"socket:\[(\d+)\]", str(entry.readlink())))
    found: dict[str, int] = {}
    for name, kind, state, inode in (
        ("tcp", "tcp", 3, 9),
        ("tcp6", "tcp", 3, 9),
        ("unix", "unix", 3, 6),
    ):
        for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]:
            words = line.split()
            # TCP_LISTEN is 0A; a unix socket that listens has the flag SO_ACCEPTCON.
            if words[state] in {"0A", "00010000"} and words[inode] in inodes:
                found[kind] = found.get(kind, 0) + 1
    return found


def fold(events: Sequence[tuple[int, Any]]) -> Projection:
    """State as a replay finds it. Raises InconsistentEventError, for two holders for instance."""
    state = Projection()
    state.apply_all([event for _, event in events])
    return state


def status_of(state: Projection) -> dict[str, Any]:
    """The body of GET /status that tells of `state`."""
    blocks: dict[str, list[str]] = {}
    for block in state.blocks.values():
        blocks.setdefault(block.pool, []).append(str(block.subnet))
    pods = {container_id: held.address for container_id, held in state.holdings.items()}
    return {"address-blocks": blocks, "pods": pods, "status": 200}


class Daemon:
    """One coild on a data directory and a free port of loopback; a context manager that ends it."""

    #: What is run.
    module = "coild"
    #: The command that executes it, for one that is run in namespaces of its own.
    runner: Sequence[str] = ()

    def __init__(self, data_dir: Path, *arguments: str, **variables: str) -> None:
        self.data_dir = data_dir
        self.log_path = data_dir.with_name(f"{data_dir.name}.log")
        self._arguments: Sequence[str] = arguments
        self._variables = variables
        self.start()

    def start(self) -> None:
        """Start the process, and wait until it serves."""
        before = len(self.log) if self.log_path.exists() else 0
        file = self.data_dir / "http"
        file.unlink(missing_ok=True)

        def address() -> str:
            # A full disk may keep it from the file, a log level from the log.
            found = _LISTENING.search(self.log, before)
            if found:
                return found[1]
            return file.read_text().strip() if file.exists() else ""

        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *self.runner,
                    *command(
                        "--data-dir",
                        str(self.data_dir),
                        "--http",
                        "127.0.0.1:0",
                        *self._arguments,
                        module=self.module,
                    ),
                ],
                env=environment(**self._variables),
                stderr=log,
            )
        try:
            wait_for(lambda: address() or self.process.poll() is not None, "coild to start")
            assert address(), f"coild did not start:\n{self.log}"
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise
        self.address = address()
        host, port = self.address.rsplit(":", 1)
        self.host, self.port = "", 0
        self.place: tuple[str, int] | Path = Path(port)
        if host != "unix":
            self.host, self.port = host.strip("[]"), int(port)
            self.place = self.host, self.port
        self.client = self.new_client()

    @property
    def log(self) -> str:
        """The daemon's stderr so far."""
        return self.log_path.read_text()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End the process with a signal; its exit status."""
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(TIMEOUT_SECONDS)

    def kill(self) -> None:
        """End the process as a crash does."""
        self.stop(signal.SIGKILL)

    def events(self, start: int | None = 1) -> list[tuple[int, Any]]:
        """The journal from `start` on (None: the oldest event left): sequence and event."""
        return list(read_events(self.data_dir / "journal", Event, schema=SCHEMA, start=start))

    def releases(self) -> list[tuple[str, str]]:
        """The releases in the journal, oldest first: container and reason."""
        return [
            (e.container_id, e.reason) for _, e in self.events() if isinstance(e, AddressReleased)
        ]

    def new_client(self) -> httpx.Client:
        """Another client, for a thread."""
        return client_of(self.place if isinstance(self.place, Path) else self.address)

    def ask_by(self, path: Path) -> None:
        """Ask by a unix socket from now on, where TCP is on a lo that goes down."""
        self.client.close()
        self.client = client_of(path)

    def send(self, data: bytes, **how: Any) -> list[httpx.Response]:
        """Send bytes over a connection of their own: see `exchange`."""
        return exchange(self.place, data, **how)

    def ask(
        self, method: str, target: str, body: bytes | None = None, headers: tuple[str, ...] = ()
    ) -> httpx.Response:
        """Send one request with exactly this target."""
        (answer,) = self.send(request_bytes(method, target, body, headers=headers))
        return answer

    def allocate(
        self, container_id: str, pod: str = "web-0", namespace: str = "default", **more: Any
    ) -> httpx.Response:
        """POST /ip."""
        body = {"pod-namespace": namespace, "pod-name": pod, "container-id": container_id, **more}
        return self.client.post("/ip", content=msgspec.json.encode(body))

    def get(
        self, container_id: str, pod: str = "web-0", namespace: str = "default"
    ) -> httpx.Response:
        """GET /ip/…, for names that need no escaping."""
        return self.client.get(f"/ip/{namespace}/{pod}/{container_id}")

    def release(
        self, container_id: str, pod: str = "web-0", namespace: str = "default"
    ) -> httpx.Response:
        """DELETE /ip/…, for names that need no escaping."""
        return self.client.delete(f"/ip/{namespace}/{pod}/{container_id}")

    def status(self) -> dict[str, Any]:
        """The body of GET /status."""
        body: dict[str, Any] = self.client.get("/status").json()
        return body

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
