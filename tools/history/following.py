"""`coild-history -f`: rows of allocations and releases, as soon as they are durable."""

from __future__ import annotations

import contextlib
import select
import sys
import time
from collections.abc import Callable

from coild.audit.ledger import HoldingPeriod, Ledger, Query
from journal import JournalCorruptError, Reader, follow
from tools.history.holdings import Output, complete, read_ledger, say_gone
from tools.past import pruned_through

_PAUSE_SECONDS = 0.1


def newest(rows: list[HoldingPeriod], count: int | None) -> list[HoldingPeriod]:
    """The last `count` rows; None is no bound."""
    return rows if count is None else rows[max(0, len(rows) - count) :]


def follow_rows(reader: Reader, asked: Query, output: Output, *, count: int | None) -> None:
    """Show the `count` newest rows, then each that begins or ends, until `asked.until`.

    Raises JournalCorruptError, JournalUnsupportedError, OSError.
    """
    pause = _pause()
    with reader.held() as held:
        ledger, wanted, last = _catch_up(held, asked, count)
    past = True
    events = follow(reader, wanted)
    while True:
        try:
            found = next(events)
        except JournalCorruptError:
            with reader.held() as held:
                # Only pruned events may be missing, with no gap behind them.
                if not wanted < held.first <= pruned_through(held) + 1:
                    raise
                say_gone(held, "was pruned meanwhile")
                # A holder may have released and regained it in the missing events.
                ledger, wanted, last = (
                    _catch_up(held, asked, count, told=True)
                    if past
                    else (Ledger(asked), held.first, last)
                )
            events = follow(reader, wanted)
            continue
        for sequence, event in found:
            # Waiting for a pause of a busy journal would show nothing.
            if past and sequence > last:
                output.show(newest(ledger.rows(), count))
                past = False
            wanted = sequence + 1
            row = ledger.feed(sequence, event)
            # At once: the next event may end this holding, which changes the row.
            if row is not None and not past:
                complete(reader, row)
                output.show([row])
        if past and not found:
            output.show(newest(ledger.rows(), count))
            past = False
        sys.stdout.flush()
        if not found:
            if asked.until is not None and time.time_ns() > asked.until:
                return
            pause(_PAUSE_SECONDS)


def _catch_up(
    reader: Reader, asked: Query, count: int | None, *, told: bool = False
) -> tuple[Ledger, int, int]:
    """The ledger before the newest segment, where that begins, and the last event now."""
    files = reader.files()
    # Events of the newest segment may not be durable yet: `follow` gives those that are.
    start = files[-1].first_sequence if files else 1
    last = start - 1
    # `follow` reports that nothing of it can be read.
    with contextlib.suppress(JournalCorruptError, FileNotFoundError):
        newest_batch = next(reader.batches(start), None)
        last += len(newest_batch.events) if newest_batch else 0
    return read_ledger(reader, asked, count=count, before=start, told=told), start, last


def _pause() -> Callable[[float], None]:
    """Sleep; raises BrokenPipeError when stdout has no reader any more."""
    poll = select.poll()
    try:
        # No event is requested: errors and hang-ups are reported anyway.
        poll.register(sys.stdout.fileno(), 0)
    except (OSError, ValueError):
        return time.sleep

    def pause(seconds: float) -> None:
        if poll.poll(seconds * 1000):
            raise BrokenPipeError

    return pause
