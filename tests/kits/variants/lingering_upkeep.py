"""`coild` whose upkeep process is at work until it is ended, and then takes its time to be gone."""

from __future__ import annotations

import asyncio
import sys

from coild import cli
from coild.upkeep import worker as upkeep

AT_WORK = "the upkeep is at work"
GONE = "the upkeep is gone"
_LINGERS_SECONDS = 0.3


async def index(self: upkeep.UpkeepProcess) -> dict[int, bytes]:
    """In place of UpkeepProcess.index."""
    sys.stderr.write(f"{AT_WORK}\n")
    try:
        await asyncio.Event().wait()
    finally:
        # As the wait for a process that was killed, which must not be cut short.
        await asyncio.sleep(_LINGERS_SECONDS)
        sys.stderr.write(f"{GONE}\n")
    return {}


if __name__ == "__main__":
    upkeep.UpkeepProcess.index = index  # type: ignore[method-assign]
    sys.exit(cli.main())
