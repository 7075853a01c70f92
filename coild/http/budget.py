"""One budget of memory for all that is in flight: long requests, long bodies, unread answers.

How many connections there may be is bounded, and what each keeps without asking is small. What is
larger is reserved here, and released when it was read or its connection ends; beyond the budget the
answer is 503. So memory is bounded whatever clients do, and small requests never need to ask.
"""

from __future__ import annotations

from coild.rules.limits import BUDGET_BYTES


class BusyError(Exception):
    """Too much is in flight; what is asked for now may be had soon."""


class Budget:
    """How many bytes may be in flight, and how many are."""

    def __init__(self, bytes_max: int = BUDGET_BYTES) -> None:
        self.bytes_max = bytes_max
        self.used = 0

    def fits(self, size: int) -> bool:
        """Whether there is room for so many bytes more."""
        return self.used + size <= self.bytes_max

    def check(self, size: int) -> None:
        """Raises BusyError if there is no room for so many bytes more."""
        if not self.fits(size):
            raise self.refusal()

    def refusal(self) -> BusyError:
        """The error to raise where there is no room."""
        return BusyError(
            "the requests and answers in flight take all the memory that they may; try again"
        )


class Shared:
    """A long body, one copy of which is sent to all clients that ask for it.

    It is reserved for as long as this object is referred to, as by the connections that have not
    sent all of it.
    """

    __slots__ = ("__weakref__", "_budget", "body")

    def __init__(self, body: bytes, budget: Budget | None = None) -> None:
        """Without a budget it is one that is there for good."""
        self.body = body
        self._budget = budget
        if budget is not None:
            budget.used += len(body)

    def __del__(self) -> None:
        if self._budget is not None:
            self._budget.used -= len(self.body)
