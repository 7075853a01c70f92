"""Millions of operations on one daemon, to compare memory, open files and latency over time.

The held addresses go up to a number and back to none, again and again, while segments roll over and
compactions run. The daemon is measured whenever it holds none.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import statistics
import time
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import uvloop

from tests.kits.daemon.process import Daemon
from tests.kits.daemon.wire import allocate_body, request_bytes, target_of

CONNECTIONS = 32
#: After which the daemon has closed the connections that its clients have.
_SETTLED_SECONDS = 0.1
_HEAD_END = b"\r\n\r\n"
_LENGTH = b"content-length: "


class Sample(NamedTuple):
    """The daemon after a cycle: operations so far, bytes resident, open files, p99 in seconds."""

    operations: int
    resident: int
    open_files: int
    p99: float


class Soaked(NamedTuple):
    """All samples, and how the last tenth compares to what came after the first."""

    samples: list[Sample]

    def growth(self, of: str) -> float:
        """The median of a figure in the last tenth / in the tenth around the end of the first."""
        total = self.samples[-1].operations
        early = [it for it in self.samples if 0.05 <= it.operations / total <= 0.15]
        late = [it for it in self.samples if it.operations / total > 0.9]
        return _median(late, of) / _median(early, of)


def _median(samples: Sequence[Sample], of: str) -> float:
    return float(statistics.median(getattr(sample, of) for sample in samples))


def soak(daemon: Daemon, operations: int, held: int) -> Soaked:
    """POST and DELETE so often, with up to `held` addresses at a time.

    Raises AssertionError for an answer that is not 200.
    """
    samples = []
    for cycle in itertools.count(1):
        latencies = uvloop.run(_cycle(daemon, cycle, held))
        latencies.sort()
        time.sleep(_SETTLED_SECONDS)
        process = Path(f"/proc/{daemon.process.pid}")
        samples.append(
            Sample(
                operations=cycle * 2 * held,
                resident=_resident(process),
                open_files=len(list((process / "fd").iterdir())),
                p99=latencies[math.ceil(len(latencies) * 0.99) - 1],
            )
        )
        if samples[-1].operations >= operations:
            break
    return Soaked(samples)


async def _cycle(daemon: Daemon, cycle: int, held: int) -> list[float]:
    """Allocate so many addresses, then release them; how long each request took, in seconds."""
    requests = _requests(cycle, held)
    latencies = array("d")
    loop = asyncio.get_running_loop()
    connections = [
        (
            await loop.create_connection(
                lambda: _Connection(requests, latencies), daemon.host, daemon.port
            )
        )[1]
        for _ in range(CONNECTIONS)
    ]
    await asyncio.gather(*(connection.ended for connection in connections))
    assert len(latencies) == 2 * held
    return latencies.tolist()


def _requests(cycle: int, held: int) -> Iterator[bytes]:
    names = [f"s{cycle}-{number}" for number in range(held)]
    for name in names:
        yield request_bytes("POST", "/ip", allocate_body(name, "web-0"))
    for name in names:
        yield request_bytes("DELETE", target_of(name, "web-0"))


class _Connection(asyncio.Protocol):
    """Sends one request after the other until none is left."""

    def __init__(self, requests: Iterator[bytes], latencies: array[float]) -> None:
        self._requests = requests
        self._latencies = latencies
        self._received = b""
        self._asked = 0.0
        self._transport: asyncio.WriteTransport | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport) or hasattr(transport, "write")
        self._transport = transport  # type: ignore[assignment] # uvloop's has no base class
        self._ask()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(_HEAD_END)
        if not end:
            return
        size = int(head.lower().partition(_LENGTH)[2].partition(b"\r\n")[0])
        if len(body) < size:
            return
        self._latencies.append(time.perf_counter() - self._asked)
        if not head.startswith(b"HTTP/1.1 200"):
            self._end(AssertionError(self._received.decode()))
            return
        self._received = b""
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc or ConnectionResetError("the daemon closed the connection"))

    def _ask(self) -> None:
        assert self._transport is not None
        request = next(self._requests, None)
        if request is None:
            self._end(None)
        else:
            self._asked = time.perf_counter()
            self._transport.write(request)

    def _end(self, error: Exception | None) -> None:
        if self.ended.done():
            return
        if error is None:
            self.ended.set_result(None)
        else:
            self.ended.set_exception(error)
        if self._transport is not None:
            self._transport.close()


def _resident(process: Path) -> int:
    """Bytes of memory that the process has."""
    lines = (process / "status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024
