"""The repair that `coild-repair` would make, which `coild-verify` asks before it advises one."""

from __future__ import annotations

from pathlib import Path

from coild.rules.projection import Projection
from coild.vocabulary import VOCABULARY
from journal import FileSystem
from journal.repair import Truncation, plan_truncation


def plan(fs: FileSystem, directory: Path, now: int) -> Truncation | None:
    """The plan of a repair at `now` (ns since the epoch); None if the journal opens as it is.

    Changes nothing. Raises as `plan_truncation`, InconsistentEventError or ValueError if the events
    contradict each other.
    """
    state = Projection()
    return plan_truncation(
        fs,
        directory,
        VOCABULARY.schema,
        VOCABULARY.event_type,
        state.restore,
        state.apply_all,
        now,
        VOCABULARY.record_of,
    )
