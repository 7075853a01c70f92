"""The daemon's disk fails: nobody is told of success, it ends, and the next start has it all."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from coild.rules.events import DaemonStarted, DaemonStopped
from tests.kits.daemon.process import TIMEOUT_SECONDS, Daemon, fold, status_of, wait_for
from tests.kits.daemon.wire import (
    AsyncConnection,
    allocate_body,
    error_of,
    request_bytes,
    target_of,
)
from tests.kits.variants import failing_daemon

CLIENTS = 12


class FailingDaemon(Daemon):
    """A coild whose disk fails on demand."""

    module = failing_daemon.__name__


class Client:
    """Allocates and releases by turns, and keeps what it was told."""

    def __init__(self, number: int) -> None:
        self.number = number
        #: Address by container, for those that hold one.
        self.held: dict[str, str] = {}
        #: The container of the request that was no success, and what was said of it.
        self.failed = ""
        self.error: dict[str, Any] = {}

    async def run(self, address: tuple[str, int]) -> None:
        """Ask until an answer is no success."""
        connection = await AsyncConnection.open(address)
        try:
            for count in itertools.count():
                oldest = next(iter(self.held)) if count % 4 == 3 else ""
                self.failed = oldest or f"{self.number}-{count}"
                status, body = await connection.ask(
                    request_bytes("DELETE", target_of(oldest, "web-0"))
                    if oldest
                    else request_bytes("POST", "/ip", allocate_body(self.failed, "web-0"))
                )
                if status != 200:
                    self.error = body
                    return
                if oldest:
                    assert self.held.pop(oldest) == body["address"]
                else:
                    self.held[self.failed] = body["address"]
        except (OSError, EOFError):
            # Asked when the daemon was on its way out already.
            return
        finally:
            connection.drop()


@pytest.fixture(name="failing")
def failing_fixture(tmp_path: Path) -> Iterator[FailingDaemon]:
    """A daemon whose disk is well so far."""
    variables = {failing_daemon.VARIABLE: str(tmp_path / "failure")}
    with FailingDaemon(tmp_path / "data", "--segment-size=1MiB", **variables) as running:
        yield running


def fail(daemon: Daemon, call: str) -> Path:
    """Have the disk fail from now on."""
    path = daemon.data_dir.with_name("failure")
    # By a rename: nobody sees half of it.
    path.with_suffix(".new").write_text(call)
    return path.with_suffix(".new").rename(path)


@pytest.mark.parametrize("call", ["write", "sync_data"])
def test_a_disk_that_fails_ends_the_daemon(failing: FailingDaemon, call: str) -> None:
    """Requests get 500 with the reason, the process exits with 1, the next start has it all."""
    daemon = failing
    clients = [Client(number) for number in range(CLIENTS)]

    async def load() -> Path:
        running = [client.run((daemon.host, daemon.port)) for client in clients]
        gathered = asyncio.gather(*running)
        await asyncio.sleep(0.5)
        path = fail(daemon, call)
        await gathered
        return path

    path = asyncio.run(load())

    errors = [client.error for client in clients if client.error]
    assert errors
    for error in errors:
        assert error["status"] == 500
        assert "writing the journal" in error["error"]
        assert "Input/output error" in error["error"]
    assert daemon.process.wait(TIMEOUT_SECONDS) == 1
    assert "stopped because the journal failed; what was answered is safe" in daemon.log
    assert "Traceback" not in daemon.log

    path.unlink()
    daemon.client.close()
    daemon.start()
    pods = daemon.status()["pods"]
    events = daemon.events()
    assert status_of(fold(events)) == daemon.status()
    # It ended by no stop in good order, so none is on record.
    starts = [type(e) for _, e in events if isinstance(e, DaemonStarted | DaemonStopped)]
    assert starts == [DaemonStarted, DaemonStarted]
    for client in clients:
        assert len(client.held) > 1
        # What was no success may have happened or not.
        found = {key: at for key, at in pods.items() if key.startswith(f"{client.number}-")}
        for holdings in (found, client.held):
            holdings.pop(client.failed, None)
        assert client.held == found


def test_reads_and_probes_wait_for_no_flush(failing: FailingDaemon) -> None:
    """While a flush hangs, what only asks is answered, as of before it; afterwards, as of then."""
    daemon = failing
    assert daemon.allocate("old").is_success
    before = daemon.status()
    sequence = daemon.client.get("/health").json()["sequence"]
    path = fail(daemon, "hang")
    with daemon.new_client() as client, ThreadPoolExecutor(1) as pool:
        posted = pool.submit(client.post, "/ip", content=allocate_body("new", "web-0"))
        try:
            wait_for(path.with_suffix(".hangs").exists, "a flush to hang")
            address = before["pods"]["old"]

            assert daemon.get("old").json()["address"] == address
            assert daemon.client.get("/containers/old").json()["address"] == address
            assert daemon.get("new").status_code == 404
            assert daemon.client.get("/containers/new").status_code == 404
            assert daemon.status() == before
            assert daemon.client.get("/health").json()["sequence"] == sequence
            assert daemon.client.get("/livez").is_success
            assert daemon.client.get("/readyz").is_success
            assert not posted.done()
        finally:
            path.unlink()
        address = posted.result(TIMEOUT_SECONDS).json()["address"]

    assert daemon.get("new").json()["address"] == address
    assert daemon.status()["pods"] == {**before["pods"], "new": address}
    assert daemon.client.get("/health").json()["sequence"] == sequence + 1


def test_no_read_waits_for_a_collection_that_waits_for_a_flush(failing: FailingDaemon) -> None:
    """A long list keeps others from what needs memory for as long as it is read, not longer."""
    daemon = failing
    daemon.allocate("old")
    before = daemon.status()
    body = {"sequence": daemon.client.get("/health").json()["sequence"], "valid": ["c" * 64] * 200}
    path = fail(daemon, "hang")
    with daemon.new_client() as client, ThreadPoolExecutor(1) as pool:
        posted = pool.submit(client.post, "/gc", json=body)
        try:
            wait_for(path.with_suffix(".hangs").exists, "a flush to hang")

            assert daemon.status() == before
            assert not posted.done()
        finally:
            path.unlink()
        released = posted.result(TIMEOUT_SECONDS).json()["released"]

    assert ["old"] == [each["container-id"] for each in released]


def test_a_lone_client_is_told_of_a_disk_that_fails(failing: FailingDaemon) -> None:
    """One caller alone is told as well, however many of its events went well before."""
    for number in range(40):
        assert failing.allocate(f"c{number}").is_success
    fail(failing, "sync_data")

    assert "Input/output error" in error_of(failing.allocate("late"), 500)
    assert failing.process.wait(TIMEOUT_SECONDS) == 1
