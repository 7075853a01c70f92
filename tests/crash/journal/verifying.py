"""Checks `coild-verify` on every disk that a crash leaves of a journal of coild's events.

The workloads are those of the campaign, with coild's events in place of the toy ones: the records
of snapshots and of pruning count, as for a daemon. No crash alters a journal, so verify must never
report that: it is good, or has a torn tail, and a start works and leaves a good journal.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from coild.rules.addresses import Subnet
from coild.rules.events import (
    SCHEMA,
    AddressAllocated,
    AddressReleased,
    BlockAcquired,
    DaemonStarted,
    HistoryPruned,
    JournalCompacted,
    PoolsChanged,
    PoolSpec,
    SegmentsIndexed,
    SnapshotTaken,
)
from coild.rules.projection import Projection
from coild.vocabulary import VOCABULARY
from journal import Policy, prepare, retire
from journal.check.findings import Kind
from journal.compact.prune import plan_pruning, prune
from journal.format.scan import list_decoder
from journal.fs import FileSystem
from tests.crash.journal.session import DIRECTORY, Clock, Opened, Session, open_journal, seeded_ids
from tests.crash.journal.workloads import WORKLOADS
from tests.crash.simulated.disk import SimulatedDisk
from tests.crash.simulated.fates import Bounds
from tests.crash.simulated.states import states
from tests.kits.journal.building import encode
from tools.verify.advice import EXIT_GOOD, EXIT_TORN, explain, status_of
from tools.verify.check import check

#: The others need the toy events, or damage a journal on purpose.
HONEST = sorted(WORKLOADS.keys() - {"repairs", "upgrades"})
_BOUNDS = Bounds(fates_max=27, names_max=16, product_max=30, samples=6)
_LATER = 2 * 10**18
_FAILURES_SHOWN = 3
_SUBNET = Subnet.parse("10.64.0.0/24").key
_BLOCK = Subnet.parse("10.64.0.0/27").key
_DECODER = list_decoder(VOCABULARY.event_type)


class Tried(NamedTuple):
    """How many disks were looked at, how many of them were torn, and what was wrongly said."""

    disks: int
    torn: int
    failures: list[str]


class CoildSession(Session):
    """A session of coild's events, that records what a daemon does."""

    def open(self) -> None:
        """See Session."""
        self.opened = _open(self.disk, self.clock)
        del self.submitted[self.opened.head :]
        self.acknowledged = len(self.submitted)

    def compact(self, meanwhile: Callable[[], None] | None = None) -> None:
        """See Session."""
        through = self.journal.log.seal()
        self._meanwhile = meanwhile
        done = prepare(self.disk, DIRECTORY, through, VOCABULARY, Projection(), now=self.clock())
        self._meanwhile = None
        digest = bytes.fromhex(done.digest)
        self._record(SegmentsIndexed(self.clock(), done.indexes))
        self._record(SnapshotTaken(self.clock(), done.sequence, digest, done.snapshot_bytes))
        self._meanwhile = meanwhile
        retire(self.disk, DIRECTORY, SCHEMA)
        self._meanwhile = None
        self._record(JournalCompacted(self.clock(), done.sequence, 1, 1, 1))

    def prune(self) -> None:
        """See Session."""
        pruning = plan_pruning(self.disk, DIRECTORY, SCHEMA, Policy(delete=True), self.clock())
        assert pruning is not None
        self._record(HistoryPruned(self.clock(), pruning.through, 1, 1, "--delete"))
        prune(self.disk, DIRECTORY, pruning.through)

    def _record(self, event: Any) -> None:
        self.journal.log.append([encode(event)])
        self.submitted.append(event)
        self.acknowledged = len(self.submitted)

    def _event(self, value_bytes_max: int) -> Any:
        """A possible next event: one address at a time is held."""
        now = self.clock()
        if not any(isinstance(event, PoolsChanged) for event in self.submitted):
            return PoolsChanged(now, {"default": PoolSpec([_SUBNET], 5)})
        if not any(isinstance(event, BlockAcquired) for event in self.submitted):
            return BlockAcquired(now, _BLOCK, "default")
        if self.choice.random() < 0.2:
            return DaemonStarted(now, "0", "n" * self.choice.randrange(value_bytes_max), "boot")
        number = sum(isinstance(event, AddressAllocated) for event in self.submitted)
        last = next(
            (
                event
                for event in reversed(self.submitted)
                if isinstance(event, AddressAllocated | AddressReleased)
            ),
            None,
        )
        if isinstance(last, AddressAllocated):
            return AddressReleased(
                now,
                last.block,
                last.offset,
                last.container_id,
                last.pod_namespace,
                last.pod_name,
                "default",
                "cni-del",
            )
        name = "w" * (1 + self.choice.randrange(value_bytes_max))
        return AddressAllocated(now, _BLOCK, number % 32, f"c{number}", "default", name, "default")


