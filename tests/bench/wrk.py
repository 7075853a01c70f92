"""Driving wrk, and what it saw."""

from __future__ import annotations

import statistics
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

_SCRIPT = Path(__file__).with_name("churn.lua")


class Load(msgspec.Struct, frozen=True):
    """One run of wrk: requests per second, latencies in µs."""

    rate: float
    p50: float
    p99: float


def churn(address: str, connections: int, seconds: int, name: str) -> Load:
    """POST and DELETE in turn at `address`; `name` makes this run's container IDs its own."""
    output = subprocess.run(
        [
            "wrk",
            "--threads=1",
            f"--connections={connections}",
            f"--duration={seconds}s",
            f"--script={_SCRIPT}",
            f"http://{address}",
            "--",
            name,
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=seconds + 30,
    ).stdout
    result = next(line for line in output.splitlines() if line.startswith("RESULT "))
    requests, microseconds, p50, p99, bad = map(float, result.split()[1:])
    if bad:
        raise RuntimeError(f"{bad:.0f} requests failed: this measures nothing\n{output}")
    return Load(rate=requests / microseconds * 1e6, p50=p50, p99=p99)


def in_turn(rounds: int, *measures: Callable[[int], Load]) -> list[list[Load]]:
    """Run the measures A B A B …: what the machine's mood does, it does to each of them."""
    runs: list[list[Load]] = [[] for _ in measures]
    for number in range(rounds):
        for measure, loads in zip(measures, runs, strict=True):
            loads.append(measure(number))
    return runs


def median(values: Iterable[float]) -> float:
    """The median."""
    return statistics.median(values)
