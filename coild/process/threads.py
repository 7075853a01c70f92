"""Threads for calls that may block; and their limit, which is the operator's to raise."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, TypeVar

_T = TypeVar("_T")

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


class WorkerThread:
    """A thread that does one thing after the other; the end of the process does not wait for it.

    Not a ThreadPoolExecutor: the end of the process waits for its threads, and a call that the
    kernel does not return from would keep the process for ever.
    """

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread now. Raises RuntimeError if the system gives no more of them."""
        if not self._thread.ident:
            self._thread.start()

    def submit(self, work: Callable[[], _T]) -> asyncio.Future[_T]:
        """Queue a call; its result or error. It is not made if it is cancelled before it began."""
        self.start()
        future: Future[_T] = Future()
        self._jobs.put((future, work))
        return asyncio.wrap_future(future)

    def end(self) -> None:
        """End the thread once it has done what it was given. It is not waited for."""
        self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, work = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(work())
            except BaseException as error:  # noqa: BLE001
                future.set_exception(error)
            # Nothing is kept alive until the next job comes.
            del job, future, work
