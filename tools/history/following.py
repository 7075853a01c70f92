"""`coild-history -f`: the rows that begin or end, as soon as that is durable."""

from __future__ import annotations

import contextlib
import select
import sys
import time
from collections.abc import Callable

from coild.audit.ledger import HoldingPeriod, Ledger
from journal import JournalCorruptError, Reader, follow
from tools.history.holdings import Output, Query, complete, read_ledger, say_gone
from tools.past import pruned_through

_PAUSE_SECONDS = 0.1


def newest(rows: list[HoldingPeriod], count: int | None) -> list[HoldingPeriod]:
    """The last `count` rows; None is no bound."""
    return rows if count is None else rows[max(0, len(rows) - count) :]


def follow_rows(reader: Reader, asked: Query, output: Output, *, count: int | None) -> None:
    """Show the `count` newest rows, then each one that begins or ends, until `asked.until`.

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
                # That this event is missing must not be all that is missing.
                if not wanted < held.first <= pruned_through(held) + 1:
                    raise
                say_gone(held, "was pruned meanwhile")
                # A holder may have released it, and held it again, in what is gone.
                ledger, wanted, last = (
                    _catch_up(held, asked, count, told=True)
                    if past
                    else (asked.ledger(), held.first, last)
                )
            events = follow(reader, wanted)
            continue
        for sequence, event in found:
            # Who waits for a busy journal to pause, shows nothing.
            if past and sequence > last:
                output.show(newest(ledger.rows(), count))
                past = False
            wanted = sequence + 1
            row = ledger.feed(sequence, event)
            # At once: the next event may end what this one began, and changes the row.
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
    """What was before the newest segment, where that begins, and the last event there is now."""
    files = reader.files()
    # What is in the newest segment may not be durable yet: `follow` says what is.
    start = files[-1].first_sequence if files else 1
    last = start - 1
    # It is for `follow` to say that nothing of it can be read.
    with contextlib.suppress(JournalCorruptError, FileNotFoundError):
        newest_batch = next(reader.batches(start), None)
        last += len(newest_batch.events) if newest_batch else 0
    return read_ledger(reader, asked, count=count, before=start, told=told), start, last


def _pause() -> Callable[[float], None]:
    """A sleep that ends with BrokenPipeError when nobody reads stdout any more."""
    poll = select.poll()
    try:
        # No event is asked for: those that count are reported anyway.
        poll.register(sys.stdout.fileno(), 0)
    except (OSError, ValueError):
        return time.sleep

    def pause(seconds: float) -> None:
        if poll.poll(seconds * 1000):
            raise BrokenPipeError

    return pause
