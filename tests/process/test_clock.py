"""The clock of events never runs backwards, whatever is done to the system's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coild.process.clock import Clock

#: How the wall is set between two readings, and how much time really passes, in ns.
STEPS = st.lists(
    st.tuples(st.integers(-(10**12), 10**12), st.integers(0, 10**10)), min_size=1, max_size=50
)


class Time:
    """A wall clock that can be set, and the monotonic one that cannot."""

    def __init__(self, wall: int) -> None:
        self.wall_ns = wall
        self.monotonic_ns = 0

    def pass_by(self, duration: int) -> None:
        """Let time pass on both."""
        self.wall_ns += duration
        self.monotonic_ns += duration

    def clock(self, last: int) -> Clock:
        """A clock on this time, behind an event at `last`."""
        return Clock(last, wall=lambda: self.wall_ns, monotonic=lambda: self.monotonic_ns)


@given(start=st.integers(0, 10**15), last=st.integers(0, 10**15), steps=STEPS)
def test_time_never_runs_backwards(start: int, last: int, steps: list[tuple[int, int]]) -> None:
    """Each reading is at least the one before and the last event's, however the wall is set."""
    time = Time(start)
    clock = time.clock(last)
    readings = [last, clock()]
    for jump, passed in steps:
        time.wall_ns += jump
        time.pass_by(passed)
        readings.append(clock())

    assert sorted(readings) == readings


@given(start=st.integers(0, 10**15), passed=st.lists(st.integers(0, 10**10), max_size=20))
def test_a_wall_that_goes_forward_is_believed(start: int, passed: list[int]) -> None:
    """While nobody sets the wall back, its time is the time."""
    time = Time(start)
    clock = time.clock(last=0)
    for duration in passed:
        time.pass_by(duration)

        assert time.wall_ns == clock()


@given(behind=st.integers(1, 10**12), parts=st.integers(1, 20))
def test_time_goes_on_at_half_speed_until_the_wall_has_caught_up(behind: int, parts: int) -> None:
    """After a step back half of the time counts, and after twice its length all is as before."""
    start = 10**15
    time = Time(start - behind)
    clock = time.clock(last=start)
    before = start
    for _ in range(parts):
        passed = behind // parts
        time.pass_by(passed)
        reading = clock()
        caught_up = time.wall_ns >= before

        assert (time.wall_ns if caught_up else before + passed // 2) == reading
        before = reading
    time.pass_by(2 * behind - parts * (behind // parts))

    assert time.wall_ns == clock()


def test_cool_downs_end_when_the_journal_is_from_the_future() -> None:
    """After a start whose clock is a year behind the journal, a minute lasts two, not a year."""
    year, minute = 365 * 86400 * 10**9, 60 * 10**9
    time = Time(year)
    clock = time.clock(last=2 * year)
    time.pass_by(2 * minute)

    assert 2 * year + minute == clock()


#: What a step, of this length or shorter, may make a duration wrong by.
SLACK = 100_000_000
SECOND = 10**9


@given(
    start=st.integers(0, 10**15),
    last=st.integers(0, 10**15),
    steps=STEPS,
    duration=st.integers(1, 10**11),
)
def test_what_was_long_ago_is_measured_by_the_clock_that_nobody_sets(
    start: int, last: int, steps: list[tuple[int, int]], duration: int
) -> None:
    """Whatever is done to the wall, an event is as old as the time that really passed since."""
    time = Time(start)
    clock = time.clock(last)
    events = []
    for jump, passed in steps:
        time.wall_ns += jump
        events.append((clock(), time.monotonic_ns))
        time.pass_by(passed)
        border = clock.ago(duration)

        for happened, really in events:
            age = time.monotonic_ns - really
            if happened <= border:
                assert age >= duration - SLACK
            else:
                assert age <= duration + SLACK


@given(jumps=st.lists(st.integers(-(10**15), 10**15), max_size=5), passed=st.integers(0, 10**12))
def test_what_was_before_the_start_is_as_old_as_the_wall_said_then(
    jumps: list[int], passed: int
) -> None:
    """Of older events the times are all there is; what is done to the wall later is no matter."""
    start, age = 10**16, 20 * SECOND
    time = Time(start)
    clock = time.clock(last=start - age)
    for jump in jumps:
        time.wall_ns += jump
        clock()
    time.pass_by(passed)

    assert start - age == clock.ago(age + passed)


def test_a_journal_from_the_future_is_as_old_as_the_start() -> None:
    """What the journal says will be is taken for what is, and its rests end in their time."""
    time = Time(10**15)
    future = 10**16
    clock = time.clock(last=future)
    time.pass_by(30 * SECOND)

    assert future == clock.ago(30 * SECOND)


def test_marks_are_made_at_steps_only() -> None:
    """However many events there are, what is kept for it grows with the steps of the wall alone."""
    time = Time(10**15)
    clock = time.clock(last=0)
    for jump in (0, 10**12, -(10**12)):
        time.wall_ns += jump
        for _ in range(1000):
            time.pass_by(SECOND // 100)
            clock()

    assert 3 >= len(clock._marks)


@pytest.mark.parametrize("jump", [10**18, -(10**12)])
def test_nothing_is_long_ago_at_once(jump: int) -> None:
    """A duration of nothing is the present, also just after a step."""
    time = Time(10**15)
    clock = time.clock(last=0)
    time.wall_ns += jump
    happened = clock()

    assert happened == clock.ago(0)
