"""The rows that a user of the daemon would see: rates, latencies, memory, idling."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.populate import POOL, populate
from tests.bench.table import Row
from tests.bench.wrk import Load, churn, in_turn, median
from tests.kits.daemon.process import ROOT, Daemon, environment

_HELD = 200_000
_FEW = 100
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK = os.sysconf("SC_CLK_TCK")
_MIB = 1 << 20
_IDLE_SECONDS = 20
_FRAME_BYTES = 208


def rows(scratch: Path, seconds: int, rounds: int) -> Iterator[Row]:
    """Measure with load of so many seconds a round; the rows as they come."""
    with _bare() as bare, Daemon(scratch / "empty") as daemon:
        yield from _idle(daemon)
        yield _throughput(bare, daemon.address, seconds, rounds)
        yield from _latency(bare, daemon.address, scratch, seconds, rounds)
    populate(scratch / "few" / "journal", _FEW)
    populate(scratch / "many" / "journal", _HELD)
    pool = f"--pool=default={POOL}"
    with Daemon(scratch / "few", pool) as few, Daemon(scratch / "many", pool) as many:
        per_address = (_resident(many) - _resident(few)) / (_HELD - _FEW)
        yield Row(
            f"resident memory per held address at {_HELD:,}", per_address, 600, "B", at_most=True
        )
        yield from _scaling(few.address, many.address, seconds, rounds)


@contextmanager
def _bare(*arguments: str) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.bare", *arguments],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        if process.stdout is None:
            raise RuntimeError("no pipe")
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _throughput(bare: str, coild: str, seconds: int, rounds: int) -> Row:
    bares, ours = in_turn(
        rounds,
        lambda n: churn(bare, 64, seconds, f"t{n}"),
        lambda n: churn(coild, 64, seconds, f"t{n}"),
    )
    ratio = median(o.rate / b.rate for o, b in zip(ours, bares, strict=True))
    return Row(
        "durable churn at 64 connections / bare Sanic",
        ratio,
        0.85,
        note=f"{median(o.rate for o in ours):,.0f} / {median(b.rate for b in bares):,.0f} rps",
    )


def _latency(bare: str, coild: str, scratch: Path, seconds: int, rounds: int) -> Iterator[Row]:
    flushes = []

    def ours(number: int) -> Load:
        flushes.append(_flush_p50(scratch / "flush"))
        return churn(coild, 1, seconds, f"l{number}")

    with (
        _bare(str(scratch / "on-loop")) as on_loop,
        _bare(str(scratch / "in-thread"), "thread") as in_thread,
    ):
        bares, loops, threads, daemons = in_turn(
            rounds,
            lambda n: churn(bare, 1, seconds, f"l{n}"),
            lambda n: churn(on_loop, 1, seconds, f"l{n}"),
            lambda n: churn(in_thread, 1, seconds, f"l{n}"),
            ours,
        )
    p50 = median(load.p50 for load in daemons)
    raw = f"bare {median(b.p50 for b in bares):.0f}, write and fdatasync {median(flushes):.0f}"
    for where, floors, bound in (("in a thread", threads, 1.25), ("on its loop", loops, 1.6)):
        yield Row(
            f"p50 at 1 connection / bare Sanic that flushes {where}",
            median(o.p50 / floor.p50 for o, floor in zip(daemons, floors, strict=True)),
            bound,
            at_most=True,
            note=f"{p50:.0f} / {median(floor.p50 for floor in floors):.0f} µs; {raw}",
        )


def _flush_p50(path: Path) -> float:
    """Median time in µs of one frame's write and fdatasync in a preallocated, zero-filled file."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        os.pwrite(fd, bytes(_MIB), 0)
        os.fsync(fd)
        frame = b"x" * _FRAME_BYTES
        times = []
        for number in range(2000):
            started = time.perf_counter()
            os.pwrite(fd, frame, number * _FRAME_BYTES)
            os.fdatasync(fd)
            times.append(time.perf_counter() - started)
    finally:
        os.close(fd)
    return median(times) * 1e6


def _scaling(few: str, many: str, seconds: int, rounds: int) -> Iterator[Row]:
    small, large = in_turn(
        rounds,
        lambda n: churn(few, 64, seconds, f"s{n}"),
        lambda n: churn(many, 64, seconds, f"s{n}"),
    )
    pairs = list(zip(large, small, strict=True))
    yield Row(
        f"churn rate with {_HELD:,} held / with {_FEW}",
        median(a.rate / b.rate for a, b in pairs),
        0.95,
        note=f"{median(a.rate for a in large):,.0f} / {median(b.rate for b in small):,.0f} rps",
    )
    yield Row(
        f"p99 with {_HELD:,} held / with {_FEW}",
        median(a.p99 / b.p99 for a, b in pairs),
        1.5,
        at_most=True,
        note=f"{median(a.p99 for a in large):.0f} / {median(b.p99 for b in small):.0f} µs",
    )


def _idle(daemon: Daemon) -> Iterator[Row]:
    daemon.allocate("c1")
    time.sleep(2)  # the mark of an idle journal is written, and start-up is over
    before = _cpu_seconds(daemon)
    time.sleep(_IDLE_SECONDS)
    used = (_cpu_seconds(daemon) - before) / _IDLE_SECONDS * 100
    yield Row("idle daemon: CPU", used, 0.2, "%", at_most=True, note="of one core")
    resident = _resident(daemon) / _MIB
    yield Row("idle daemon: resident memory", resident, 60, "MiB", at_most=True)


def _resident(daemon: Daemon) -> int:
    """Resident memory in bytes (proc(5), statm)."""
    return int(Path(f"/proc/{daemon.process.pid}/statm").read_text().split()[1]) * _PAGE


def _cpu_seconds(daemon: Daemon) -> float:
    """User and system time so far (proc(5), stat: fields 14 and 15)."""
    fields = Path(f"/proc/{daemon.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK
