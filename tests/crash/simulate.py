"""The long campaign: `python -m tests.crash.simulate`, on all cores, until it has tried enough."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import NamedTuple

from tests.crash.journal.campaign import Failure, Tried, try_workload
from tests.crash.journal.workloads import WORKLOADS
from tests.crash.scale import report

#: Distinct disks that recovery is to be tried on.
DISKS = 200_000
#: Longer than that number takes on a slow machine.
SECONDS_MAX = 1800.0
FAILURES_SHOWN = 20


class Row(NamedTuple):
    """The disks tried of one workload, all seeds together."""

    runs: int = 0
    operations: int = 0
    states: int = 0
    deeper: int = 0
    recoveries: int = 0
    failed: int = 0

    def plus(self, tried: Tried, states: int, deeper: int) -> Row:
        """The row with one more run, which had so many new states."""
        return Row(
            self.runs + 1,
            self.operations + tried.moments,
            self.states + states,
            self.deeper + deeper,
            self.recoveries + tried.recoveries,
            self.failed + len(tried.failures),
        )


def main(argv: list[str] | None = None) -> int:
    """Run the campaign; 0 if every disk kept every promise."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.crash.simulate",
        description="Crash a journal at every call of many workloads, and recover what is left.",
    )
    parser.add_argument("--disks", type=int, default=DISKS, help="how many to try (%(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS_MAX, help="how long at most (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the first run (%(default)s)")
    parser.add_argument("--workload", choices=[*WORKLOADS], help="this one alone")
    parser.add_argument("--moment", type=int, help="the crash before this call alone, once")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="how many processes")
    options = parser.parse_args(argv)
    names = [options.workload] if options.workload else [*WORKLOADS]
    if options.moment is not None:
        tried = [try_workload(name, options.seed, only=options.moment) for name in names]
        return _report(tried, time.monotonic())
    started = time.monotonic()
    done = _run(names, options.seed, options.disks, started + options.seconds, options.jobs)
    disks = len(set[bytes]().union(*(it.digests | it.deeper for it in done)))
    failed = sum(len(it.failures) for it in done)
    calls = sum(it.moments for it in done)
    report("crashes of a simulated disk", disks, disks - failed, f"before each of {calls:,} calls")
    status = _report(done, started)
    if disks < options.disks and not failed:
        sys.stdout.write(f"the time was over before {options.disks:,} were tried\n")
        status = 1
    return status


def _run(names: list[str], seed: int, disks: int, deadline: float, jobs: int) -> list[Tried]:
    """Run the workloads with one seed after the other until that is enough, or the time is over."""
    seen: set[bytes] = set()
    runs = ((name, number) for number in itertools.count(seed) for name in names)
    done: list[Tried] = []
    with ProcessPoolExecutor(jobs) as pool:
        running: set[Future[Tried]] = set()
        while running or time.monotonic() < deadline:
            while len(running) < jobs and time.monotonic() < deadline:
                name, number = next(runs)
                running.add(pool.submit(try_workload, name, number, deadline=deadline))
            ready, running = wait(running, return_when=FIRST_COMPLETED)
            for future in ready:
                done.append(tried := future.result())
                seen |= tried.digests | tried.deeper
            if len(seen) >= disks:
                # Start no further runs; finish those under way.
                deadline = min(deadline, time.monotonic())
            if sum(len(tried.failures) for tried in done) >= FAILURES_SHOWN:
                deadline = 0.0
    return done


def _report(done: list[Tried], started: float) -> int:
    """Print the table and what failed; the exit status."""
    rows: dict[str, Row] = {}
    first: set[bytes] = set()
    second: set[bytes] = set()
    failures: list[Failure] = []
    for tried in done:
        states, deeper = tried.digests - first - second, tried.deeper - first - second
        first |= states
        second |= deeper
        row = rows.get(tried.workload, Row())
        rows[tried.workload] = row.plus(tried, len(states), len(deeper))
        failures += tried.failures
    head = ("workload", "runs", "operations", "states", "depth 2", "recoveries", "failed")
    lines = [head, *((name, *map(_count, row)) for name, row in rows.items())]
    total = [sum(column) for column in zip(*rows.values(), strict=True)]
    lines.append(("all", *map(_count, total)))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))
        sys.stdout.write("  ".join((line[0].ljust(widths[0]), *cells)) + "\n")
    count = len(first) + len(second)
    sys.stdout.write(
        f"{count:,} distinct disks in {time.monotonic() - started:.0f} s, "
        f"{count - len(failures):,} survived\n"
    )
    for failure in failures[:FAILURES_SHOWN]:
        sys.stdout.write(f"\n{failure}\n")
    return 1 if failures or not count else 0


def _count(number: int) -> str:
    return f"{number:,}"


if __name__ == "__main__":
    sys.exit(main())
