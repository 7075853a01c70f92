"""The look before anybody is told, beside the flush that it follows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from coild.rules.events import SCHEMA, DaemonStarted, Event
from journal import Journal
from tests.bench.bare import flusher
from tests.bench.table import Row
from tests.bench.wrk import median

_ROUNDS = 200
_LOOKS = 10
_EVENT = msgspec.msgpack.encode(DaemonStarted(0, "1", "n", ""))


def rows(scratch: Path) -> Iterator[Row]:
    """Measure both in turn, many times; the row.

    A pair is measured within two milliseconds, and the median of their ratios counts: what the
    machine does meanwhile it does to both.
    """
    flush = flusher(str(scratch / "flushed"))
    journal = Journal.open(scratch / "looked-at", Event, schema=SCHEMA, replay=_ignore)
    for _ in range(2):
        journal._log.append([_EVENT])
    pairs = [(_microseconds(journal._log.check), _microseconds(flush)) for _ in range(_ROUNDS)]
    journal._log.close()
    journal._custody.close()
    yield Row(
        "the look before an acknowledgement / a write and its flush",
        median(look / flushed for look, flushed in pairs),
        0.2,
        at_most=True,
        note=f"{median(look for look, _ in pairs):.1f} / {median(f for _, f in pairs):.0f} µs",
    )


def _microseconds(call: Callable[[], object]) -> float:
    """Of one call, the mean of several."""
    started = time.perf_counter()
    for _ in range(_LOOKS):
        call()
    return (time.perf_counter() - started) / _LOOKS * 1e6


def _ignore(_: list[Any]) -> None:
    """The journal is new."""
