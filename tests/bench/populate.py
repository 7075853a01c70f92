"""Journals with many addresses held, written faster than over HTTP."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from coild.allocation.service import Service, Wanted
from coild.blocks.static import StaticBlocks
from coild.rules.addresses import Pool, Subnet
from coild.rules.events import SCHEMA, Event
from coild.rules.pool_events import pools_changed
from coild.rules.projection import Projection
from journal import Journal
from tests.kits.daemon.service import Unannounced

#: A million addresses.
POOL = "10.0.0.0/12"
_AT_ONCE = 512


def populate(directory: Path, held: int) -> None:
    """Make a journal in `directory` in which `held` containers with 64-character IDs hold one."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    asyncio.run(_populate(directory, held))


async def _populate(directory: Path, held: int) -> None:
    state = Projection()
    journal = Journal.open(directory, Event, schema=SCHEMA, replay=state.apply_all)
    journal.start()
    pools = {"default": Pool((Subnet.parse(POOL),), 5)}
    service = Service(
        state,
        journal,
        StaticBlocks(pools, []),
        reuse_after=30 * 10**9,
        clock=time.time_ns,
        ago=lambda duration: time.time_ns() - duration,
        announcer=Unannounced(),
    )
    await service.record(pools_changed(time.time_ns(), pools))
    for start in range(0, held, _AT_ONCE):
        await asyncio.gather(
            *(
                service.allocate(
                    Wanted(f"team-{i % 50}", f"deployment-{i % 997}-{i:08x}", f"{i:064x}", 4)
                )
                for i in range(start, min(held, start + _AT_ONCE))
            )
        )
    await journal.close()
