"""The ceiling: a Sanic app with the same routes that answers static bytes and does nothing."""

from __future__ import annotations

import asyncio
import socket
import sys

import uvloop
from sanic import HTTPResponse, Request, Sanic
from sanic.response import raw

from coild.api import sanic_config
from coild.server import Server

_BODY = b'{"address":"10.64.0.0","status":200}'


def main() -> None:
    """Serve on a free port of loopback, which is printed, until killed."""
    app = Sanic("bare", config=sanic_config(), configure_logging=False)

    async def allocate(request: Request) -> HTTPResponse:
        return raw(_BODY, content_type="application/json")

    async def release(request: Request, namespace: str, pod: str, container: str) -> HTTPResponse:
        return raw(_BODY, content_type="application/json")

    app.add_route(allocate, "/ip", methods=["POST"])
    app.add_route(release, "/ip/<namespace>/<pod>/<container>", methods=["DELETE"])

    async def serve() -> None:
        sock = socket.create_server(("127.0.0.1", 0), backlog=1024)
        sock.setblocking(False)
        await Server(app).start([sock])
        sys.stdout.write(f"127.0.0.1:{sock.getsockname()[1]}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())


if __name__ == "__main__":
    main()
