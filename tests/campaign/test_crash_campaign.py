"""Crashes at every call of a journal's life, and what recovery makes of the disks they leave.

`python -m tests.crash.simulate` does the same for as long as you like.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest

from tests.crash import simulate as program
from tests.crash.journal.campaign import try_workload
from tests.crash.journal.workloads import WORKLOADS, moments_of
from tests.crash.mutants import HARMLESS, MUTANTS, mutated
from tests.crash.scale import report_fault

SEED = 7


class Killer(NamedTuple):
    """A promise that a faulty journal breaks, in which of its lives, before which calls."""

    promise: str
    workload: str = "groups"
    calls: str = "*"


KILLED_BY = {
    "an append is not flushed": Killer("confirmed events are there", calls="write 0*"),
    "an append is confirmed before its flush": Killer(
        "confirmed events are there", calls="sync 0*"
    ),
    "a segment's name is not flushed": Killer(
        "confirmed events are there", "rolls", calls="write 0*"
    ),
    "a segment gets its name before it is flushed": Killer("it opens"),
    "a segment's header is not flushed": Killer("it opens", calls="write 0*"),
    "the checksum has no seed": Killer("it opens", calls="sync 0*"),
    "a torn tail is cut off in place": Killer("a torn segment is whole", calls="sync 0*"),
    "a torn tail is cut off in place before anything of it is kept": Killer(
        "what is set aside is kept"
    ),
    "a torn tail is not noted": Killer("repairs are told until recorded"),
    "what is set aside is not flushed": Killer("what is set aside is kept"),
    "the note of repairs is not flushed": Killer("repairs are told until recorded"),
    "a copy gets a segment's name without a flush of the directory": Killer(
        "a repair survives a power cut", "repairs"
    ),
    "recovery does not flush what it read": Killer(
        "what it shows survives a power cut", calls="sync 0*"
    ),
    "recovery does not flush the names that it read": Killer(
        "what is appended after a recovery survives", "rolls", "sync_directory journal"
    ),
    "a new journal's own name is not flushed": Killer(
        "confirmed events are there", calls="write 0*"
    ),
    "a snapshot and an archive get their names before they are flushed": Killer(
        "verify says what recovery does", "compactions", "*.snap*"
    ),
    "a snapshot is published before its segments are": Killer(
        "confirmed events are there", "compactions", "sync_directory journal"
    ),
    "segments go before the archive's names are durable": Killer("history is whole"),
    "segments and archive go before the snapshot's name is durable": Killer(
        "history is whole", "compactions", "remove *"
    ),
    "segments go that are in no archive": Killer("history is whole"),
    "pruning removes segments before snapshots": Killer(
        "verify says what recovery does", "prunings", "remove *"
    ),
}


@pytest.mark.parametrize("workload", WORKLOADS)
def test_no_crash_breaks_a_promise(workload: str) -> None:
    """Whatever a crash leaves: what was confirmed is there, nothing else is, and it goes on."""
    tried = try_workload(workload, SEED, one_in=6, deeper_one_in=60)

    assert not tried.failures, "\n".join(map(str, tried.failures))
    assert len(tried.digests) > 30


@pytest.mark.parametrize("name", MUTANTS)
def test_the_campaign_has_teeth(name: str) -> None:
    """A journal with a fault is found out, by the promise that it breaks."""
    killer = KILLED_BY[name]
    with mutated(name):
        tried = try_workload(
            killer.workload,
            SEED,
            calls=killer.calls,
            failures_max=40,
            until=killer.promise,
            deeper_one_in=30,
        )

    broken = {failure.promise for failure in tried.failures}
    report_fault(name, f"{killer.promise} ({killer.workload})" if killer.promise in broken else "")
    assert killer.promise in broken


@pytest.mark.parametrize("name", HARMLESS)
def test_what_no_crash_brings_to_light(name: str) -> None:
    """Some faults do no harm when the machine crashes: if one is found out, it is no longer so."""
    with mutated(name):
        tried = try_workload("repairs", SEED, one_in=3)

    assert not tried.failures


def test_a_fault_is_switched_off_again() -> None:
    """Behind the block that has the fault the code is as it was."""
    for name in MUTANTS | HARMLESS:
        with mutated(name):
            pass

    assert not try_workload("groups", SEED, one_in=9).failures


@pytest.mark.parametrize("workload", WORKLOADS)
def test_a_run_can_be_repeated(workload: str) -> None:
    """The same seed gives the same calls and the same disks, another seed others."""
    one, same, other = (
        [(moment.call, moment.disk.tree(), moment.known) for moment in moments_of(workload, seed)]
        for seed in (1, 1, 2)
    )

    assert one == same
    assert one != other


def test_the_program_tells_how_to_get_there_again(capsys: pytest.CaptureFixture[str]) -> None:
    """What failed is printed with the command that makes it fail again, and fails the program."""
    options = ["--workload", "groups", "--seed", "7"]
    with mutated("an append is not flushed"):
        status = program.main([*options, "--moment", "0"])
        out = capsys.readouterr().out
    good = program.main([*options, "--moment", "0"])

    assert (1, 0) == (status, good)
    assert "again: python -m tests.crash.simulate --workload groups --seed 7 --moment 0" in out
    assert "groups" in capsys.readouterr().out
