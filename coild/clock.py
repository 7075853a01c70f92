"""A clock for events: the wall's time, but never backwards."""

from __future__ import annotations

import time
from collections.abc import Callable


class Clock:
    """Nanoseconds since the epoch that never decrease, whatever is done to the system's clock.

    While the wall is behind what was said already (it was set back, or the journal comes from a
    time when it was ahead), time goes on at half speed until the wall has caught up. So cool-downs
    still end, and a small step back is gone after twice its length.
    """

    def __init__(
        self,
        last: int,
        wall: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """`last` is the time of the newest event there is."""
        self._wall = wall
        self._monotonic = monotonic
        self._last = last
        self._last_monotonic = monotonic()

    def __call__(self) -> int:
        """The time of an event that happens now."""
        now, monotonic = self._wall(), self._monotonic()
        if now < self._last:
            now = self._last + (monotonic - self._last_monotonic) // 2
        self._last, self._last_monotonic = now, monotonic
        return now
