"""What a tool shows beside a writer is there after any power cut."""

from __future__ import annotations

import pytest

from tests.crash.journal.showing import try_showing
from tests.crash.journal.verifying import HONEST
from tests.crash.mutants import mutated
from tests.crash.scale import report, rounds

SEED = 11
#: Of each workload.
DISKS = rounds(50, 1500)


@pytest.mark.parametrize("workload", HONEST)
def test_no_power_cut_takes_back_what_was_shown(workload: str) -> None:
    """Events, states and heads, shown before any call to the disk, are on the disks that follow."""
    tried = try_showing(workload, SEED, DISKS)

    report(f"shown before crashes: {workload}", tried.disks, tried.disks - len(tried.failures))
    assert not tried.failures, "\n".join(tried.failures)
    assert tried.disks > 30
    assert tried.held_back > 0


def test_power_cuts_take_back_what_is_not_vouched_for() -> None:
    """The disks are such that it shows: a reader that leaves nothing out is found out."""
    assert try_showing("groups", SEED, DISKS, vouched_only=False).failures


def test_a_writer_that_does_not_flush_is_found_out() -> None:
    """What has a successor is there only because it was flushed before."""
    with mutated("an append is not flushed"):
        assert try_showing("groups", SEED, DISKS).failures
