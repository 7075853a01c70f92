"""Every call to the disk fails in turn, in each way it can: no false success, and nothing lost."""

from __future__ import annotations

import errno
import itertools
import random
from pathlib import Path

import pytest

import journal.write.group_commit
import journal.write.spare
from tests.crash.journal.errors import (
    ERRORS,
    SHORT_WRITE,
    WORKLOADS,
    Fault,
    Workload,
    calls_of,
    try_fault,
)
from tests.crash.mutants import OF_ERRORS, mutated
from tests.crash.scale import LONG, report, report_fault

#: Of all faults of a workload, so many are tried in CI.
SAMPLE = 60


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A spare is tried again at once; a slow machine does not fall idle."""
    monkeypatch.setattr(journal.write.spare, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(journal.write.group_commit, "IDLE_SECONDS", 3600.0)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_no_error_is_taken_for_a_success(workload: Workload, tmp_path: Path) -> None:
    """What was confirmed is there, what failed was said, and a healthy disk is a good start."""
    calls = calls_of(workload, tmp_path / "healthy")
    faults = [
        Fault(number, error, forever)
        for number, error, forever in itertools.product(
            range(1, calls + 1), [*ERRORS, SHORT_WRITE], [False, True]
        )
    ]
    if not LONG:
        faults = random.sample(faults, min(SAMPLE, len(faults)))
    came = 0
    for number, fault in enumerate(faults):
        try:
            came += try_fault(workload, tmp_path / str(number), fault)
        except BaseException as error:
            error.add_note(f"{workload.name}: {fault}, in {tmp_path / str(number)}")
            raise
    report(
        f"disk errors: {workload.name}",
        came,
        came,
        f"each of {calls} calls, {len(ERRORS) + 1} errors",
    )

    assert came > len(faults) // 2


def _reason(error: AssertionError) -> str:
    return str(error).partition("\n")[0] or "a confirmed event is gone"


@pytest.mark.parametrize("name", OF_ERRORS)
def test_a_writer_that_goes_on_is_found_out(name: str, tmp_path: Path) -> None:
    """A fault in how errors are taken shows at one of the calls."""
    found = ""
    for writing in (workload for workload in WORKLOADS if workload.name.startswith("write")):
        if found:
            break
        calls = calls_of(writing, tmp_path / writing.name)
        for number, forever in itertools.product(range(1, calls + 1), [False, True]):
            fault = Fault(number, errno.EIO, forever)
            directory = tmp_path / f"{writing.name}-{number}-{forever}"
            try:
                with mutated(name):
                    try_fault(writing, directory, fault)
            except AssertionError as error:
                found = f"{writing.name}: {fault}: {_reason(error)}"
                break
    report_fault(name, found)

    assert found
