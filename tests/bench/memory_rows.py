"""Memory of one daemon whatever its clients do, and how others are served beside them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench.populate import POOL, populate
from tests.bench.table import Row
from tests.kits.daemon.memory import (
    CLIENTS,
    MIB,
    Clients,
    deaf,
    forget_most_bytes,
    most_bytes,
    push,
)
from tests.kits.daemon.process import Daemon

_HELD = 200_000
#: The limit of the DaemonSet, tools/kubernetes.
_LIMIT_MIB = 512
_TURNS = 20


def rows(scratch: Path) -> Iterator[Row]:
    """Each kind of such clients in turn on one daemon; the rows."""
    data_dir = scratch / "besieged"
    populate(data_dir / "journal", _HELD)
    peaks, waits, asked, served = {}, {}, 0, 0
    with Daemon(data_dir, f"--pool=default={POOL}") as daemon:
        for name, clients in CLIENTS.items():
            seconds = _beside(daemon, clients)
            asked += 2 * _TURNS
            served += len(seconds)
            peaks[name] = most_bytes(daemon) / MIB
            waits[name] = max(seconds, default=0.0)
    slowest = max(waits, key=waits.__getitem__)
    yield Row(
        f"peak memory at {_HELD:,} held, unread answers, unfinished requests",
        max(peaks.values()),
        _LIMIT_MIB,
        "MiB",
        at_most=True,
        note=", ".join(f"{name} {peak:.0f}" for name, peak in peaks.items()),
    )
    yield Row(
        "requests of others served beside them",
        served / asked,
        1.0,
        note=f"the slowest took {waits[slowest]:.2f} s, beside {slowest}",
    )


def _beside(daemon: Daemon, clients: Clients) -> list[float]:
    """Seconds that each request took which was answered with 200 beside those clients."""
    seconds = []
    forget_most_bytes(daemon)
    with deaf(daemon, clients.number, clients.data) as socks:
        for _ in range(_TURNS):
            push(socks, clients.more)
            for ask in (daemon.allocate, daemon.release):
                started = time.perf_counter()
                if ask("beside").is_success:
                    seconds.append(time.perf_counter() - started)
    return seconds
