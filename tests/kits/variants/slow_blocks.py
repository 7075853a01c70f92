"""`coild` whose blocks come once there is a file, COILD_TEST_BLOCKS, as from a slow cluster.

python -m tests.kits.variants.slow_blocks ARGUMENTS
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from coild.blocks.static import StaticBlocks
from coild.rules.addresses import Subnet

VARIABLE = "COILD_TEST_BLOCKS"


def _install(file: Path) -> None:
    real = StaticBlocks.acquire

    async def acquire(self: StaticBlocks, pool: str, version: int) -> Subnet:
        while not os.path.exists(file):  # noqa: ASYNC240, PTH110 - a look, by a test's daemon
            await asyncio.sleep(0.01)
        return await real(self, pool, version)

    StaticBlocks.acquire = acquire  # type: ignore[method-assign]


if __name__ == "__main__":
    _install(Path(os.environ[VARIABLE]))
    from coild.cli import main

    sys.exit(main())
