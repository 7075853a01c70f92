"""Group commit: encoded events come from an event loop, and are made durable in batches.

`put` only queues. One thread takes all that is queued, writes it as one frame with one flush, and
wakes all waiting calls with one call into the loop. While it flushes, the next batch forms: there
is no timer, and no event waits for others.

The alternatives are worse: a flush on the loop stalls every other request for as long as the disk
takes, and a flush for each request in a thread pool costs four fifths of the throughput. On a quick
disk, a single caller pays for two thread switches besides its flush: that is the price for reads,
probes and a watchdog that never wait for a disk.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from journal.errors import (
    JournalBusyError,
    JournalDisplacedError,
    JournalError,
    JournalFailedError,
)
from journal.format.codec import FRAME_EVENTS_MAX, FRAME_HEADER_BYTES
from journal.write.segment_writer import FRAME_OVERHEAD_BYTES, Log

logger = logging.getLogger(__name__)

#: Quiet for this long, the journal vouches for its last frame with a mark. So often, too, a journal
#: without new events is looked at: whether it is still where it was.
IDLE_SECONDS = 0.5

#: Bytes counted for an event besides its own: its own frame, and the mark that is written when the
#: journal is idle after it.
EVENT_OVERHEAD_BYTES = FRAME_OVERHEAD_BYTES + FRAME_HEADER_BYTES

OnFailure = Callable[[JournalFailedError], None]


class GroupCommit:
    """The queue in front of a Log, its writer thread, and the waiting calls."""

    def __init__(self, log: Log, written: Callable[[], None]) -> None:
        """`written` is called after each batch, from the thread that wrote it."""
        self._log = log
        self._on_written = written
        self._on_failure: OnFailure | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="journal-writer", daemon=True)
        # The loop appends to the deque, the writer pops: neither ever replaces it, so no event can
        # fall between two lists.
        self._queued: deque[bytes] = deque()
        self._wakeups: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._woken = False
        # Of `seal`: the bytes to count as written, and the waiting call.
        self._seals: deque[tuple[int, asyncio.Future[int]]] = deque()
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()
        #: The reason why nothing will ever be written again, or None.
        self.failure: JournalFailedError | None = None
        #: The sequence of the last event that is durable.
        self.durable_sequence = log.next_sequence - 1
        #: The bytes written so far, counted as for admission.
        self.written_bytes = 0

    def start(self, on_failure: OnFailure | None) -> None:
        """Start the thread; call it in the loop that will put events."""
        self._loop = asyncio.get_running_loop()
        self._on_failure = on_failure
        self._thread.start()

    def put(self, data: bytes) -> None:
        """Queue an encoded event."""
        self._queued.append(data)
        self._wake()

    async def durable(self, sequence: int) -> None:
        """Wait until the event `sequence` and all before it are durable.

        Raises JournalFailedError if they never will be, as far as this process can tell.
        """
        if sequence <= self.durable_sequence:
            return
        if self.failure is not None:
            raise self.failure
        # A future for each call, so that cancelling one cancels no other. A reader may wait for
        # less than the one before it in line, and is woken a batch late at most.
        future = asyncio.get_running_loop().create_future()
        self._waiters.append((sequence, future))
        await future

    async def seal(self, counted: int) -> int:
        """Write what is queued, then go on in a new segment; the last sequence before it.

        `counted` bytes count as written when that is done, or was given up with JournalBusyError
        because no spare was ready. Raises JournalFailedError.
        """
        if self.failure is not None:
            raise self.failure
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._seals.append((counted, future))
        self._wakeups.put(True)
        return await future

    async def stop(self) -> None:
        """Write what is queued and a mark, unless something failed, and end the thread."""
        if self._loop is not None:
            self._wakeups.put(False)
            await asyncio.to_thread(self._thread.join)
        self._wake_waiters()
        if self.failure is None:
            self._fail(JournalFailedError("the journal is closed"))

    def call(self, function: Callable[..., None], *args: Any) -> None:
        """Have the loop call `function`; if the loop is closed, no call waits any more."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *args)

    def _wake(self) -> None:
        """Wake the thread, unless it is going to look at the queue anyway."""
        if not self._woken:
            self._woken = True
            self._wakeups.put(True)

    def _run(self) -> None:
        """The writer thread."""
        going_on = True
        try:
            while going_on:
                try:
                    going_on = self._wakeups.get(timeout=IDLE_SECONDS)
                except queue.Empty:
                    self._rest()
                else:
                    # Before the queue is read: a `put` from here on wakes us again.
                    self._woken = False
                    if self._drain():
                        self.call(self._wake_waiters)
                    self._seal()
            # A start that appended nothing leaves the journal as it found it.
            if self.written_bytes:
                self._log.mark()
        except BaseException as error:  # noqa: BLE001
            self._poison(error)

    def _rest(self) -> None:
        """After a quiet time: write a mark, or check that the journal is still in place."""
        if self.written_bytes and not self._log.marked:
            self._log.mark()
        else:
            self._log.check()

    def _drain(self) -> bool:
        """Write all that is queued, a frame at a time; whether there was anything."""
        log, queued = self._log, self._queued
        if not queued:
            return False
        while queued:
            batch: list[bytes] = []
            room = log.frame_bytes_max - FRAME_OVERHEAD_BYTES
            while queued and len(queued[0]) <= room and len(batch) < FRAME_EVENTS_MAX:
                room -= len(queued[0])
                batch.append(queued.popleft())
            log.append(batch)
            self.written_bytes += sum(map(len, batch)) + EVENT_OVERHEAD_BYTES * len(batch)
            self.durable_sequence = log.next_sequence - 1
            self._on_written()
            if queued:
                # Calls that wait for this frame need not wait for the next one.
                self.call(self._wake_waiters)
        return True

    def _seal(self) -> None:
        """Go on in a new segment for each waiting call of `seal`."""
        while self._seals:
            counted, future = self._seals[0]
            # Events queued before the request may have come after the queue was last read.
            if self._drain():
                self.call(self._wake_waiters)
            sequence = self._log.seal() if self._log.spare.ready else None
            # Only now: `_fail` reports errors. And before the caller is told, because a caller that
            # appends then needs the room that was held for this.
            self._seals.popleft()
            self.written_bytes += counted
            self._on_written()
            if sequence is not None:
                self.call(_set_result, future, sequence)
            else:
                # Another roll-over took the spare. To make one here could meet a full disk.
                busy = JournalBusyError("the next segment is being prepared")
                self.call(_set_exception, future, busy)

    def _wake_waiters(self) -> None:
        durable = self.durable_sequence
        waiters = self._waiters
        while waiters and waiters[0][0] <= durable:
            future = waiters.popleft()[1]
            if not future.done():
                future.set_result(None)

    def _poison(self, error: BaseException) -> None:
        """Never write again, and fail all waiting calls; also for errors other than OSError."""
        logger.critical("the journal failed at %s: %s", self._log.path, error)
        failure = JournalFailedError(
            str(error)
            if isinstance(error, JournalDisplacedError)
            else f"writing the journal {self._log.path} failed: {error}"
        )
        failure.__cause__ = error
        self.failure = failure
        self.call(self._fail, failure)

    def _fail(self, failure: JournalFailedError) -> None:
        self.failure = failure
        waiting: list[asyncio.Future[Any]] = [future for _, future in self._waiters]
        waiting += [future for _, future in self._seals]
        for future in waiting:
            _set_exception(future, failure)
        self._waiters.clear()
        self._seals.clear()
        if self._on_failure is not None and failure.__cause__ is not None:
            self._on_failure(failure)


def _set_result(future: asyncio.Future[int], result: int) -> None:
    if not future.done():
        future.set_result(result)


def _set_exception(future: asyncio.Future[Any], error: JournalError) -> None:
    if not future.done():
        future.set_exception(error)
