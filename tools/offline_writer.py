"""Makes a tool the journal's writer when no daemon runs."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

from coild.process.clock import Clock
from coild.rules.events import SCHEMA, Event
from coild.rules.projection import Projection
from coild.vocabulary import record_of, records_of
from journal import DEFAULT_SEGMENT_BYTES, Custody, Journal
from journal.read.tail import newest_segment_bytes


class Writer:
    """An open journal, its state's clock, and a way to record a fact.

    `newest` is the newest time that was in the journal when it was opened.
    """

    def __init__(self, journal: Journal, clock: Clock, newest: int) -> None:
        self.journal = journal
        self.clock = clock
        self.newest = newest

    async def record(self, event: Event) -> None:
        """Journal a fact; durable on return. Raises the journal's errors."""
        append = partial(self.journal.append, event, essential=True)
        await self.journal.durable(await self.journal.when_room(append))


@contextlib.asynccontextmanager
async def writing(directory: Path, custody: Custody | None = None) -> AsyncIterator[Writer]:
    """Open the journal, and record its repairs that are not recorded yet.

    Raises JournalLockedError if a daemon runs and `custody` does not hold the lock, and what
    `Journal.open` raises.
    """
    state = Projection()
    journal = Journal.open(
        directory,
        Event,
        schema=SCHEMA,
        replay=state.apply_all,
        restore=state.restore,
        record_of=record_of,
        segment_bytes=newest_segment_bytes(directory, SCHEMA, DEFAULT_SEGMENT_BYTES),
        custody=custody,
    )
    journal.start()
    try:
        writer = Writer(journal, Clock(state.time), max(state.time, journal.recovered.tail.time))
        for event in records_of(journal.recovered, writer.clock):
            await writer.record(event)
        journal.repairs_recorded()
        yield writer
    finally:
        await journal.close()
