"""The journal's interface for its program: open, append, wait until durable, close.

`segment_writer` writes frames, `group_commit` batches events into them, `spare` keeps the next
segment ready. This module does admission: an event is taken only if space for it is certain,
because its caller acts on it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec

from journal.errors import (
    EventTooLargeError,
    JournalBusyError,
    JournalClockError,
    JournalFailedError,
    JournalFullError,
)
from journal.format.chain import Progress
from journal.format.codec import (
    SEGMENT_BYTES_MAX,
    SEGMENT_BYTES_MIN,
    SEGMENT_HEADER_BYTES,
    TIME_MAX,
)
from journal.format.scan import Deliver, list_decoder
from journal.fs import FileSystem, OsFileSystem
from journal.read.replay_start import Restore
from journal.read.vouching import RecordOf
from journal.write.custody import Custody, acquire_lock
from journal.write.group_commit import EVENT_OVERHEAD_BYTES, GroupCommit, OnFailure
from journal.write.recovery import Recovered, recover
from journal.write.repair_note import forget
from journal.write.segment_writer import FRAME_OVERHEAD_BYTES, Log
from journal.write.spare import Spare, SpareKeeper

_T = TypeVar("_T")

DEFAULT_SEGMENT_BYTES = 16 * 1024 * 1024


class Journal:
    """An append-only, crash-safe journal of msgspec events, and its one writer.

    `open` recovers, `start` starts the threads; then `append` and `durable` belong to the event
    loop's thread. An event that `durable` confirmed survives a crash of the process and of the
    machine.
    """

    def __init__(
        self, fs: FileSystem, custody: Custody, recovered: Recovered, log: Log, spare: Spare
    ) -> None:
        self._fs = fs
        self._custody = custody
        self._closed = False
        self._log = log
        self._encode = msgspec.msgpack.Encoder().encode
        self._keeper = SpareKeeper(spare, self._space_changed)
        self._commit = GroupCommit(log, self._keeper.want)
        self._room_waiters: list[asyncio.Future[None]] = []
        # All bytes taken so far, and their bound; the writer counts the bytes it wrote in the same
        # way. Only one thread changes each number, so no lock is needed.
        self._taken = 0
        self._taken_max = 0
        self._event_bytes_max = 0
        self._covered_bytes = 0
        #: What recovery found.
        self.recovered = recovered
        #: The sequence of the last event appended.
        self.last_sequence = log.next_sequence - 1

    @classmethod
    def open(
        cls,
        directory: Path,
        event_type: Any,
        *,
        schema: int,
        replay: Deliver,
        restore: Restore | None = None,
        record_of: RecordOf | None = None,
        segment_bytes: int = DEFAULT_SEGMENT_BYTES,
        progress: Progress | None = None,
        fs: FileSystem | None = None,
        clock: Callable[[], int] = time.time_ns,
        custody: Custody | None = None,
    ) -> Self:
        """Become the writer of `directory`, recover it, and pass all its events to `replay`.

        `event_type` is the type of an event for msgspec (a tagged struct or a union of them),
        `schema` the number of that vocabulary: a journal with a higher one is refused. `replay` is
        called with lists of events in order; before that, `restore` with the snapshot to begin
        with, or with None if all events follow. `record_of` tells which events record snapshots;
        then a snapshot without a record is not used. `clock` gives ns since the epoch. `custody` is
        that of a caller that is the writer already; this call takes it over.

        Raises JournalLockedError, JournalCorruptError, JournalUnsupportedError, JournalClockError,
        OSError; nothing has been changed then. ValueError for a segment size out of bounds.
        """
        if not SEGMENT_BYTES_MIN <= segment_bytes <= SEGMENT_BYTES_MAX:
            raise ValueError(
                f"a segment has {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX} bytes, "
                f"not {segment_bytes}"
            )
        fs = fs or OsFileSystem()
        now = clock()
        if not 0 <= now <= TIME_MAX:
            raise JournalClockError(now)
        if custody is None:
            fs.make_directory(directory)
            custody = acquire_lock(fs, directory)
        try:
            recovered = recover(
                fs,
                directory,
                schema=schema,
                segment_bytes=segment_bytes,
                now=now,
                decoder=list_decoder(event_type),
                deliver=replay,
                restore=restore,
                record_of=record_of,
                progress=progress,
            )
            spare = Spare(fs, directory, segment_bytes)
            log = Log(fs, recovered, spare, schema, clock, custody)
        except BaseException:
            custody.close()
            raise
        return cls(fs, custody, recovered, log, spare)

    @property
    def head(self) -> str:
        """`sequence:digest`, which identifies the whole content. Exact while nothing is queued."""
        return f"{self._log.next_sequence - 1}:{self._log.digest.hex()}"

    @property
    def id(self) -> str:
        """The ID that all segments of the journal have, in hexadecimal digits."""
        return self._log.journal_id.hex()

    @property
    def path(self) -> Path:
        """The segment that is being written."""
        return self._log.path

    @property
    def durable_sequence(self) -> int:
        """The sequence of the last event that is durable."""
        return self._commit.durable_sequence

    @property
    def time(self) -> int:
        """The newest time in the journal, in ns since the epoch."""
        return self._log.time

    @property
    def tail_bytes(self) -> int:
        """The bytes of the frames since the last snapshot that was passed to `covered`."""
        return self._log.sealed_bytes + self._log.used_bytes - self._covered_bytes

    @property
    def sealed(self) -> int:
        """The number of segments sealed since `open`."""
        return self._log.sealed

    @property
    def full_reason(self) -> str | None:
        """The reason why the journal takes only essential events at the moment, or None."""
        return self._keeper.full_reason

    def covered(self, frame_bytes: int) -> None:
        """Subtract the bytes that a new snapshot covers from `tail_bytes`."""
        self._covered_bytes += frame_bytes

    def repairs_recorded(self) -> None:
        """Note that the journal now has the records of `recovered.set_aside`, and `again`.

        The records must be the first events that are appended, one for each entry, in order: so
        they are recognized if a crash comes before this call.
        """
        with contextlib.suppress(OSError):
            forget(self._fs, self.path.parent)

    def start(self, on_failure: OnFailure | None = None) -> None:
        """Start writing; call it in the event loop that will append.

        `on_failure` is called in the loop, once, when a write or flush failed.
        """

        def failed(failure: JournalFailedError) -> None:
            self._wake_room_waiters()
            if on_failure is not None:
                on_failure(failure)

        self._commit.start(failed)
        self._keeper.start()
        self._keeper.want()

    def append(self, event: msgspec.Struct, *, essential: bool = False) -> int:
        """Queue `event`, and return its sequence. It is not durable yet: see `durable`.

        `essential` events may use the space that is reserved for them when the disk is full.
        Raises JournalFullError, JournalBusyError (wait with `room`, then try again),
        JournalFailedError, EventTooLargeError: then the event was not taken.
        """
        if self._commit.failure is not None:
            raise self._commit.failure
        if self._keeper.full_reason is not None and not essential:
            raise JournalFullError(self._keeper.full_reason)
        data = self._encode(event)
        taken = self._taken + len(data) + EVENT_OVERHEAD_BYTES
        if taken > self._taken_max or len(data) > self._event_bytes_max:
            self._make_room(len(data), taken)
        self._taken = taken
        self._commit.put(data)
        self.last_sequence += 1
        return self.last_sequence

    def durable(self, sequence: int) -> Coroutine[Any, Any, None]:
        """Wait until the event `sequence` and all before it are durable.

        Raises JournalFailedError if they never will be, as far as this process can tell.
        """
        return self._commit.durable(sequence)

    async def room(self) -> None:
        """Wait until it is worth trying `append` again: there is space, or never will be."""
        if self._keeper.full_reason is not None or self._commit.failure is not None:
            return
        if self._log.spare.ready:
            # Then queued events take all the space.
            await self.durable(self.last_sequence)
            return
        future = asyncio.get_running_loop().create_future()
        self._room_waiters.append(future)
        self._keeper.want()
        await future

    async def when_room(self, decide: Callable[[], _T]) -> _T:
        """The result of `decide`, which decides and appends without waiting for anything.

        While the journal is too busy for another event, it waits and decides anew: what was true
        before may not be true any more. Raises what `decide` raises.
        """
        while True:
            try:
                return decide()
            except JournalBusyError:
                await self.room()

    async def seal(self) -> int:
        """Go on in a new segment, unless the current one has no event.

        Returns the last sequence before it: the segments up to there never change again. Raises
        JournalFullError if there is no space for another segment, JournalFailedError.
        """
        while True:
            if self._commit.failure is not None:
                raise self._commit.failure
            if self._keeper.full_reason is not None:
                raise JournalFullError(self._keeper.full_reason)
            try:
                if not self._log.spare.ready:
                    raise JournalBusyError("the next segment is being prepared")
                # The rest of the segment is taken as by an event, so that no event is promised it.
                left = self._log.free_bytes
                self._make_room(0, self._taken + left)
                self._taken += left
                return await self._commit.seal(left)
            except JournalBusyError:
                await self.room()

    async def close(self) -> None:
        """Write what is queued and a mark, then release everything. Idempotent.

        After a failure nothing is written, and no mark if no event was. Raises nothing: the callers
        of `durable` were told of a failure.
        """
        if self._closed:
            return
        self._closed = True
        await self._commit.stop()
        await asyncio.to_thread(self._keeper.close)
        self._wake_room_waiters()
        # What was confirmed is durable: an error now matters to no caller.
        with contextlib.suppress(OSError):
            self._log.close()
        self._custody.close()

    def _make_room(self, size: int, taken: int) -> None:
        """Move the bounds up to which events are taken, or say why they cannot move.

        Space that was counted once stays enough: writing an event takes no more of a segment than
        was counted for it, and the space that a roll-over may waste is counted as used.
        """
        log = self._log
        self._event_bytes_max = log.frame_bytes_max - FRAME_OVERHEAD_BYTES
        if size > self._event_bytes_max:
            raise EventTooLargeError(
                f"an event of {size} bytes does not fit into a frame of {log.frame_bytes_max}"
            )
        # Before the free space is read: what is written in between is then counted twice, the
        # other way round it would not be counted at all.
        written = self._commit.written_bytes
        free = log.free_bytes - FRAME_OVERHEAD_BYTES  # the last mark's
        if log.spare.ready:
            wasted = log.frame_bytes_max
            free = max(0, free - wasted) + log.spare.segment_bytes - SEGMENT_HEADER_BYTES
        self._taken_max = written + free
        if taken > self._taken_max:
            if self._keeper.full_reason is not None:
                raise JournalFullError(self._keeper.full_reason, used_up=True)
            raise JournalBusyError("the next segment is being prepared")

    def _space_changed(self) -> None:
        self._commit.call(self._wake_room_waiters)

    def _wake_room_waiters(self) -> None:
        waiters, self._room_waiters = self._room_waiters, []
        for future in waiters:
            if not future.done():
                future.set_result(None)
