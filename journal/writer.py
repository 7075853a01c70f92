"""Group commit: events come from an event loop, and are made durable in batches.

`append` only queues. The thread takes all that is queued, writes it as one frame with one flush,
and wakes everyone who waited with one call into the loop. While it flushes, the next batch forms:
there is no timer, and nobody waits for company.

Of the alternatives, a flush on the loop stalls every other request for as long as the disk takes,
and a flush for each request in a pool costs four fifths of the throughput. But one caller alone, on
a disk that is quick, pays more for the two changes of thread than for the flush. So when the last
batches had one event each and the disk was quick, the loop flushes the next one itself: there is
nobody to stall, and the first sign of company or of a slow disk hands the work back.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import msgspec

from journal.codec import (
    FRAME_EVENTS_MAX,
    FRAME_HEADER_BYTES,
    SEGMENT_BYTES_MAX,
    SEGMENT_BYTES_MIN,
    SEGMENT_HEADER_BYTES,
)
from journal.errors import (
    EventTooLargeError,
    JournalBusyError,
    JournalFailedError,
    JournalFullError,
)
from journal.fs import FileSystem, OsFileSystem
from journal.log import FRAME_OVERHEAD_BYTES, Log
from journal.recovery import Progress, Recovered, recover
from journal.scan import Deliver
from journal.segments import acquire_lock
from journal.spare import Spare, SpareKeeper

logger = logging.getLogger(__name__)

DEFAULT_SEGMENT_BYTES = 16 * 1024 * 1024
#: Quiet for this long, the journal vouches for its last frame with a mark.
IDLE_SECONDS = 0.5
#: After so many batches of one event in a row, the caller is taken to be alone.
ALONE_BATCHES = 16
#: A flush that takes longer than this may not hold up the loop.
QUICK_SECONDS = 0.001

#: What an event is counted for besides its own bytes: a frame to itself, and the mark that is
#: written when the journal falls idle behind it.
_EVENT_OVERHEAD_BYTES = FRAME_OVERHEAD_BYTES + FRAME_HEADER_BYTES

_Append = tuple[int, "asyncio.Future[None]"]


class Journal:
    """An append-only, crash-safe journal of msgspec events, and its one writer.

    `open` recovers, `start` starts the threads; then `append` and `durable` belong to the event
    loop's thread. What `durable` has confirmed survives a crash of the process and of the machine.
    """

    def __init__(
        self, fs: FileSystem, lock_fd: int, recovered: Recovered, log: Log, spare: Spare
    ) -> None:
        self._fs = fs
        self._lock_fd = lock_fd
        self._log = log
        self._encode = msgspec.msgpack.Encoder().encode
        self._keeper = SpareKeeper(spare, self._space_changed)
        self._thread = threading.Thread(target=self._run, name="journal-writer", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_failure: Callable[[JournalFailedError], None] | None = None
        self._failure: JournalFailedError | None = None
        # The loop appends to the deque, the thread pops: neither ever replaces it, so no event can
        # fall between two lists.
        self._queued: deque[bytes] = deque()
        self._wakeups: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._woken = False
        # Held by whoever writes: the thread, or the loop when its caller is alone.
        self._writing = threading.Lock()
        self._alone = 0
        self._turn_used = False
        self._waiters: deque[_Append] = deque()
        self._room_waiters: list[asyncio.Future[None]] = []
        # Bytes ever taken, written by the loop only, and ever written, by the thread only: their
        # difference is what is queued, without a lock.
        self._taken = 0
        self._written = 0
        self._taken_max = 0
        self._event_bytes_max = 0
        #: What recovery found.
        self.recovered = recovered
        #: The sequence of the last event appended, and of the last one that is durable.
        self.last_sequence = log.next_sequence - 1
        self.durable_sequence = self.last_sequence

    @classmethod
    def open(
        cls,
        directory: Path,
        event_type: Any,
        *,
        schema: int,
        replay: Deliver,
        segment_bytes: int = DEFAULT_SEGMENT_BYTES,
        progress: Progress | None = None,
        fs: FileSystem | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> Self:
        """Become the writer of `directory`, recover it, and hand all its events to `replay`.

        `event_type` is what msgspec decodes one event to (a tagged struct or a union of them),
        `schema` the number of that vocabulary: a journal with a higher one is refused. `replay` is
        called with lists of events in order. `clock` gives ns since the epoch.

        Raises JournalLockedError, JournalCorruptError, JournalUnsupportedError, OSError; nothing
        has been changed then. ValueError for a segment size out of bounds.
        """
        if not SEGMENT_BYTES_MIN <= segment_bytes <= SEGMENT_BYTES_MAX:
            raise ValueError(
                f"a segment has {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX} bytes, "
                f"not {segment_bytes}"
            )
        fs = fs or OsFileSystem()
        fs.make_directory(directory)
        lock_fd = acquire_lock(fs, directory)
        try:
            recovered = recover(
                fs,
                directory,
                schema=schema,
                segment_bytes=segment_bytes,
                now=clock(),
                decoder=msgspec.msgpack.Decoder(list[event_type]),
                deliver=replay,
                progress=progress,
            )
        except BaseException:
            fs.close(lock_fd)
            raise
        spare = Spare(fs, directory, segment_bytes)
        return cls(fs, lock_fd, recovered, Log(fs, recovered, spare, schema, clock), spare)

    @property
    def head(self) -> str:
        """`sequence:digest`: names the journal's whole content. Exact while nothing is queued."""
        return f"{self._log.next_sequence - 1}:{self._log.digest.hex()}"

    @property
    def path(self) -> Path:
        """The segment that is being written."""
        return self._log.path

    @property
    def trouble(self) -> str | None:
        """Why the journal takes only essential events at the moment, or None."""
        return self._keeper.trouble

    def start(self, on_failure: Callable[[JournalFailedError], None] | None = None) -> None:
        """Start writing; to be called in the event loop that will append.

        `on_failure` is called in the loop, once, when a write or flush failed.
        """
        self._loop = asyncio.get_running_loop()
        self._on_failure = on_failure
        self._thread.start()
        self._keeper.start()
        self._keeper.want()

    def append(self, event: msgspec.Struct, *, essential: bool = False) -> int:
        """Queue `event`, and return its sequence. It is not durable yet: see `durable`.

        `essential` events may use the space that is reserved for them when the disk is full.
        Raises JournalFullError, JournalBusyError (wait with `room`, then try again),
        JournalFailedError, EventTooLargeError: then the event was not taken.
        """
        if self._failure is not None:
            raise self._failure
        if self._keeper.trouble is not None and not essential:
            raise JournalFullError(f"no space for the journal: {self._keeper.trouble}")
        data = self._encode(event)
        taken = self._taken + len(data) + _EVENT_OVERHEAD_BYTES
        if taken > self._taken_max or len(data) > self._event_bytes_max:
            self._make_room(len(data), taken)
        self._taken = taken
        self._queued.append(data)
        if self._alone >= ALONE_BATCHES and not self._turn_used and self._loop is not None:
            # `durable` will flush it. If nobody calls that in this turn of the loop, the thread.
            self._turn_used = True
            self._loop.call_soon(self._end_turn)
        else:
            # A second event in one turn of the loop is company.
            self._alone = 0
            self._wake()
        self.last_sequence += 1
        return self.last_sequence

    async def durable(self, sequence: int) -> None:
        """Wait until the event `sequence` and all before it are durable.

        Raises JournalFailedError if they never will be, as far as this process can tell.
        """
        if sequence <= self.durable_sequence:
            return
        if self._alone >= ALONE_BATCHES and self._writing.acquire(blocking=False):
            self._flush_here()
            if sequence <= self.durable_sequence:
                return
        if self._failure is not None:
            raise self._failure
        # A future for each call: whoever hangs up cancels only their own. A reader may wait for
        # less than the one before it in line, and is woken a batch late at most.
        future = asyncio.get_running_loop().create_future()
        self._waiters.append((sequence, future))
        await future

    async def room(self) -> None:
        """Wait until trying `append` again is worth it: there is space, or never will be."""
        if self._keeper.trouble is not None or self._failure is not None:
            return
        if self._log.spare.ready:
            # Then all space is taken by what is queued.
            await self.durable(self.last_sequence)
            return
        future = asyncio.get_running_loop().create_future()
        self._room_waiters.append(future)
        self._keeper.want()
        await future

    async def close(self) -> None:
        """Write what is queued and a mark, then release everything. Idempotent.

        After a failure nothing is written. Raises nothing: what was not durable was told so.
        """
        if self._lock_fd < 0:
            return
        lock_fd, self._lock_fd = self._lock_fd, -1
        if self._loop is not None:
            self._wakeups.put(False)
            await asyncio.to_thread(self._thread.join)
            await asyncio.to_thread(self._keeper.close)
        self._flushed()
        if self._failure is None:
            self._fail(JournalFailedError("the journal is closed"))
        self._log.close()
        self._fs.close(lock_fd)

    def _make_room(self, size: int, taken: int) -> None:
        """Move the bounds up to which events are taken, or say why they cannot move.

        Space that was counted once stays enough: writing an event takes no more of a segment than
        was counted for it, and what a roll-over may waste is counted as used.
        """
        log = self._log
        self._event_bytes_max = log.frame_bytes_max - FRAME_OVERHEAD_BYTES
        if size > self._event_bytes_max:
            raise EventTooLargeError(
                f"an event of {size} bytes does not fit into a frame of {log.frame_bytes_max}"
            )
        # Before the free space is read: what the thread writes in between is then counted twice,
        # the other way round it would not be counted at all.
        written = self._written
        free = log.free_bytes - FRAME_OVERHEAD_BYTES  # the last mark's
        if log.spare.ready:
            wasted = log.frame_bytes_max
            free = max(0, free - wasted) + log.spare.segment_bytes - SEGMENT_HEADER_BYTES
        self._taken_max = written + free
        if taken > self._taken_max:
            if self._keeper.trouble is not None:
                raise JournalFullError(f"no space for the journal: {self._keeper.trouble}")
            raise JournalBusyError("the next segment is being prepared")

    def _wake(self) -> None:
        """Wake the thread, unless it is going to look at the queue anyway."""
        if not self._woken:
            self._woken = True
            self._wakeups.put(True)

    def _end_turn(self) -> None:
        """The loop begins another turn after one in which an event was left to `durable`."""
        self._turn_used = False
        if self._queued:
            self._wake()

    def _flush_here(self) -> None:
        """Flush on the loop; the caller has taken the lock, which is given back."""
        try:
            if self._failure is None:
                marked = self._log.marked
                self._drain()
                if marked:
                    # The thread sleeps without a limit: now there is a frame to mark.
                    self._wake()
        except BaseException as error:  # noqa: BLE001
            self._poison(error)
        finally:
            self._writing.release()

    def _run(self) -> None:
        """The writer thread."""
        log = self._log
        going_on = True
        seen = 0
        try:
            while going_on and self._failure is None:
                try:
                    going_on = self._wakeups.get(timeout=None if log.marked else IDLE_SECONDS)
                except queue.Empty:
                    with self._writing:
                        if self._written == seen and self._failure is None:
                            log.mark()
                        seen = self._written
                    continue
                # Before the queue is read: whoever appends from here on wakes us again.
                self._woken = False
                with self._writing:
                    if self._failure is None:
                        self._drain()
                        seen = self._written
            with self._writing:
                if self._failure is None:
                    log.mark()
        except BaseException as error:  # noqa: BLE001
            self._poison(error)

    def _poison(self, error: BaseException) -> None:
        """Never write again, and tell everyone; also for what is not an OSError."""
        logger.critical("the journal failed at %s: %s", self._log.path, error)
        failure = JournalFailedError(f"writing the journal {self._log.path} failed: {error}")
        failure.__cause__ = error
        self._failure = failure
        self._call(self._fail, failure)

    def _drain(self) -> None:
        """Write all that is queued, a frame at a time, and wake those who wait for it."""
        log, queued = self._log, self._queued
        while queued:
            batch: list[bytes] = []
            room = log.frame_bytes_max - FRAME_OVERHEAD_BYTES
            while queued and len(queued[0]) <= room and len(batch) < FRAME_EVENTS_MAX:
                room -= len(queued[0])
                batch.append(queued.popleft())
            started = time.monotonic()
            log.append(batch)
            quick = time.monotonic() - started < QUICK_SECONDS
            self._alone = self._alone + 1 if quick and len(batch) == 1 and not queued else 0
            self._written += sum(map(len, batch)) + _EVENT_OVERHEAD_BYTES * len(batch)
            self.durable_sequence = log.next_sequence - 1
            self._call(self._flushed)
            if not log.spare.ready:
                self._keeper.want()

    def _call(self, function: Callable[..., None], *args: Any) -> None:
        """Have the loop call `function`; a loop that is gone has nobody left who waits."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *args)

    def _flushed(self) -> None:
        durable = self.durable_sequence
        waiters = self._waiters
        while waiters and waiters[0][0] <= durable:
            future = waiters.popleft()[1]
            if not future.done():
                future.set_result(None)

    def _fail(self, failure: JournalFailedError) -> None:
        self._failure = failure
        while self._waiters:
            future = self._waiters.popleft()[1]
            if not future.done():
                future.set_exception(failure)
        self._wake_room_waiters()
        if self._on_failure is not None and failure.__cause__ is not None:
            self._on_failure(failure)

    def _space_changed(self) -> None:
        self._call(self._wake_room_waiters)

    def _wake_room_waiters(self) -> None:
        waiters, self._room_waiters = self._room_waiters, []
        for future in waiters:
            if not future.done():
                future.set_result(None)
