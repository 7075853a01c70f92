"""What is left of a journal's history, while an order to prune may take its beginning away.

A prune is recorded in the journal before any file goes. So what is gone by order is told from what
is lost: only the former is no error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from coild.rules.events import HistoryPruned
from journal import JournalCorruptError, JournalError, Reader
from tools.output import notice

_T = TypeVar("_T")

#: What reading raises when a file was removed under it.
GONE = (JournalCorruptError, FileNotFoundError)


def order_of(reader: Reader, sequence: int) -> int:
    """Up to where an order on record pruned, if it took the event `sequence`; 0 if none did.

    That this event is missing must not be all that is missing: what is gone behind the order makes
    it 0 as well.
    """
    try:
        files = reader.files()
        if not files or files[0].first_sequence <= sequence:
            return 0
        through = _newest_order(reader)
    except (JournalError, OSError):
        return 0
    return through if through >= files[0].first_sequence - 1 else 0


def _newest_order(reader: Reader) -> int:
    """Up to where the newest order to prune goes; 0 if there is none."""
    # Files go when their order is durable: it counts before anything follows it.
    reader = reader.to_the_end()
    for file in reversed(reader.files()):
        batch = next(reader.batches(file.first_sequence), None)
        for event in reversed(batch.events if batch else ()):
            if isinstance(event, HistoryPruned):
                return event.through
    return 0


class Remaining:
    """The history of a journal from the sequence `first` on."""

    def __init__(self, reader: Reader) -> None:
        """Begin with the oldest event there is. Raises OSError, JournalCorruptError."""
        files = reader.files()
        self.reader = reader
        #: More than 1 if history was pruned, or its files are missing.
        self.first = files[0].first_sequence if files else 1
        self._meanwhile = False
        #: The last `first` that was told.
        self._said = 1

    def read(self, look: Callable[[int], _T]) -> _T:
        """What `look` finds from the sequence `first` on; once more if an order took that.

        Raises what `look` raises for any other reason.
        """
        while True:
            try:
                return look(self.first)
            except GONE:
                if not self.pruned(self.first):
                    raise

    def say_pruned(self) -> None:
        """Say once on stderr that what was there at first is not there any more."""
        if self._meanwhile:
            self._say("was pruned meanwhile")

    def say_missing(self) -> None:
        """Say once on stderr that the history does not begin at its beginning."""
        self._say("was pruned, or its files are missing")

    def _say(self, what: str) -> None:
        if self._said < self.first:
            notice(f"history before sequence {self.first} {what}")
            self._said = self.first

    def pruned(self, sequence: int) -> bool:
        """Whether an order on record took this event meanwhile; then `first` is behind it."""
        through = order_of(self.reader, sequence)
        if not through:
            return False
        # All of it is going, if it is not gone yet.
        self.first = through + 1
        self._meanwhile = True
        return True
