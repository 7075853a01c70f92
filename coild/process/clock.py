"""The clock of events: the wall's time, but never backwards; and durations that no step changes.

Events carry the wall's time, for people and for other machines. How long ago something was must
not be taken from it while the process lives: someone may set the wall meanwhile. So the clock
notes how its times and CLOCK_BOOTTIME, which cannot be set, belong together: one mark for each
step of the wall, which says what the time was at a moment and how fast it went from there on.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable
from typing import NamedTuple

#: By so much times may be off their mark before there is a new one, in ns: reading two clocks is
#: not one moment on a busy machine.
_TOLERANCE = 50_000_000
#: So many marks are kept. Whatever steps the wall more often than that within the durations that
#: are asked for is measured by the oldest mark.
_MARKS_MAX = 1000


def boottime() -> int:
    """Nanoseconds since the kernel's boot, those in suspension included: no one can set it."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class _Mark(NamedTuple):
    """From the moment `steady` on, times go on from `time`, at full or at half speed."""

    time: int
    steady: int
    halved: bool

    def at(self, steady: int) -> int:
        passed = steady - self.steady
        # Before the first mark nothing is known but that time passed.
        return self.time + (passed // 2 if self.halved and passed > 0 else passed)


class Clock:
    """Nanoseconds since the epoch that never decrease, whatever is done to the system's clock.

    While the wall is behind what was said already (it was set back, or the journal comes from a
    time when it was ahead), time goes on at half speed until the wall has caught up. So a small
    step back is gone after twice its length.
    """

    def __init__(
        self,
        last: int,
        wall: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], int] = boottime,
    ) -> None:
        """`last` is the time of the newest event there is."""
        self._wall = wall
        self._monotonic = monotonic
        self._last = last
        self._last_monotonic = monotonic()
        self._stepped = 0
        self._marks = [_Mark(max(last, wall()), self._last_monotonic, halved=False)]

    def __call__(self) -> int:
        """The time of an event that happens now."""
        now, monotonic = self._wall(), self._monotonic()
        behind = now < self._last
        if behind:
            now = self._last + (monotonic - self._last_monotonic) // 2
        ahead = now - self._marks[-1].at(monotonic)
        if abs(ahead) > _TOLERANCE:
            self._stepped += max(0, ahead)
            self._marks.append(
                _Mark(self._last, self._last_monotonic, halved=True)
                if behind
                else _Mark(now, monotonic, halved=False)
            )
            del self._marks[:-_MARKS_MAX]
        self._last, self._last_monotonic = now, monotonic
        return now

    def behind(self) -> tuple[int, int]:
        """By how many ns the wall is behind the time of an event that would happen now; the wall.

        To ask makes no time: what is asked while the wall is ahead keeps no later event there.
        """
        wall = self._wall()
        if wall >= self._last:
            return 0, wall
        return self._last + (self._monotonic() - self._last_monotonic) // 2 - wall, wall

    def stepped(self) -> int:
        """By how much the wall was set forward since this clock was made, in all, in ns.

        Where it was set back, times are held, and so ahead of it. To ask makes no time.
        """
        return self._stepped + max(0, self._wall() - self._marks[-1].at(self._monotonic()))

    def ago(self, duration: int) -> int:
        """The time of an event `duration` ns ago: what is newer happened less long ago.

        Measured by the clock that cannot be set, whatever was done to the wall since. Of what
        happened before this clock was made, only the times are known: it is taken to be as old as
        the wall, at that moment, said that it was, and no less old than nothing.
        """
        if duration <= 0:
            return self()
        moment = self._monotonic() - duration
        marks = self._marks
        index = bisect_right(marks, moment, key=lambda mark: mark.steady)
        if not index:
            return marks[0].at(moment)
        found = marks[index - 1].at(moment)
        # Times of the next mark belong to later moments.
        return min(found, marks[index].time - 1) if index < len(marks) else found
