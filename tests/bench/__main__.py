"""`python -m tests.bench`: every promise about speed, as one table.

Each row is a ratio of two things measured in this run, or a size; rates stand beside it. What only
computes counts with its best round, since whatever makes another slower is not ours; what waits for
a disk or a network counts with its median. Exit status 1 if a bound is not kept: these are the
product's promises, not a test's.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from tests.bench import cni_rows, history_rows, http_rows, look_row, memory_rows
from tests.bench.table import Row, show
from tests.kits.daemon.process import ROOT, environment

#: Parts that wait for the disk.
_WAITING = {"test_journal_appends", "test_sqlite_commits"}


def _parts(scratch: Path) -> dict[str, float]:
    """Operations a second of each benchmark of test_parts."""
    report = scratch / "parts.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "-p", "no:randomly"),
            *("--benchmark-only", f"--benchmark-json={report}", "--benchmark-disable-gc"),
            str(ROOT / "tests/bench/test_parts.py"),
        ],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"the parts could not be measured:\n{done.stdout}{done.stderr}")
    found: dict[str, Any] = msgspec.json.decode(report.read_bytes())
    return {
        benchmark["name"]: benchmark["extra_info"]["operations"]
        / benchmark["stats"]["median" if benchmark["name"] in _WAITING else "min"]
        for benchmark in found["benchmarks"]
    }


def _part_rows(rates: dict[str, float]) -> Iterator[Row]:
    for per_frame, bound in ((32, 2.0), (1, 0.8)):
        replay, decode = rates[f"test_replay[{per_frame}]"], rates[f"test_decode[{per_frame}]"]
        yield Row(
            f"replay through the projection, frames of {per_frame}",
            replay / 1e6,
            bound,
            "M/s",
            note=f"{replay / decode:.2f} of msgspec decoding the same frames",
        )
    ours, sqlite = rates["test_journal_appends"], rates["test_sqlite_commits"]
    yield Row(
        "durable appends one by one / SQLite WAL synchronous=FULL",
        ours / sqlite,
        1.0,
        note=f"{ours:,.0f} / {sqlite:,.0f} a second",
    )
    few, many = rates["test_choose[100]"], rates["test_choose[1000000]"]
    yield Row(
        "choosing an address with 1,000,000 held / with 100",
        many / few,
        0.5,
        note=f"{many:,.0f} / {few:,.0f} a second; the same steps, out of the processor's caches",
    )


def main() -> int:
    """Measure and print; the exit status."""
    parser = argparse.ArgumentParser(prog="just bench", description=__doc__)
    parser.add_argument("--seconds", type=int, default=4, help="of load a round")
    parser.add_argument("--rounds", type=int, default=5, help="the median of which counts")
    parser.add_argument(
        "--history", type=int, default=10_000_000, help="events of the long journal"
    )
    arguments = parser.parse_args()
    sys.stdout.write(
        f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}; "
        f"{arguments.rounds} rounds of {arguments.seconds} s\n"
    )
    with tempfile.TemporaryDirectory(prefix="coild-bench-") as name:
        scratch = Path(name)
        rows = [
            show(row)
            for source in (
                _part_rows(_parts(scratch)),
                look_row.rows(scratch),
                http_rows.rows(scratch, arguments.seconds, arguments.rounds),
                memory_rows.rows(scratch),
                cni_rows.rows(scratch),
                history_rows.rows(scratch, arguments.seconds, arguments.rounds, arguments.history),
            )
            for row in source
        ]
    return 0 if all(row.kept for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
