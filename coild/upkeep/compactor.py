"""The daemon's part of compaction: what only the writer may do, and when to do it.

The heavy part (reading, indexing, folding, compressing) is done by a `Worker`: in the daemon a
process of its own, so that requests do not notice. What is left here are a roll-over, a few events
and the removal of files that are elsewhere by then.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec

from coild.rules.events import (
    Event,
    HistoryPruned,
    JournalCompacted,
    SegmentsIndexed,
    SnapshotTaken,
)
from coild.rules.projection import Projection
from coild.upkeep.ages import age_now
from coild.upkeep.compaction_plan import CompactionPlan, plan_compaction, snapshot_with_nothing_new
from coild.upkeep.prune_orders import describe, take_order
from coild.vocabulary import VOCABULARY
from journal import (
    CompactionRunsError,
    Journal,
    JournalError,
    JournalFailedError,
    OsFileSystem,
    Policy,
    Prepared,
    SnapshotRecord,
    Taken,
    plan_pruning,
    prune,
    retire,
)

logger = logging.getLogger(__name__)

#: How often to look whether there is something to do.
_LOOK_SECONDS = 1.0
#: After a failure: soon enough to heal by itself, seldom enough not to fill the log.
_RETRY_SECONDS = 600.0
_RUNS_SECONDS = 30.0
#: Over HTTP and without an order, a compaction that writes is to be had so often.
PAUSE_SECONDS = 60.0
#: Of one event: it must fit into the smallest frame there is (6 KiB).
_INDEXES_MAX = 100


class Compaction(msgspec.Struct, frozen=True, rename="kebab"):
    """What a compaction did. Sizes are in bytes."""

    #: The snapshot is of the state after this event, and `digest` names it.
    sequence: int
    digest: str
    snapshot_bytes: int
    #: Moved to the archive: how many, their bytes before and there.
    segments: int = 0
    segment_bytes: int = 0
    archive_bytes: int = 0
    #: Removed from the archive because someone ordered it.
    pruned_through: int = 0
    pruned_segments: int = 0
    pruned_bytes: int = 0
    #: Nothing had happened since the last one, so nothing was written.
    nothing_new: bool = False


class TooSoonError(Exception):
    """A compaction was asked for over HTTP, shortly after another that was."""

    def __init__(self, retry_seconds: int) -> None:
        """`retry_seconds` is how long it takes until the next may be had."""
        self.retry_seconds = retry_seconds
        super().__init__(
            f"a compaction was asked for less than {PAUSE_SECONDS:.0f} s ago; the next may be in "
            f"{retry_seconds} s, or at once by coild-compact"
        )


class Worker(Protocol):
    """Does the heavy part."""

    async def index(self) -> dict[int, bytes]:
        """`journal.index_sealed`. Raises JournalError, OSError."""

    async def prepare(self, through: int) -> Prepared:
        """`journal.prepare` up to the sequence `through`. Raises JournalError, OSError."""

    def kill(self) -> None:
        """End what is at work, if anything is."""


class Compactor:
    """Compacts one journal, once at a time. Belongs to one event loop."""

    def __init__(
        self,
        journal: Journal,
        record: Callable[[Event], Awaitable[None]],
        worker: Worker,
        directory: Path,
        *,
        clock: Callable[[], int],
        newest: Callable[[], int],
        stepped: Callable[[], int],
        compact_after: int,
    ) -> None:
        """`record` journals an event, durable on return. `compact_after` is in bytes; 0: never.

        `clock` gives events their time, `newest` is that of the newest one, and `stepped` by how
        much the system's clock was set forward, all in ns.
        """
        self._journal = journal
        self._record = record
        self._worker = worker
        self._directory = directory
        self._clock = clock
        self._newest = newest
        self._stepped = stepped
        self._compact_after = compact_after
        self._fs = OsFileSystem()
        self._task: asyncio.Task[Compaction] | None = None
        self._planning: asyncio.Task[CompactionPlan] | None = None
        #: Another number after each compaction; odd while one is at work.
        self.generation = 0
        # The worker does one thing at a time.
        self._working = asyncio.Lock()
        self._closed = False
        # When one that was asked for over HTTP, without an order, began to write.
        self._asked_at = -math.inf

    async def compact(
        self, *, order: str = "", policy: Policy | None = None, limited: bool = False
    ) -> Compaction:
        """Snapshot the state and archive what it covers, then prune; done on return.

        `order` is the token of an order that someone left, `policy` one that was given here. With
        `limited`, and without an order, it may be too soon.
        A caller that is cancelled does not end it. Raises CompactionRunsError if one is at work,
        OrderError, TooSoonError, AgeUnknownError, JournalError.
        """
        if self._closed:
            raise JournalFailedError("the daemon is stopping, so there is no compaction")
        self._refuse_while_running()
        self._task = asyncio.create_task(self._compact(order, policy, limited=limited))
        # All callers may be cancelled by then: this looks at its error.
        self._task.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            return await asyncio.shield(self._task)
        except asyncio.CancelledError:
            if self._closed:
                raise JournalFailedError("the daemon stopped the compaction") from None
            raise

    async def dry_run(self) -> CompactionPlan:
        """The plan of what `compact` would do now, without an order; calls meanwhile share it.

        Raises CompactionRunsError if one is at work, JournalError.
        """
        self._refuse_while_running()
        if self._planning is None or self._planning.done():
            look = partial(plan_compaction, self._fs, self._directory)
            self._planning = asyncio.create_task(
                asyncio.to_thread(look, self._journal.durable_sequence)
            )
            self._planning.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            return await asyncio.shield(self._planning)
        except OSError as error:
            # One that began meanwhile moves files.
            self._refuse_while_running()
            where = f" {error.filename}" if error.filename else ""
            raise JournalError(f"cannot look at{where}: {error.strerror or error}") from error

    async def run(self) -> None:
        """Index segments as they are sealed, and compact when the journal has grown."""
        loop = asyncio.get_running_loop()
        # What an earlier run sealed may lack its index.
        indexed = -1 if self._journal.recovered.segments > 1 else 0
        not_before = 0.0
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            if loop.time() < not_before:
                continue
            try:
                if self._compact_after and self._journal.tail_bytes > self._compact_after:
                    done = await self.compact()
                    logger.info(
                        "compacted: snapshot %d, %d segments archived", done.sequence, done.segments
                    )
                    indexed = self._journal.sealed
                elif self._journal.sealed != indexed:
                    sealed = self._journal.sealed
                    async with self._working:
                        made = await self._worker.index()
                    await self._record_indexes(made)
                    indexed = sealed
            except CompactionRunsError:
                # One that was asked for, which does all of this, or one of a daemon before this.
                not_before = loop.time() + _RUNS_SECONDS
            except Exception as error:
                if self._closed:
                    return
                known = isinstance(error, JournalError | OSError)
                logger.log(
                    logging.ERROR,
                    "the upkeep of the journal failed, nothing is lost: %s",
                    error,
                    exc_info=None if known else error,
                )
                not_before = loop.time() + _RETRY_SECONDS

    async def close(self) -> None:
        """End what is at work; the next run finishes it."""
        self._closed = True
        self._worker.kill()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _refuse_while_running(self) -> None:
        if self._task is not None and not self._task.done():
            raise CompactionRunsError(self._directory)

    async def _compact(self, order: str, policy: Policy | None, *, limited: bool) -> Compaction:
        if order:
            # In a thread, as all that touches these files: a disk may hold it up.
            policy = await asyncio.to_thread(take_order, self._directory, order)
        self.generation += 1
        try:
            return await self._steps(policy, limited=limited and not order)
        except OSError as error:
            where = f" at {error.filename}" if error.filename else ""
            raise JournalError(
                f"the compaction failed{where}: {error.strerror or error}; nothing is lost, the "
                "next one finishes it"
            ) from error
        finally:
            self.generation += 1

    async def _steps(self, policy: Policy | None, *, limited: bool) -> Compaction:
        now = 0
        if policy is not None:
            # Before anything is recorded: its times would say nothing of the clock.
            now = age_now(policy, time.time_ns(), self._newest(), stepped=self._stepped())
        kept = await asyncio.to_thread(self._nothing_new, self._journal.durable_sequence)
        if kept is not None:
            return kept if policy is None else await self._prune(policy, now, kept)
        if limited:
            moment = asyncio.get_running_loop().time()
            left = self._asked_at + PAUSE_SECONDS - moment
            if left > 0:
                raise TooSoonError(math.ceil(left))
            self._asked_at = moment
        through = await self._journal.seal()
        if not through:
            # Without an event there is no segment to archive, nor a state to keep.
            return Compaction(0, Projection().digest(), 0)
        covered = self._journal.tail_bytes
        async with self._working:
            prepared = await self._worker.prepare(through)
        await self._record_indexes(prepared.indexes)
        await self._record(
            SnapshotTaken(
                self._clock(), through, bytes.fromhex(prepared.digest), prepared.snapshot_bytes
            )
        )
        taken = Taken(SnapshotRecord(through, bytes.fromhex(prepared.digest)), prepared.before)
        retired = await asyncio.to_thread(
            retire, self._fs, self._directory, VOCABULARY.schema, taken
        )
        self._journal.covered(covered)
        if retired.segments:
            await self._record(
                JournalCompacted(
                    self._clock(), through, retired.segments, retired.bytes, prepared.archive_bytes
                )
            )
        done = Compaction(
            sequence=through,
            digest=prepared.digest,
            snapshot_bytes=prepared.snapshot_bytes,
            segments=retired.segments,
            segment_bytes=retired.bytes,
            archive_bytes=prepared.archive_bytes,
        )
        return done if policy is None else await self._prune(policy, now, done)

    async def _record_indexes(self, made: dict[int, bytes]) -> None:
        """Record the digests of these indexes, by which the journal vouches for them."""
        digests = sorted(made.items())
        for start in range(0, len(digests), _INDEXES_MAX):
            part = dict(digests[start : start + _INDEXES_MAX])
            await self._record(SegmentsIndexed(self._clock(), part))

    def _nothing_new(self, last: int) -> Compaction | None:
        """The last compaction, if up to the event `last` nothing is worth another one."""
        taken = snapshot_with_nothing_new(self._fs, self._directory, last)
        if taken is None:
            return None
        return Compaction(taken.sequence, taken.digest.hex(), taken.size, nothing_new=True)

    async def _prune(self, policy: Policy, now: int, done: Compaction) -> Compaction:
        """Lose history, after the journal says so. Its age is counted from `now`."""
        going = await asyncio.to_thread(
            plan_pruning, self._fs, self._directory, VOCABULARY.schema, policy, now
        )
        if going is not None:
            await self._record(
                HistoryPruned(
                    self._clock(), going.through, going.segments, going.bytes, describe(policy)
                )
            )
            await asyncio.to_thread(prune, self._fs, self._directory, going.through)
            logger.warning(
                "history up to %d was removed by order: %s", going.through, describe(policy)
            )
            done = msgspec.structs.replace(
                done,
                pruned_through=going.through,
                pruned_segments=going.segments,
                pruned_bytes=going.bytes,
            )
        return done
