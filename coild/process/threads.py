"""Threads when the limit on tasks is reached: the operator's to raise, and no bug."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

#: What to say where `is_shortage`.
NO_THREAD = (
    "the system gives coild no further thread: raise its limit on tasks (TasksMax of the service, "
    "pids.max of its cgroup, or ulimit -u), or end others that take them"
)
#: For what may block beside the loop: a handful of steps of a compaction, looks at files.
_WORKERS = 8


def is_shortage(error: BaseException) -> bool:
    """Whether a thread could not be started because there may be no more. CPython's own text."""
    return isinstance(error, RuntimeError) and str(error) == "can't start new thread"


def start_workers(loop: asyncio.AbstractEventLoop) -> None:
    """Start all threads of `asyncio.to_thread` now: none is missing once the daemon serves.

    An executor starts them one by one otherwise, in the middle of whatever needs one. Raises
    RuntimeError if that `is_shortage`.
    """
    executor = ThreadPoolExecutor(_WORKERS, thread_name_prefix="worker")
    loop.set_default_executor(executor)
    # One that idles would take the next job as well: so all are kept busy until all are there.
    everyone = threading.Event()
    try:
        for _ in range(_WORKERS):
            executor.submit(everyone.wait)
    finally:
        everyone.set()
