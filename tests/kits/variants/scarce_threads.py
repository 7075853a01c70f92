"""`coild` where the system gives no more than so many threads, COILD_TEST_THREADS.

    python -m tests.kits.variants.scarce_threads ARGUMENTS

For root there is no such limit but a cgroup's.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

VARIABLE = "COILD_TEST_THREADS"


def _install(left: int) -> None:
    real = threading._start_new_thread  # type: ignore[attr-defined]

    def start(*args: Any) -> Any:
        nonlocal left
        if left == 0:
            # As CPython says it.
            raise RuntimeError("can't start new thread")
        left -= 1
        return real(*args)

    threading._start_new_thread = start  # type: ignore[attr-defined]


if __name__ == "__main__":
    _install(int(os.environ[VARIABLE]))
    from coild.cli import main

    sys.exit(main())
