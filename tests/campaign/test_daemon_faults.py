"""A power cut takes nothing back that a client was told; and a daemon that lies is found out."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from tests.crash.daemon.faults import FAULTS
from tests.crash.daemon.histories import MODEL, fragile_daemon_for_histories, record
from tests.crash.daemon.linear import linearize
from tests.crash.mutants import by_function, edited
from tests.crash.scale import LONG, report, report_fault, rounds

POWER_CUTS = rounds(10, 200)
#: In as many power cuts at most a fault must show.
PATIENCE = 400
#: Those that show soonest, for CI.
QUICK = ("POST answers before it is durable", "events count as durable when they are queued")


def first_contradiction(directory: Path, fault: str, cuts: int) -> tuple[int, str] | None:
    """After which power cut clients had been told what is not true, and how that showed."""
    seed = random.randrange(2**32)  # noqa: S311
    with fragile_daemon_for_histories(directory, fault) as daemon:
        for number in range(cuts):
            try:
                history = record(daemon, number, seed, kill=True)
            except (AssertionError, OSError, EOFError, subprocess.SubprocessError) as error:
                return number, f"the daemon failed: {str(error).splitlines()[0]}"
            if linearize(MODEL, history) is None:
                return number, f"no order explains the answers (seed {seed})"
    return None


@pytest.mark.timeout(900)
def test_power_cuts_take_nothing_back(tmp_path: Path) -> None:
    """With the process goes all that was not flushed, and every answer is true all the same."""
    found = first_contradiction(tmp_path / "data", "", POWER_CUTS)
    survived = POWER_CUTS if found is None else found[0]
    report("power cuts under the daemon", POWER_CUTS, survived, "each with a history")

    assert found is None


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_of_the_code_as_it_is(fault: str) -> None:
    """No fault's text has gone from the code, also of those that only `just crash` tries."""
    for function, edits in by_function(FAULTS[fault]).items():
        assert edited(function, edits).__code__ != function.__code__


@pytest.mark.timeout(900)
@pytest.mark.parametrize("fault", FAULTS if LONG else QUICK)
def test_a_daemon_that_lies_is_found_out(tmp_path: Path, fault: str) -> None:
    """Each fault is seen by what clients were told."""
    found = first_contradiction(tmp_path / "data", fault, PATIENCE)
    report_fault(fault, "" if found is None else f"{found[1]}, after {found[0] + 1} power cuts")

    assert found is not None
