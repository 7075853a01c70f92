"""The ceiling: a Sanic app with the same routes that answers static bytes and does nothing.

With a file as argument, the floor: each request writes a frame's bytes there and flushes them.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

import uvloop
from sanic import HTTPResponse, Request, Sanic
from sanic.response import raw

from coild.api import sanic_config

_BODY = b'{"address":"10.64.0.0","status":200}'
_FRAME = bytes(208)
_FILE_BYTES = 1 << 20


def _flusher(path: str) -> Callable[[], None]:
    """Writes and flushes one frame's bytes, in a file that is zero-filled ahead of time."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    os.pwrite(fd, bytes(_FILE_BYTES), 0)
    os.fsync(fd)
    offsets = itertools.cycle(range(0, _FILE_BYTES - len(_FRAME), len(_FRAME)))

    def flush() -> None:
        os.pwrite(fd, _FRAME, next(offsets))
        os.fdatasync(fd)

    return flush


def main() -> None:
    """Serve on a free port of loopback, which is printed, until killed."""
    flush = _flusher(sys.argv[1]) if len(sys.argv) > 1 else lambda: None
    app = Sanic("bare", config=sanic_config(), configure_logging=False)

    async def allocate(request: Request) -> HTTPResponse:
        flush()
        return raw(_BODY, content_type="application/json")

    async def release(request: Request, namespace: str, pod: str, container: str) -> HTTPResponse:
        flush()
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
