"""Sets of integers as ranges: what holds half of a /48 costs as much as what holds one address."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

#: From the first up to the second, which is not in it.
Span = tuple[int, int]


class Ranges:
    """Integers, as the fewest spans in ascending order: no two of them touch."""

    __slots__ = ("_starts", "spans")

    def __init__(self, spans: Iterable[Span] = ()) -> None:
        """Spans in any order; they may overlap, and empty ones are nothing."""
        merged: list[Span] = []
        for start, end in sorted(spans):
            if start >= end:
                continue
            if merged and start <= merged[-1][1]:
                merged[-1] = merged[-1][0], max(end, merged[-1][1])
            else:
                merged.append((start, end))
        self.spans = tuple(merged)
        self._starts = [start for start, _ in merged]

    def __contains__(self, number: int) -> bool:
        return self.end_after(number) > number

    def __bool__(self) -> bool:
        return bool(self.spans)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ranges) and self.spans == other.spans

    def __hash__(self) -> int:
        return hash(self.spans)

    def end_after(self, number: int) -> int:
        """The first integer from `number` on that is not in it."""
        index = bisect_right(self._starts, number) - 1
        return max(number, self.spans[index][1]) if index >= 0 else number

    def next_start(self, number: int, limit: int) -> int:
        """The first integer after `number` with which a span begins; `limit` at most."""
        index = bisect_right(self._starts, number)
        return min(limit, self._starts[index]) if index < len(self._starts) else limit

    def within(self, base: int, end: int) -> Ranges:
        """Those from `base` up to `end`, counted from `base`."""
        first = max(0, bisect_right(self._starts, base) - 1)
        last = bisect_right(self._starts, end)
        return Ranges(
            (max(start, base) - base, min(stop, end) - base)
            for start, stop in self.spans[first:last]
        )

    def count(self, start: int, end: int) -> int:
        """How many of them are from `start` up to `end`."""
        return sum(
            max(0, min(stop, end) - max(first, start)) for first, stop in self.spans if first < end
        )

    def without(self, other: Ranges) -> Iterable[Span]:
        """The spans of what is in it, and not in `other`."""
        for start, end in self.spans:
            place = other.end_after(start)
            while place < end:
                stop = other.next_start(place, end)
                yield place, stop
                place = other.end_after(stop)
