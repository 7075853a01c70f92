"""Tells when the system's clock is behind the journal, as after a clock that was wrong for a while.

The journal's times never run backwards. Events that were stamped while the clock was ahead leave
the journal ahead of it, for as long as the clock needs to catch up: years, perhaps.
"""

from __future__ import annotations

import asyncio
import logging

from coild.audit.times import format_local
from coild.process.clock import Clock

logger = logging.getLogger(__name__)

#: In ns. Less than this is corrected by time synchronisation, and misleads no reader.
TOLD_NS = 60 * 10**9
#: It costs two readings of clocks.
_LOOK_SECONDS = 1.0


def ahead(newest: int, now: int) -> str:
    """Says that a journal's time is ahead of the clock `now`; empty if it is by a minute at most.

    `newest` is the time of the journal's newest event; both are in ns since the epoch.
    """
    if newest - now <= TOLD_NS:
        return ""
    return (
        f"the journal's time, {format_local(newest)}, is ahead of this system's clock, which says "
        f"{format_local(now)}, by {_span((newest - now) // 10**9)}"
    )


def _span(seconds: int) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} seconds"


class ClockWatch:
    """Warns once for each time that the clock falls behind the journal."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._told = False
        self._before = 0

    @property
    def reason(self) -> str:
        """The text of the check `clock` of /readyz; empty if all is well."""
        behind, now = self._clock.behind()
        return ahead(now + behind, now)

    async def run(self) -> None:
        """Look at the clock once a second, for as long as the daemon runs."""
        while True:
            self.look()
            await asyncio.sleep(_LOOK_SECONDS)

    def look(self) -> None:
        """Warn if the clock fell behind since the last look, and say when it has caught up."""
        behind, now = self._clock.behind()
        # A clock that is not set only comes nearer: if it does not, it was set back once more.
        if behind > TOLD_NS and (not self._told or behind > self._before + TOLD_NS):
            logger.warning(
                "%s: that clock is wrong, or was ahead once. Until it has caught up, events are "
                "stamped ahead of it, so that coild-history --at now may say nobody and "
                "coild-replay --until now may give an old state: leave --at and --until out, or "
                "give the journal's time. Addresses rest by a clock that does not step. See that "
                "the system's clock is right",
                ahead(now + behind, now),
            )
            self._told = True
        elif self._told and not behind:
            logger.info("the system's clock has caught up with the journal's time")
            self._told = False
        self._before = behind
