"""`just crash`: every campaign at full length, and a table of what was tried and what survived.

Each part is its own process, as many at a time as there are cores. For a part that fails, the end
of its output is printed; the parts themselves print how to reproduce a failure.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from tests.crash.scale import REPORT_VARIABLE, VARIABLE
from tests.crash.simulate import DISKS

ROOT = Path(__file__).parent.parent.parent
#: Longer than any part takes on a slow machine.
_PART_SECONDS_MAX = 3600
_LINES_SHOWN = 40


class Part(NamedTuple):
    """A part of the campaign: the arguments of its Python, or the tests that it consists of."""

    name: str
    tests: str = ""
    arguments: tuple[str, ...] = ()

    def command(self) -> list[str]:
        """The command line of the part."""
        if self.arguments:
            return [sys.executable, *self.arguments]
        # What takes minutes here has seconds in CI.
        patience = f"--timeout={_PART_SECONDS_MAX}"
        options = ("-q", "-s", "-p", "no:cacheprovider", "-p", "no:randomly", patience)
        return [sys.executable, "-m", "pytest", *options, *self.tests.split()]


#: The longest first, so that the last ones end together.
PARTS = (
    Part("kill -9 and stepped clocks", "tests/campaign/test_crash.py"),
    Part("bit rot", "tests/campaign/test_bit_rot.py"),
    Part(
        "HTTP",
        "tests/http/test_fuzz_http.py tests/http/test_http_properties.py "
        "tests/http/test_slow_clients.py",
    ),
    Part("power cuts under the daemon, and its faults", "tests/campaign/test_daemon_faults.py"),
    Part("histories", "tests/campaign/test_linearizability.py"),
    Part("decoder and recovery", "tests/campaign/test_fuzz_journal.py"),
    Part("files displaced under load", "tests/campaign/test_displaced_schedules.py"),
    Part("verify after crashes", "tests/campaign/test_verify_crashes.py"),
    Part(
        "errors of the disk", "tests/campaign/test_disk_errors.py tests/journal/test_fs_contract.py"
    ),
    Part(
        "faults of the journal",
        "tests/campaign/test_crash_campaign.py tests/campaign/test_simulated_disk.py "
        "tests/campaign/test_displaced_faults.py",
    ),
)


class Ended(NamedTuple):
    """A part that was run: its status, its seconds, and the end of its output."""

    part: Part
    status: int
    seconds: float
    output: str


def main(argv: Sequence[str] | None = None) -> int:
    """Run the campaign; 0 if everything survived that should."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument(
        "--disks", type=int, default=DISKS, help="simulated disks to crash (%(default)s)"
    )
    options = parser.parse_args(argv)
    simulation = Part(
        "crashes of a simulated disk",
        arguments=("-m", "tests.crash.simulate", "--disks", str(options.disks)),
    )
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(os.cpu_count()) as lanes:
        report = Path(scratch) / "report"
        report.touch()
        ended = [_run(simulation, report)]
        ended += lanes.map(lambda part: _run(part, report), PARTS)
        rows = [json.loads(line) for line in report.read_text(encoding="utf-8").splitlines()]
    _show(rows)
    failed = [each for each in ended if each.status]
    for each in failed:
        sys.stdout.write(f"\nFAILED: {each.part.name}\n{each.output}\n")
    minutes = (time.monotonic() - started) / 60
    sys.stdout.write(
        f"\n{len(ended) - len(failed)} of {len(ended)} parts passed, {minutes:.1f} min\n"
    )
    return 1 if failed else 0


def _run(part: Part, report: Path) -> Ended:
    started = time.monotonic()
    completed = subprocess.run(
        part.command(),
        cwd=ROOT,
        env=os.environ | {VARIABLE: "long", REPORT_VARIABLE: str(report)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_PART_SECONDS_MAX,
        check=False,
    )
    seconds = time.monotonic() - started
    verdict = "failed" if completed.returncode else "passed"
    sys.stdout.write(f"{part.name}: {verdict}, {seconds:.0f} s\n")
    sys.stdout.flush()
    output = "\n".join(completed.stdout.splitlines()[-_LINES_SHOWN:])
    return Ended(part, completed.returncode, seconds, output)


def _show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the table; mutants come last, because none of them shall survive."""
    lines = [("tried", "survived", "what", "")]
    lines += [
        (f"{row['tried']:,}", f"{row['survived']:,}", row["part"], row["note"])
        for row in sorted(rows, key=lambda row: (row["fault"], row["part"]))
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(3)]
    sys.stdout.write("\n")
    for tried, survived, part, note in lines:
        sys.stdout.write(
            f"{tried:>{widths[0]}}  {survived:>{widths[1]}}  {part:<{widths[2]}}  {note}".rstrip()
            + "\n"
        )


if __name__ == "__main__":
    sys.exit(main())
