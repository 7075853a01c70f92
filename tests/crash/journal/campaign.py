"""Every crash of a workload: each moment, each disk that it leaves, and crashes of the recovery."""

from __future__ import annotations

import fnmatch
import random
import time
from typing import NamedTuple

from journal.errors import JournalError
from tests.crash.journal.oracle import BrokenPromiseError, Judged, Oracle
from tests.crash.journal.session import Clock, CrashPoint, Known, open_journal, seeded_ids
from tests.crash.journal.workloads import moments_of
from tests.crash.simulated.disk import SimulatedDisk
from tests.crash.simulated.fates import Bounds
from tests.crash.simulated.states import State, states
from tests.crash.simulated.trees import files_of

FIRST = Bounds()
SECOND = Bounds(fates_max=27, names_max=8, product_max=30, samples=6)
#: Of the disks that recovery changes, one in so many is crashed again while it recovers.
DEEPER_ONE_IN = 120
_RECOVERED_AT = 15 * 10**17


class Failure(NamedTuple):
    """A disk that broke a promise, and how to get there again."""

    workload: str
    seed: int
    moment: int
    call: str
    choice: str
    promise: str
    how: str

    def __str__(self) -> str:
        return (
            f"{self.workload}: {self.promise}: {self.how}\n"
            f"    crash before call {self.moment}, `{self.call}`; {self.choice}\n"
            f"    again: python -m tests.crash.simulate --workload {self.workload} "
            f"--seed {self.seed} --moment {self.moment}"
        )


class Tried(NamedTuple):
    """The result of one run of a workload."""

    workload: str
    seed: int
    moments: int
    #: Of the disks after the first crash and after a second one, each once.
    digests: frozenset[bytes]
    deeper: frozenset[bytes]
    recoveries: int
    failures: tuple[Failure, ...]


def try_workload(
    workload: str,
    seed: int,
    *,
    only: int | None = None,
    calls: str = "*",
    one_in: int = 1,
    deadline: float | None = None,
    failures_max: int = 3,
    until: str = "",
    deeper_one_in: int = DEEPER_ONE_IN,
) -> Tried:
    """Crash a workload at every moment, or at some of them, until it failed so many times.

    Or until the promise `until` was broken.

    `only` is the number of one moment, `calls` a pattern of the calls before which to crash;
    `one_in` so many moments are tried, others at the next seed. `deadline` is of
    `time.monotonic`.
    """
    moments = moments_of(workload, seed)
    with seeded_ids("recovery") as ids:
        run = _Run(workload, seed, ids, deeper_one_in, failures_max)
        for moment in moments:
            if deadline is not None and time.monotonic() > deadline:
                break
            if any(failure.promise == until for failure in run.failures):
                break
            if (
                only in {None, moment.number}
                and fnmatch.fnmatch(moment.call, calls)
                and (moment.number + seed) % one_in == 0
            ):
                run.crash(moment)
    return Tried(
        workload,
        seed,
        len(moments),
        frozenset(run.heads),
        frozenset(run.deeper.keys() - run.heads.keys()),
        run.oracle.recoveries,
        tuple(run.failures),
    )


class _Run:
    def __init__(
        self,
        workload: str,
        seed: int,
        ids: random.Random,
        deeper_one_in: int,
        failures_max: int,
    ) -> None:
        self.workload = workload
        self.seed = seed
        self.oracle = Oracle(ids)
        #: The last event on each disk that was judged.
        self.heads: dict[bytes, int] = {}
        self.deeper: dict[bytes, int] = {}
        self.failures: list[Failure] = []
        self._deeper_one_in = deeper_one_in
        self._failures_max = failures_max

    def crash(self, moment: CrashPoint) -> None:
        """Judge the disks that a crash at this moment leaves."""
        choice = random.Random(f"{self.workload} {self.seed} {moment.number}")  # noqa: S311
        for state in states(moment.disk, choice, FIRST):
            kept = state.disk.clone() if choice.randrange(self._deeper_one_in) == 0 else None
            judged = self._judge(state, moment, self.heads)
            if kept is not None and judged is not None and judged.changed:
                self._crash_recovery(kept, moment, state.choice, judged, choice)

    def _judge(
        self,
        state: State,
        moment: CrashPoint,
        heads: dict[bytes, int],
        before: str = "",
        owed: bytes = b"",
    ) -> Judged | None:
        """The recovered disk, judged; None if it broke a promise or is known already."""
        head = heads.get(state.digest)
        if head is not None and head >= moment.known.acknowledged:
            return None
        if len(self.failures) >= self._failures_max:
            return None
        try:
            judged = self.oracle.judge(state.disk, moment.known, owed)
        except BrokenPromiseError as error:
            self._fail(moment, before + state.choice, error.promise, error.how)
            return None
        heads[state.digest] = judged.head
        return judged

    def _crash_recovery(
        self,
        disk: SimulatedDisk,
        moment: CrashPoint,
        first: str,
        judged: Judged,
        choice: random.Random,
    ) -> None:
        """Crash the recovery of a disk at every moment of it."""
        # Of what was not durable before the recovery, a power cut may take all.
        torn = judged.torn if disk.tree() == disk.durable_tree() else b""
        moments = _moments_of_recovery(disk, moment.known)
        whole = {files_of(at).get(judged.segment) for _, _, at in moments}
        for number, call, at in moments:
            before = f"{first}; then before call {number} of the recovery, `{call}`; "
            for state in states(at, choice, SECOND):
                if torn and files_of(state.disk).get(judged.segment) not in whole:
                    how = f"{judged.segment} is neither as it was nor as it shall be"
                    self._fail(moment, before + state.choice, "a torn segment is whole", how)
                self._judge(state, moment, self.deeper, before, torn)

    def _fail(self, moment: CrashPoint, choice: str, promise: str, how: str) -> None:
        if len(self.failures) < self._failures_max:
            self.failures.append(
                Failure(self.workload, self.seed, moment.number, moment.call, choice, promise, how)
            )


def _moments_of_recovery(disk: SimulatedDisk, known: Known) -> list[tuple[int, str, SimulatedDisk]]:
    """The disk before each call of its recovery, and behind the last."""
    found: list[tuple[int, str, SimulatedDisk]] = []
    disk.before = lambda call: found.append((len(found), call, disk.clone()))
    try:
        open_journal(disk, known.schema, Clock(_RECOVERED_AT))
    except JournalError:
        return []
    finally:
        disk.before = None
    return [*found, (len(found), "the end", disk.clone())]
