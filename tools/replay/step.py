"""`coild-replay --step`: one event at a time, and its effect on the state, in both directions."""

from __future__ import annotations

import contextlib
from itertools import islice
from typing import Any, NamedTuple

from coild.audit.diff import Change, effect, undone
from coild.audit.times import format_local, format_utc
from coild.rules.projection import Projection
from journal import Batch, Reader
from tools.output import ToolError, put
from tools.past import Point, apply, gone, rebuild
from tools.replay.text import change_text, event_record, event_text

#: The number of events between two states kept for going back, and the number of these states.
CHECKPOINT_EVENTS = 1000
CHECKPOINTS_MAX = 64


class Step(NamedTuple):
    """An event and its changes to the state, or the changes of undoing it."""

    sequence: int
    event: Any
    effect: list[Change]
    back: bool = False


class Timeline:
    """A state that can be moved along the history, by one event or to any event."""

    def __init__(self, reader: Reader, sequence: int, until: Point | None = None) -> None:
        """Begin with the state after event `sequence`; go no further than `until`.

        Raises as `rebuild`.
        """
        self._reader = reader
        self._until = until or Point()
        self._batch = Batch(1, [])
        self._checkpoints: dict[int, tuple[bytes, int]] = {}
        self.state = rebuild(reader, Point(sequence=sequence))
        self._keep()

    def forward(self) -> Step | None:
        """Apply the next event; None at the end of the journal or at `until`."""
        sequence = self.state.sequence + 1
        event = self._event(sequence)
        if event is None or self._is_behind(sequence, event):
            return None
        step = Step(sequence, event, self._effect(event))
        try:
            apply(self.state, (event,))
        except ToolError:
            # What is left of the state is of no use.
            self._move(sequence - 1)
            raise
        if sequence % CHECKPOINT_EVENTS == 0:
            self._keep()
        return step

    def back(self) -> Step | None:
        """Undo the last event; None at the beginning of the history that is left."""
        sequence = self.state.sequence
        if sequence < self._reader.first:
            return None
        event = self._last_event(sequence)
        self._move(sequence - 1)
        return Step(sequence, event, undone(self._effect(event)), back=True)

    def time(self, sequence: int) -> int | None:
        """The time of the event `sequence`, None behind the end. Raises JournalError, OSError."""
        event = self._event(sequence)
        return None if event is None else int(event.time)

    def end(self) -> str:
        """The reason why there is no next step."""
        if self._event(self.state.sequence + 1) is None:
            return "this is the end of the journal"
        return "this is as far as --until-seq or --until goes"

    def go(self, sequence: int) -> Step:
        """Go to the state after event `sequence`. Raises ToolError if there is no such event."""
        if sequence < 1:
            raise ToolError("the first event has the sequence 1")
        event = self._event(sequence)
        if event is None:
            raise ToolError(f"there is no event {sequence}: the journal ends before it")
        if self._is_behind(sequence, event):
            raise ToolError(f"event {sequence} comes after --until-seq or --until")
        self._move(sequence - 1)
        step = self.forward()
        if step is None:
            raise ToolError(f"event {sequence} is not in the journal any more")
        return step

    def _is_behind(self, sequence: int, event: Any) -> bool:
        """Whether an event is behind `until`."""
        return not self._until.reach(Batch(sequence, [event]))

    def _effect(self, event: Any) -> list[Change]:
        try:
            return effect(self.state, event)
        except ValueError as error:
            raise ToolError(f"event {self.state.sequence + 1} makes no sense: {error}") from None

    def _last_event(self, sequence: int) -> Any:
        event = self._event(sequence)
        if event is None:
            raise ToolError(f"event {sequence} is not in the journal any more")
        return event

    def _event(self, sequence: int) -> Any:
        """The event `sequence`, None behind the end. Keeps the rest of its segment in memory.

        Raises ToolError for an event before the oldest one left, JournalError, OSError.
        """
        index = sequence - self._batch.first_sequence
        if not 0 <= index < len(self._batch.events):
            batch = _batch_from(self._reader, sequence)
            if batch is None:
                # The journal may have gone on since.
                with self._reader.now().held() as reader:
                    batch = _batch_from(reader, sequence)
            if batch is None:
                return None
            self._batch, index = batch, 0
        return self._batch.events[index]

    def _move(self, sequence: int) -> None:
        """Set the state to the one after event `sequence`. On failure it stays as it was."""
        place = max((kept for kept in self._checkpoints if kept <= sequence), default=None)
        if place is None or sequence - place > CHECKPOINT_EVENTS:
            self.state = rebuild(self._reader, Point(sequence=sequence))
            # Steps further back begin here, or where a snapshot is.
            with contextlib.suppress(ToolError):
                earlier = Point(sequence=max(0, sequence - CHECKPOINT_EVENTS))
                self._keep(rebuild(self._reader, earlier))
            return
        state = Projection()
        state.load(self._checkpoints[place][0], place, self._checkpoints[place][1])
        while state.sequence < sequence:
            apply(state, (self._last_event(state.sequence + 1),))
        self.state = state

    def _keep(self, state: Projection | None = None) -> None:
        state = state or self.state
        self._checkpoints.pop(state.sequence, None)
        self._checkpoints[state.sequence] = (state.dump(), state.time)
        while len(self._checkpoints) > CHECKPOINTS_MAX:
            del self._checkpoints[next(iter(self._checkpoints))]


def _batch_from(reader: Reader, sequence: int) -> Batch | None:
    if sequence < reader.first:
        raise gone(reader)
    return next(reader.batches(sequence), None)


def print_steps(timeline: Timeline, count: int | None) -> None:
    """Print all steps to the end, or the given number."""
    for step in islice(iter(timeline.forward, None), count):
        show(step)


def show(step: Step) -> None:
    """Write a step and its effect on stdout."""
    mark = "undone " if step.back else ""
    put(
        {
            "sequence": step.sequence,
            "time": format_utc(step.event.time),
            "event": event_record(step.event),
            "effect": step.effect,
        },
        f"{mark}{step.sequence}  {format_local(step.event.time)}  {event_text(step.event)}",
        *(f"    {change_text(change)}" for change in step.effect),
    )
