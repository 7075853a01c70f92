"""`coild-verify` of every disk that an honest crash leaves: nobody is said to have altered it."""

from __future__ import annotations

import pytest

from tests.crash.journal.verifying import HONEST, try_verify
from tests.crash.mutants import mutated
from tests.crash.scale import LONG, report, report_fault

SEED = 7
#: Of each workload, in CI.
DISKS = 100
SEEDS = range(SEED, SEED + 3) if LONG else (SEED,)


@pytest.mark.parametrize("workload", HONEST)
def test_no_crash_makes_verify_cry_wolf(workload: str) -> None:
    """Before a start it is good or torn, the start works, and after it the journal is good."""
    tried = [try_verify(workload, seed, None if LONG else DISKS) for seed in SEEDS]
    disks = sum(each.disks for each in tried)
    failures = [failure for each in tried for failure in each.failures]

    report(f"verify after crashes: {workload}", disks, disks - len(failures))
    assert not failures, "\n".join(failures)
    assert disks > 30
    assert sum(each.torn for each in tried) > 0


@pytest.mark.parametrize(
    ("fault", "workload"),
    [
        ("a snapshot and an archive get their names before they are flushed", "compactions"),
        ("pruning removes segments before snapshots", "prunings"),
    ],
)
def test_a_journal_that_a_crash_does_spoil_is_found_out(fault: str, workload: str) -> None:
    """The disks are such that a fault of the journal shows: they are not merely all good."""
    with mutated(fault):
        tried = try_verify(workload, SEED, 3000)

    report_fault(f"{fault}, as verify tells", workload if tried.failures else "")
    assert tried.failures
