"""The age of history, for orders to remove what is older than they name.

What goes is gone for good, and an age is only as right as a clock. So two are asked, the system's
and the journal's newest time, and the earlier one counts.
"""

from __future__ import annotations

from coild.audit.times import format_utc
from coild.rules.units import format_duration
from journal import JournalError, Policy

#: By so much the clocks may differ: summer time and zones are no more.
_DIFFERENCE_MAX = 86400 * 10**9


class AgeUnknownError(JournalError):
    """The clocks differ too much to tell how old history is. Nothing was done."""

    def __init__(self, wall: int, other: int, which: str) -> None:
        """`which` says what tells the time `other`; `wall` is the system's. In ns."""
        self.wall = wall
        self.other = other
        super().__init__(
            f"how old history is cannot be told: the system's clock says {format_utc(wall)}, "
            f"{which} {format_utc(other)}, which is {format_duration(abs(wall - other))} "
            f"{'later' if other > wall else 'earlier'}; nothing was done: set the clock right and "
            "restart coild, or if it is right, go by it with --trust-clock; --keep-size needs none"
        )


def age_now(policy: Policy, wall: int, newest: int, *, stepped: int = 0) -> int:
    """The time from which ages are counted: that of the earlier clock.

    `wall` is the system's time, `newest` that of the newest event, both in ns since the epoch;
    `stepped` is by how much the system's clock was set forward while this process lived. A node
    that was idle is no reason to refuse: of its history more is kept. Raises AgeUnknownError where
    ages matter, unless they are to be taken as they are.
    """
    if policy.keep_age is not None and not policy.trust_clock:
        if newest - wall > _DIFFERENCE_MAX:
            raise AgeUnknownError(wall, newest, "the journal's newest event is of")
        if stepped > _DIFFERENCE_MAX:
            which = "and as it went before it was set, while coild ran, it would say"
            raise AgeUnknownError(wall, wall - stepped, which)
    return min(wall, newest)
