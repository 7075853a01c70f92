"""Warns of events at the end of a journal that are not shown, as they may not be durable."""

from __future__ import annotations

from pathlib import Path

from coild.vocabulary import VOCABULARY
from journal.read.tail import wait_vouched
from tools.output import notice


def tell_unvouched(directory: Path, *, through: int | None = None) -> None:
    """Wait as `wait_vouched` does, and say on stderr how many events are still left out."""
    if left := wait_vouched(directory, VOCABULARY.schema, through=through):
        say_unvouched(directory, left)


def say_unvouched(directory: Path, left: int) -> None:
    """Say on stderr that so many events are left out, and why."""
    events, them = ("1 event", "it") if left == 1 else (f"{left} events", "them")
    notice(
        f"{events} at the end of {directory} left out: written, but not known to be on disk yet; "
        "coild was killed, or is waiting for the disk: its next start, or the end of the wait, "
        f"shows {them}",
    )