def try_verify(workload: str, seed: int, disks: int | None = None) -> Tried:
    """Ask of every disk that a crash of the workload leaves; with `disks`, of a sample of these."""
    session = CoildSession(f"{workload} {seed}")
    with seeded_ids(f"ids {workload} {seed}"):
        WORKLOADS[workload](session)
    choice = random.Random(f"verify {workload} {seed}")  # noqa: S311
    moments = session.end()
    choice.shuffle(moments)
    seen: set[bytes] = set()
    torn = 0
    failures: list[str] = []
    each = None if disks is None else -(-disks // len(moments))
    for moment in moments:
        left = list(states(moment.disk, choice, _BOUNDS))
        for state in left if each is None else choice.sample(left, min(each, len(left))):
            if state.digest in seen or not has_journal(state.disk):
                continue
            if disks is not None and len(seen) >= disks:
                break
            seen.add(state.digest)
            try:
                torn += _judge(state.disk)
            except AssertionError as error:
                failures.append(
                    f"{workload}, seed {seed}, before call {moment.number} `{moment.call}`, "
                    f"{state.choice}: {error}"
                )
                if len(failures) >= _FAILURES_SHOWN:
                    return Tried(len(seen), torn, failures)
    return Tried(len(seen), torn, failures)


def _judge(disk: SimulatedDisk) -> bool:
    """Ask, start, ask again; whether it was torn. Raises AssertionError."""
    torn = _ask(disk)
    try:
        _open(disk, Clock(_LATER))
    except Exception as error:
        raise AssertionError(f"a start fails: {error!r}") from error
    assert not _ask(disk), "it is torn after a start"
    return torn


def _ask(disk: SimulatedDisk) -> bool:
    """Whether `coild-verify` says that it is torn. Raises AssertionError if it says anything else.

    As its program does: exit status 0 or 1, and it starts.
    """
    found = check(disk, DIRECTORY, deep=True)
    faults = found.faults
    others = [fault for fault in faults if fault.kind is not Kind.TORN]
    assert not others, f"it is wrong to say {others}"
    assert found.starts, "it says that coild refuses to start"
    told = [explain(found, fault) for fault in faults]
    assert {status_of(fault) for fault in faults} <= {EXIT_GOOD, EXIT_TORN}
    assert not any("altered" in " ".join(advice) for advice in told)
    return bool(faults)


def has_journal(disk: SimulatedDisk) -> bool:
    """Whether there is anything that a tool takes for a journal."""
    return DIRECTORY.name in disk.root.live and any(
        Path(name).suffix in {".seg", ".snap"} for name in disk.list_directory(DIRECTORY)
    )


def _open(fs: FileSystem, clock: Callable[[], int]) -> Opened:
    """Do what a start of coild does."""
    return open_journal(
        fs,
        SCHEMA,
        clock,
        state=Projection(),
        decoder=_DECODER,
        record_of=VOCABULARY.record_of,
    )
