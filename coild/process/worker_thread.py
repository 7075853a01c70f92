"""A thread for calls that may block, which nobody has to wait for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

_T = TypeVar("_T")


class WorkerThread:
    """Does one thing after the other, from the first one on.

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
        """Have it done; what it returns or raises. What was cancelled before it began is not."""
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
