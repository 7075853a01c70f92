"""The rows of the audit trail: questions, starts and compactions over long journals."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from coild.rules.addresses import Subnet, address_text
from coild.rules.events import SCHEMA
from coild.vocabulary import VOCABULARY
from journal import Reader
from tests.bench.long_history import compact, write
from tests.bench.populate import POOL
from tests.bench.table import Row
from tests.bench.wrk import churn, median
from tests.kits.daemon.process import ROOT, Daemon, environment

_HELD = 200_000
_MILLION = 1_000_000
_CONNECTIONS = 8


def rows(scratch: Path, seconds: int, rounds: int, events: int) -> Iterator[Row]:
    """Measure over a journal of so many events; the rows as they come."""
    directory = scratch / "long" / "journal"
    held = write(directory, events, _HELD)
    raw = _raw_speeds(directory)
    compact(directory)
    size = sum(path.stat().st_size for path in directory.rglob("*.*"))
    note = f"{events:,} events, {size >> 20} MiB with archive and indexes; {raw}"
    subnet = Subnet.from_key(held.block)
    address = address_text(subnet.version, subnet.base + held.offset)
    for name, arguments in (
        ("address", (address,)),
        ("container", ("--container", held.container_id)),
    ):
        _forget(directory)
        first = _ask(directory, *arguments)
        again = median(_ask(directory, *arguments) for _ in range(3))
        yield Row(
            f"coild-history of one {name}, the first time",
            first,
            0.5,
            "s",
            at_most=True,
            note=f"again {again:.2f} s; {note}",
        )
    yield _start(scratch / "long", note)
    yield _p99(scratch, seconds, min(rounds, 3))


def _forget(directory: Path) -> None:
    """Have the kernel drop what it keeps of the files, so that they are read from the disk."""
    for path in directory.rglob("*.*"):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def _ask(directory: Path, *arguments: str) -> float:
    """How long a question takes, in seconds, process start included."""
    started = time.perf_counter()
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tools.history",
            "--journal",
            str(directory),
            *arguments,
            "-ojson",
        ],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        check=True,
    )
    took = time.perf_counter() - started
    if not done.stdout:
        raise RuntimeError(f"nobody was found: this measures nothing\n{done.stderr.decode()}")
    return took


def _raw_speeds(directory: Path) -> str:
    """How fast this machine reads the files, and decodes the events of one segment."""
    _forget(directory)
    files = sorted(directory.glob("*.seg"))[:8]
    started = time.perf_counter()
    size = sum(len(path.read_bytes()) for path in files)
    read = size / (time.perf_counter() - started)
    reader = Reader(directory, VOCABULARY.event_type, schema=SCHEMA)
    started = time.perf_counter()
    batch = next(reader.batches(None))
    decode = len(batch.events) / (time.perf_counter() - started)
    return f"raw: {read / (1 << 20):,.0f} MiB/s read, {decode / 1e6:.2f} M events/s decoded"


def _start(data_dir: Path, note: str) -> Row:
    """How long a start with a snapshot takes to the first answer."""
    times = []
    for _ in range(3):
        started = time.perf_counter()
        with Daemon(data_dir, f"--pool=default={POOL}", "--compact-after=0") as daemon:
            daemon.get("nobody")
            times.append(time.perf_counter() - started)
            daemon.stop()
    return Row(
        f"start with {_HELD:,} held, to the first answer",
        median(times),
        1.5,
        "s",
        at_most=True,
        note=note,
    )


def _p99(scratch: Path, seconds: int, rounds: int) -> Row:
    """What a compaction does to the requests beside it."""
    original = scratch / "million" / "journal"
    write(original, _MILLION, 10_000)
    ratios, notes = [], []
    for number in range(rounds):
        data_dir = scratch / f"million-{number}"
        shutil.copytree(original, data_dir / "journal")
        with Daemon(data_dir, f"--pool=default={POOL}", "--compact-after=0") as daemon:
            alone = churn(daemon.address, _CONNECTIONS, seconds, f"a{number}")
            took: list[float] = []

            def ask(daemon: Daemon = daemon, took: list[float] = took) -> None:
                started = time.perf_counter()
                with daemon.new_client() as client:
                    client.post("/compact", timeout=300).raise_for_status()
                took.append(time.perf_counter() - started)

            thread = threading.Thread(target=ask)
            thread.start()
            beside = churn(daemon.address, _CONNECTIONS, seconds, f"b{number}")
            thread.join()
            ratios.append(beside.p99 / alone.p99)
            notes.append(f"{beside.p99:.0f} / {alone.p99:.0f} µs, it took {took[0]:.1f} s")
        shutil.rmtree(data_dir)
    return Row(
        f"p99 at {_CONNECTIONS} connections while {_MILLION:,} events are compacted / without",
        median(ratios),
        2.0,
        at_most=True,
        note="; ".join(notes),
    )
