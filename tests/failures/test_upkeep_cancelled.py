"""The end of a daemon that is just compacting: its process is gone before the event loop is."""

# expected == actual

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import uvloop

from coild.upkeep.worker import UpkeepProcess


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("runs_for", [0.0, 0.05])
def test_it_may_be_cancelled_at_any_time_and_twice(
    tmp_path: Path, turns: int, runs_for: float
) -> None:
    """The loop's end finds nothing open: it would say so, and fail by a signal of the process."""

    async def cancelled() -> bool:
        task = asyncio.ensure_future(UpkeepProcess(tmp_path).index())
        await asyncio.sleep(runs_for)
        for _ in range(2):
            task.cancel()
            for _ in range(turns):
                await asyncio.sleep(0)
        await asyncio.wait([task])
        return task.cancelled()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(cancelled())
