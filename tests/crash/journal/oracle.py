"""The promises that must hold on every disk that a crash leaves.

- It opens, unless the journal was damaged on purpose; then it does after its repair.
- Every confirmed event is there, and what is there is a beginning of what was submitted.
- The state from snapshot and tail is that of a fold over all of it.
- `verify` finds a torn tail where recovery set one aside, nothing where it did not, and nothing
  after it.
- What recovery showed survives a power cut right behind it, and a second recovery changes nothing
  and finds the same.
- What is appended then survives a power cut as well.
"""

from __future__ import annotations

import random
from typing import Any, NamedTuple

from journal import Reader, find, prepare, retire
from journal.check.findings import Fault
from journal.check.verify import verify
from journal.errors import JournalCorruptError, JournalError
from journal.repair.plan import plan_truncation
from journal.repair.truncate import truncate
from tests.crash.journal.session import (
    DIRECTORY,
    Clock,
    Known,
    Opened,
    forget,
    open_journal,
    vocabulary,
)
from tests.crash.simulated.disk import SimulatedDisk
from tests.crash.simulated.states import tree_digest
from tests.crash.simulated.trees import ASIDE, changed_names, essence, flat, names_of, torn_tail
from tests.kits.journal.building import Event, Put, encode
from tests.kits.journal.compaction import VOUCHED_KEYS, State, state_of

_LATER = 2 * 10**18
_COMPACTED_ONE_IN = 4


class BrokenPromiseError(Exception):
    """A promise was not kept on a disk that a crash left: which, and how."""

    def __init__(self, promise: str, how: str) -> None:
        self.promise = promise
        self.how = how
        super().__init__(f"{promise}: {how}")


class Judged(NamedTuple):
    """A disk that kept all promises."""

    #: The last event that it holds.
    head: int
    #: Whether recovery changed more than the lock.
    changed: bool
    #: The unfinished write that recovery set aside, if there was one, and the segment's path.
    torn: bytes
    segment: str


