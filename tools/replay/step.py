"""`coild-replay --step`: one event at a time, and what it does to the state; back as well."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from coild.audit.diff import Change, effect, undone
from coild.audit.times import format_local, format_utc
from coild.rules.projection import Projection
from coild.vocabulary import VOCABULARY
from journal import Batch
from tools.output import ToolError, notice, put
from tools.past import (
    GoneError,
    Point,
    apply,
    gone,
    oldest_state,
    open_reader,
    rebuild,
    whatever_goes,
)
from tools.remaining import order_of
from tools.replay.text import change_text, event_record, event_text

#: Events between two states that are kept to go back to, and how many of those.
CHECKPOINT_EVENTS = 1000
CHECKPOINTS_MAX = 64


class Step(NamedTuple):
    """An event, and what it did to the state; or what became of the state without it."""

    sequence: int
    event: Any
    effect: list[Change]
    back: bool = False


class Timeline:
    """A state that can be moved along the history, one event at a time or at once."""

    def __init__(self, directory: Path, sequence: int, until: Point | None = None) -> None:
        """Begin with the state after the event `sequence`; go as far as `until`.

        Raises as `rebuild`.
        """
        self._directory = directory
        self._until = until or Point()
        self._reader = open_reader(directory, VOCABULARY.event_type)
        self._batch = Batch(1, [])
        self._checkpoints: dict[int, tuple[bytes, int]] = {}
        self.state = rebuild(directory, Point(sequence=sequence))
        self._keep()

    def forward(self) -> Step | None:
        """Apply the next event; None at the end of the journal, and where `until` is."""
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
        """Undo the last event; None at the beginning of what is left of the history."""
        sequence = self.state.sequence
        if sequence < self._first:
            return None
        event = self._last_event(sequence)
        self._move(sequence - 1)
        return Step(sequence, event, undone(self._effect(event)), back=True)

    def time(self, sequence: int) -> int | None:
        """The time of the event `sequence`, None behind the end. Raises JournalError, OSError."""
        event = self._event(sequence)
        return None if event is None else int(event.time)

    def skip(self) -> bool:
        """Be where the history begins now, if the next event was pruned; whether it was."""
        if not order_of(self._reader, self.state.sequence + 1):
            return False
        self.state = oldest_state(self._directory)
        self._keep()
        notice(f"history before sequence {self.state.sequence + 1} was pruned meanwhile")
        return True

    def end(self) -> str:
        """Why there is no next step."""
        if self._event(self.state.sequence + 1) is None:
            return "this is the end of the journal"
        return "this is as far as --until-seq or --until goes"

    def go(self, sequence: int) -> Step:
        """Be after the event `sequence`, wherever that is. Raises ToolError if it is nowhere."""
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
        """Whether an event is none that was asked for."""
        return not self._until.reach(Batch(sequence, [event]))

    @property
    def _first(self) -> int:
        """The oldest event that there is."""
        files = self._reader.files()
        return files[0].first_sequence if files else 1

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
        """The event `sequence`, None behind the end. Keeps the rest of its segment at hand.

        Raises ToolError for one from before the oldest that there is, JournalError, OSError.
        """
        index = sequence - self._batch.first_sequence
        if not 0 <= index < len(self._batch.events):
            batch = whatever_goes(self._reader, lambda: self._batch_from(sequence))
            if batch is None:
                return None
            self._batch, index = batch, 0
        return self._batch.events[index]

    def _batch_from(self, sequence: int) -> Batch | None:
        if sequence < self._first:
            raise gone(self._reader)
        return next(self._reader.batches(sequence), None)

    def _move(self, sequence: int) -> None:
        """Make the state that after the event `sequence`. On failure it stays what it was."""
        place = max((kept for kept in self._checkpoints if kept <= sequence), default=None)
        if place is None or sequence - place > CHECKPOINT_EVENTS:
            self.state = rebuild(self._directory, Point(sequence=sequence))
            # Steps further back begin here, or where a snapshot is.
            if sequence > CHECKPOINT_EVENTS:
                with contextlib.suppress(ToolError):
                    self._keep(
                        rebuild(
                            self._directory,
                            Point(sequence=sequence - CHECKPOINT_EVENTS),
                        )
                    )
            else:
                self._keep(Projection())
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


def print_steps(timeline: Timeline, count: int | None) -> None:
    """All steps to the end, or so many."""
    for step in islice(_steps(timeline), count):
        show(step)


def _steps(timeline: Timeline) -> Iterator[Step]:
    while True:
        try:
            step = timeline.forward()
        except GoneError:
            if not timeline.skip():
                raise
            continue
        if step is None:
            return
        yield step


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
