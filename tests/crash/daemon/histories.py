"""Concurrent clients of a real daemon, with the answers they got, and when.

Few containers, shared by all clients, on a pool with fewer addresses than containers: so each kind
of refusal occurs now and then. Some clients hang up, and sometimes the daemon is killed.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from pathlib import Path
from typing import Any

from tests.crash.daemon import fragile_daemon
from tests.crash.daemon.linear import Kind, Model, Operation, State
from tests.kits.daemon.process import Daemon
from tests.kits.daemon.wire import AsyncConnection, allocate_body, request_bytes, target_of

CLIENTS = 5
OPERATIONS = 8
MODEL = Model(containers=6, addresses=4)
#: A pool of four addresses, given out again at once.
ARGUMENTS = (
    "--pool=default=10.64.0.0/30",
    "--block-size=2",
    "--reuse-after=0",
    "--segment-size=1MiB",
    "--compact-after=1MiB",
)
_WEIGHTS = {Kind.POST: 5, Kind.DELETE: 3, Kind.GET: 3, Kind.STATUS: 1}
_HANGS_UP = 0.06


class FragileDaemon(Daemon):
    """A coild whose disk loses all unflushed writes when the process ends."""

    module = fragile_daemon.__name__


def daemon_for_histories(data_dir: Path) -> Daemon:
    """The daemon that the histories are of."""
    return Daemon(data_dir, *ARGUMENTS)


def fragile_daemon_for_histories(data_dir: Path, fault: str = "") -> Daemon:
    """One for which a kill is a power cut; with a fault of `daemon_faults`, if one is named."""
    return FragileDaemon(data_dir, *ARGUMENTS, **{fragile_daemon.FAULT_VARIABLE: fault})


def record(daemon: Daemon, number: int, seed: int, *, kill: bool = False) -> list[Operation]:
    """The history `number`, of containers of its own; with `kill`, the daemon dies on the way.

    Afterwards the daemon runs and none of the containers has an address.
    """
    choice = random.Random(f"{seed} {number}")  # noqa: S311
    operations: list[Operation] = []
    asyncio.run(_run(daemon, number, choice, operations, kill=kill))
    if kill:
        daemon.process.wait()
        daemon.client.close()
        daemon.start()
        # What survived is part of the history: these requests come after all others.
        asyncio.run(_look(daemon, number, operations))
    for container in range(MODEL.containers):
        daemon.release(_name(number, container))
    return operations


async def _run(
    daemon: Daemon, number: int, choice: random.Random, operations: list[Operation], *, kill: bool
) -> None:
    clients = [
        _Client(daemon, number, random.Random(choice.random()), operations)  # noqa: S311
        for _ in range(CLIENTS)
    ]
    running = [asyncio.create_task(client.run()) for client in clients]
    if kill:
        enough = choice.randrange(1, CLIENTS * OPERATIONS * 3 // 4)
        # A client that fails ends: then there may never be enough.
        while len(operations) < enough and not all(task.done() for task in running):
            await asyncio.sleep(0)
        daemon.process.kill()
    ended = await asyncio.gather(*running, return_exceptions=True)
    # So that connections that were hung up are closed before the loop is.
    await asyncio.sleep(0.001)
    for each in ended:
        if isinstance(each, BaseException):
            raise each


async def _look(daemon: Daemon, number: int, operations: list[Operation]) -> None:
    client = _Client(daemon, number, random.Random(0), operations)  # noqa: S311
    try:
        for container in range(MODEL.containers):
            await client.ask(Kind.GET, container)
        await client.ask(Kind.STATUS, 0)
    finally:
        client.hang_up()
        await asyncio.sleep(0.001)


class _Client:
    def __init__(
        self, daemon: Daemon, number: int, choice: random.Random, operations: list[Operation]
    ) -> None:
        self._address = (daemon.host, daemon.port)
        self._number = number
        self._choice = choice
        self._operations = operations
        self._connection: AsyncConnection | None = None

    async def run(self) -> None:
        """Send random requests until the daemon is gone."""
        kinds, weights = list(_WEIGHTS), list(_WEIGHTS.values())
        try:
            for _ in range(OPERATIONS):
                (kind,) = self._choice.choices(kinds, weights)
                container = self._choice.randrange(MODEL.containers)
                patient = self._choice.random() > _HANGS_UP
                if not await self.ask(kind, container, patient=patient):
                    break
                if self._choice.random() < 0.2:
                    await asyncio.sleep(self._choice.random() / 500)
        finally:
            self.hang_up()

    def hang_up(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.drop(reset=True)
        self._connection = None

    async def ask(self, kind: Kind, container: int, *, patient: bool = True) -> bool:
        """One operation; whether the daemon is there still."""
        called = time.monotonic()
        answer: str | State | None = None
        try:
            if self._connection is None:
                self._connection = await AsyncConnection.open(self._address)
                called = time.monotonic()
            request = self._request(kind, container)
            if patient:
                answer = _understood(kind, self._number, await self._connection.ask(request))
            else:
                self._connection.writer.write(request)
                await asyncio.sleep(self._choice.random() / 1000)
                self.hang_up()
        except (OSError, EOFError):
            self.hang_up()
            self._operations.append(Operation(kind, container, called, math.inf, None))
            return False
        returned = math.inf if answer is None else time.monotonic()
        self._operations.append(Operation(kind, container, called, returned, answer))
        return True

    def _request(self, kind: Kind, container: int) -> bytes:
        name = _name(self._number, container)
        if kind is Kind.STATUS:
            return request_bytes("GET", "/status")
        if kind is Kind.POST:
            return request_bytes("POST", "/ip", allocate_body(name, "web-0"))
        return request_bytes(kind.value, target_of(name, "web-0"))


def _name(number: int, container: int) -> str:
    return f"h{number}-{container}"


def _understood(kind: Kind, number: int, answered: tuple[int, dict[str, Any]]) -> str | State:
    """An answer as the model gives it."""
    status, body = answered
    if kind is Kind.STATUS:
        assert status == 200, body
        pods = body["pods"]
        return tuple(pods.get(_name(number, it), "") for it in range(MODEL.containers))
    if kind is Kind.POST and status in {409, 503}:
        return str(status)
    if kind is Kind.GET and status == 404:
        return ""
    assert status == 200, body
    address: str = body["address"]
    return address
