"""The ceiling: a Sanic app with the same routes that answers static bytes and does nothing.

With a file as argument, each request writes a frame's bytes there and flushes them: on the loop,
which nobody else is served by meanwhile, or with a second argument, `thread`, in a thread of its
own, which is the floor of a daemon whose reads wait for no disk.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import queue
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop
from sanic import HTTPResponse, Request, Sanic
from sanic.response import raw

from coild.http.api import sanic_config

_BODY = b'{"address":"10.64.0.0","status":200}'
_FRAME = bytes(208)
_FILE_BYTES = 1 << 20


def flusher(path: str) -> Callable[[], None]:
    """Writes and flushes one frame's bytes, in a file that is zero-filled ahead of time."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    os.pwrite(fd, bytes(_FILE_BYTES), 0)
    os.fsync(fd)
    offsets = itertools.cycle(range(0, _FILE_BYTES - len(_FRAME), len(_FRAME)))

    def flush() -> None:
        os.pwrite(fd, _FRAME, next(offsets))
        os.fdatasync(fd)

    return flush


Flush = Callable[[], Awaitable[None]]


def _on_loop(path: str) -> Flush:
    call = flusher(path)

    async def flush() -> None:
        call()

    return flush


def _in_thread(path: str) -> Flush:
    """Flushes in one thread, by the cheapest way there and back."""
    call = flusher(path)
    asked: queue.SimpleQueue[asyncio.Future[None]] = queue.SimpleQueue()

    def work() -> None:
        while True:
            future = asked.get()
            call()
            future.get_loop().call_soon_threadsafe(_wake, future)

    threading.Thread(target=work, daemon=True).start()

    async def flush() -> None:
        future = asyncio.get_running_loop().create_future()
        asked.put(future)
        await future

    return flush


def _wake(future: asyncio.Future[None]) -> None:
    # Of a client that is gone it is cancelled.
    if not future.done():
        future.set_result(None)


async def _nothing() -> None:
    """No flush at all."""


def _flush_of(path: str = "", where: str = "loop") -> Flush:
    if not path:
        return _nothing
    return _in_thread(path) if where == "thread" else _on_loop(path)


def main() -> None:
    """Serve on a free port of loopback, which is printed, until killed."""
    flush = _flush_of(*sys.argv[1:])
    app = Sanic("bare", config=sanic_config(), configure_logging=False)

    async def allocate(request: Request) -> HTTPResponse:
        await flush()
        return raw(_BODY, content_type="application/json")

    async def release(request: Request, namespace: str, pod: str, container: str) -> HTTPResponse:
        await flush()
        return raw(_BODY, content_type="application/json")

    app.add_route(allocate, "/ip", methods=["POST"])
    app.add_route(release, "/ip/<namespace>/<pod>/<container>", methods=["DELETE"])

    async def serve() -> None:
        sock = socket.create_server(("127.0.0.1", 0), backlog=1024)
        sock.setblocking(False)
        server: Any = await app.create_server(sock=sock, return_asyncio_server=True)
        await server.startup()
        await server.before_start()
        await server.after_start()
        sys.stdout.write(f"127.0.0.1:{sock.getsockname()[1]}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())


if __name__ == "__main__":
    main()