class Oracle:
    """Judges disks, and remembers those that recovery has brought to the same end before."""

    def __init__(self, ids: random.Random) -> None:
        """`ids` is what makes the journal's random ids: see `session.seeded_ids`."""
        self._ids = ids
        self._lives: set[tuple[bytes, int, int, int]] = set()
        #: How often a journal was opened.
        self.recoveries = 0

    def judge(self, disk: SimulatedDisk, known: Known, owed: bytes = b"") -> Judged:
        """Recover `disk`, which is changed. Raises BrokenPromiseError.

        `owed` is what a recovery was setting aside when it crashed.
        """
        # Else no two new journals, or later segments, would be alike.
        self._ids.seed(0)
        before, image = names_of(disk), tree_digest(essence(disk.tree()))
        faults = self._verify(disk, known)
        segment, torn = torn_tail(disk, faults)
        repaired = False
        try:
            opened = self._open(disk, known)
        except JournalCorruptError as error:
            if not known.damaged:
                raise BrokenPromiseError("it opens", str(error)) from None
            self._repair(disk, known)
            self._reopen(
                SimulatedDisk.holding(disk.durable_tree()),
                known,
                "a repair survives a power cut",
                known.acknowledged,
            )
            opened = self._open(disk, known)
            repaired = True
        head = self._check_content(opened, known)
        if head == known.repaired and not opened.unrecorded:
            raise BrokenPromiseError("repairs are told until recorded", "one is not told")
        if not repaired:
            self._check_told(disk, faults, torn=bool(torn), new=names_of(disk) - before)
            for aside in filter(None, (torn, owed)):
                self._check_kept(disk, opened, aside)
        changed = names_of(disk) != before or tree_digest(essence(disk.tree())) != image
        life = self._life(disk, opened, known)
        if life not in self._lives:
            self._check_life(disk, opened, known)
            self._lives.add(life)
        return Judged(head, changed, torn, segment)

    def _open(self, disk: SimulatedDisk, known: Known) -> Opened:
        self.recoveries += 1
        try:
            return open_journal(disk, known.schema, Clock(_LATER))
        except JournalCorruptError:
            raise
        except (JournalError, OSError) as error:
            raise BrokenPromiseError("it opens", repr(error)) from error

    def _verify(self, disk: SimulatedDisk, known: Known) -> list[Fault]:
        if DIRECTORY.name not in disk.root.live:
            return []
        try:
            found = verify(disk, DIRECTORY, vocabulary(known.schema))
        except (JournalError, OSError) as error:
            raise BrokenPromiseError("verify says what recovery does", repr(error)) from error
        # A crash spoils indexes, but a good one that hides events is someone's work.
        return found.faults + found.altered_indexes

    def _check_told(
        self, disk: SimulatedDisk, faults: list[Fault], *, torn: bool, new: set[str]
    ) -> None:
        """`verify` has found a torn tail where recovery set one aside, and nothing else."""
        aside = any(ASIDE in name for name in new)
        if aside != torn or len(faults) != torn:
            told = [f"{fault.kind.name} {fault.file.name}: {fault.reason}" for fault in faults]
            raise BrokenPromiseError(
                "verify says what recovery does", f"{told}, and {sorted(new)} are new"
            )

    def _check_kept(self, disk: SimulatedDisk, opened: Opened, aside: bytes) -> None:
        """Bytes set aside are in their own file, durably, and reported to the program."""
        kept = flat(disk.durable_tree())
        if not any(ASIDE in name and content == aside for name, content in kept.items()):
            raise BrokenPromiseError(
                "what is set aside is kept", f"{len(aside)} bytes are in no file"
            )
        if not opened.unrecorded:
            raise BrokenPromiseError("repairs are told until recorded", "one is not told")

    def _repair(self, disk: SimulatedDisk, known: Known) -> None:
        """Cut the damage off."""
        truncation = plan_truncation(disk, DIRECTORY, vocabulary(known.schema), State(), _LATER)
        if truncation is None:
            raise BrokenPromiseError("a repair mends it", "there is nothing to repair")
        truncate(disk, DIRECTORY, truncation, _LATER)

    def _check_content(self, opened: Opened, known: Known) -> int:
        head, state = opened.head, opened.state
        if head < known.acknowledged:
            raise BrokenPromiseError(
                "confirmed events are there",
                f"{known.acknowledged} were confirmed, it ends with {head}",
            )
        if head > len(known.submitted):
            raise BrokenPromiseError(
                "it has nothing but what was submitted",
                f"{len(known.submitted)} were submitted, it ends with {head}",
            )
        if state.dump() != state_of(known.submitted[:head]).dump():
            raise BrokenPromiseError("the state is the fold of the events", f"not that of {head}")
        return head

    def _life(
        self, disk: SimulatedDisk, opened: Opened, known: Known
    ) -> tuple[bytes, int, int, int]:
        """Names all that what comes next depends on."""
        digests = (tree_digest(essence(tree)) for tree in (disk.tree(), disk.durable_tree()))
        return b"".join(digests), opened.unrecorded, known.schema, known.pruned

    def _check_life(self, disk: SimulatedDisk, opened: Opened, known: Known) -> None:
        """Check the life after a recovery. Leaves the journal open."""
        head, unrecorded = opened.head, opened.unrecorded
        after = disk.tree()
        cut = SimulatedDisk.holding(disk.durable_tree())
        again = self._reopen(cut, known, "what it shows survives a power cut", head)
        if again.unrecorded != unrecorded:
            raise BrokenPromiseError("repairs are told until recorded", "not after a power cut")
        second = SimulatedDisk.holding(after)
        again = self._reopen(second, known, "a second recovery finds the same", head)
        if second.tree() != after:
            names = sorted(changed_names(after, second.tree()))
            raise BrokenPromiseError("a second recovery changes nothing", f"{names} changed")
        if again.unrecorded != unrecorded:
            raise BrokenPromiseError("repairs are told until recorded", "not a second time")
        faults = self._verify(second, known)
        if faults:
            raise BrokenPromiseError("verify finds nothing after a recovery", f"{faults}")
        self._check_history(second, known, head)
        # On the disk itself: what recovery should have flushed is not durable by itself.
        self._check_appending(disk, opened, known)

    def _reopen(self, disk: SimulatedDisk, known: Known, promise: str, head: int) -> Opened:
        try:
            opened = self._open(disk, known)
        except (JournalCorruptError, BrokenPromiseError) as error:
            raise BrokenPromiseError(promise, str(error)) from None
        if opened.head != head:
            raise BrokenPromiseError(promise, f"it ended with {head}, now with {opened.head}")
        if opened.state.dump() != state_of(known.submitted[:head]).dump():
            raise BrokenPromiseError(promise, "the state is another")
        return opened

    def _check_history(self, disk: SimulatedDisk, known: Known, head: int) -> None:
        """All events are there but those that were pruned on order."""
        reader = Reader(DIRECTORY, Event, schema=known.schema, fs=disk)
        beginning = sequence = 0
        try:
            for batch in reader.batches():
                beginning = beginning or batch.first_sequence
                if beginning - 1 > known.pruned:
                    raise BrokenPromiseError("history is whole", f"it begins with {beginning}")
                end = batch.first_sequence + len(batch.events) - 1
                if list(known.submitted[batch.first_sequence - 1 : end]) != batch.events:
                    raise BrokenPromiseError("history is whole", f"other events before {end}")
                sequence = end
        except (JournalError, OSError) as error:
            raise BrokenPromiseError("history is whole", repr(error)) from error
        if sequence != head and head:
            raise BrokenPromiseError("history is whole", f"it ends with {sequence}, not {head}")
        self._check_finding(reader, known.submitted[:head], beginning)

    def _check_finding(self, reader: Reader, events: tuple[Any, ...], beginning: int) -> None:
        """The indexes lead to all events with a key, whatever became of them."""
        key = events[-1].key if events else ""
        try:
            found = list(find(reader, VOUCHED_KEYS, b"k" + key.encode()))
        except (JournalError, OSError) as error:
            raise BrokenPromiseError("history is found", repr(error)) from error
        expected = [
            (sequence, event)
            for sequence, event in enumerate(events, start=1)
            if event.key == key and sequence >= beginning
        ]
        if found != expected:
            raise BrokenPromiseError("history is found", f"not all of {key}")

    def _check_appending(self, disk: SimulatedDisk, opened: Opened, known: Known) -> None:
        """Repairs are recorded, events appended, a segment sealed, all compacted: it survives."""
        events = list(known.submitted[: opened.head])

        def append(value_bytes: int) -> None:
            event = Put(f"later-{len(events)}", bytes(range(1, 251)) * (value_bytes // 250))
            opened.log.append([encode(event)])
            events.append(event)

        for _ in range(max(1, opened.unrecorded)):
            append(250)
        forget(disk)
        append(4000)
        # Before a roll-over flushes the names as well.
        self._check_later(disk, known._replace(submitted=tuple(events)))
        opened.log.seal()
        append(500)
        later = known._replace(submitted=tuple(events))
        self._check_later(disk, later)
        # Dear, and not much more likely to fail on one disk than on the next.
        if len(self._lives) % _COMPACTED_ONE_IN:
            return
        through = opened.log.seal()
        state = State()
        try:
            prepare(disk, DIRECTORY, through, vocabulary(known.schema), state, now=_LATER)
            retire(disk, DIRECTORY, known.schema)
        except (JournalError, ValueError) as error:
            raise BrokenPromiseError("it can be compacted", repr(error)) from error
        self._check_later(disk, later)

    def _check_later(self, disk: SimulatedDisk, later: Known) -> None:
        cut = SimulatedDisk.holding(disk.durable_tree())
        promise = "what is appended after a recovery survives"
        opened = self._reopen(cut, later, promise, len(later.submitted))
        if opened.unrecorded:
            raise BrokenPromiseError("repairs are told until recorded", "and not after that")
        self._check_history(cut, later, len(later.submitted))
        if found := self._verify(cut, later):
            how = f"it does later: {found}"
            raise BrokenPromiseError("verify finds nothing after a recovery", how)
