"""Tests that are coroutines."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import ParamSpec

_P = ParamSpec("_P")

#: Nothing that a test waits for takes longer; a test that runs so long hangs.
TIMEOUT_SECONDS = 60.0


def in_loop(test: Callable[_P, Awaitable[None]]) -> Callable[_P, None]:
    """Run a coroutine as a test, in its own loop, with a time limit."""

    @functools.wraps(test)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        async def main() -> None:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await test(*args, **kwargs)

        asyncio.run(main())

    return run
