"""A log of what clients can cause again and again: each kind is one line a second at most.

The first of a kind is a line at once. What comes within the second after a line is counted, and the
last of it is a line at the end of that second, with how many others there were. So the lines and
the counts in them add up to all that happened, whether or not it goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from time import monotonic

#: So long nothing else of a kind is shown after a line of it.
INTERVAL_SECONDS = 1.0


def _later(seconds: float, call: Callable[[], object]) -> None:
    asyncio.get_running_loop().call_later(seconds, call)


class _Kind:
    """The state of one kind: when the next line may come, the line that waits, and its count."""

    __slots__ = ("count", "due", "waiting")

    def __init__(self, due: float) -> None:
        self.due = due
        self.count = 0
        self.waiting: Callable[[int], None] | None = None


class LogLimit:
    """Lines of which one a second of each kind is shown. Belongs to one event loop.

    There must be few kinds: the state of each is kept.
    """

    def __init__(
        self,
        clock: Callable[[], float] = monotonic,
        later: Callable[[float, Callable[[], object]], object] = _later,
    ) -> None:
        """`clock` is in seconds; `later` has something called after so many of them."""
        self._clock = clock
        self._later = later
        self._kinds: dict[str, _Kind] = {}

    def log(
        self,
        kind: str,
        logger: logging.Logger,
        level: int,
        text: str,
        error: BaseException | None = None,
    ) -> None:
        """Log `text`, with the traceback of `error` if there is one, or count it."""
        if not logger.isEnabledFor(level):
            return
        line = partial(_write, logger, level, text, error)
        now = self._clock()
        known = self._kinds.get(kind)
        if known is None:
            known = self._kinds[kind] = _Kind(now)
        known.count += 1
        known.waiting = line
        if now >= known.due:
            self._show(known, now)
        elif known.count == 1:
            self._later(known.due - now, partial(self._is_due, known))

    def flush(self) -> None:
        """Show what waits: nothing more is to come."""
        for known in self._kinds.values():
            self._show(known, self._clock())

    def _is_due(self, known: _Kind) -> None:
        # A line may have come in the meantime, and with it all that waited.
        if (now := self._clock()) >= known.due:
            self._show(known, now)
        elif known.waiting is not None:
            self._later(known.due - now, partial(self._is_due, known))

    def _show(self, known: _Kind, now: float) -> None:
        if known.waiting is None:
            return
        known.waiting(known.count - 1)
        known.due = now + INTERVAL_SECONDS
        known.count, known.waiting = 0, None


def _write(
    logger: logging.Logger, level: int, text: str, error: BaseException | None, others: int
) -> None:
    more = f" (and {others} more like it, which are not shown)" if others else ""
    logger.log(level, "%s%s", text, more, exc_info=error)
