"""Whatever is done to the files under load, what is answered then is there; loss is told."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from tests.crash.daemon.displacing import Schedule, prepare, run_schedule
from tests.crash.scale import report, rounds

# A client library leaves the socket of a connection that was refused to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
SCHEDULES = rounds(20, 200)


@pytest.mark.timeout(3600)
def test_schedules_of_displacing(tmp_path: Path) -> None:
    """By seeds: an act on a target under load, then a start, which has all that it must have."""
    prepared, older = prepare(tmp_path)
    ends: Counter[str] = Counter()
    failed: list[str] = []
    for seed in range(SCHEDULES):
        schedule = Schedule.of(seed)
        scratch = tmp_path / str(seed)
        try:
            ends[run_schedule(schedule, scratch, prepared, older)] += 1
        except AssertionError as error:
            failed.append(f"{schedule}: {error}")
        shutil.rmtree(scratch, ignore_errors=True)
    report(
        "displaced under load",
        SCHEDULES,
        SCHEDULES - len(failed),
        ", ".join(f"{count} {end}" for end, count in sorted(ends.items())),
    )

    assert not failed, "\n\n".join(failed)
