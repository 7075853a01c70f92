"""Sanic on our own loop and our own sockets, with an end that waits for nobody idle."""

from __future__ import annotations

import asyncio
import socket
from time import monotonic
from typing import Any

from sanic import Sanic
from sanic.http import Http
from sanic.server.protocols.http_protocol import HttpProtocol

from coild.answers import COMPACT_PATH
from coild.listen import BACKLOG

#: How long a stop waits for requests that are being answered. A disk needs less, or is broken.
GRACE_SECONDS = 5.0
_POLL_SECONDS = 0.005


class _Http(Http):
    """HTTP/1.1 that answers a URL which cannot be parsed; Sanic's own hangs up without a word."""

    __slots__ = ()

    def create_empty_request(self) -> None:
        """Make the request that stands in for one that could not be read."""
        # It would be given the same URL, and fail again.
        self.url = None
        super().create_empty_request()


class _Protocol(HttpProtocol):
    __slots__ = ()
    HTTP_CLASS = _Http

    def check_timeouts(self) -> None:
        """End what takes too long; but a compaction is answered when it is done, however long."""
        request = self._http.request if self._http else None
        if request is not None and request.path == COMPACT_PATH:
            self._time = monotonic()
        super().check_timeouts()  # type: ignore[no-untyped-call]


class Server:
    """Serves one application on several sockets that listen already."""

    def __init__(self, app: Sanic[Any, Any]) -> None:
        self._app = app
        # Sanic's AsyncioServer; its methods have no types.
        self._servers: list[Any] = []

    async def start(self, sockets: list[socket.socket]) -> None:
        """Answer requests from here on."""
        for index, sock in enumerate(sockets):
            server: Any = await self._app.create_server(
                sock=sock,
                backlog=BACKLOG,
                protocol=_Protocol,
                return_asyncio_server=True,
                asyncio_server_kwargs={"start_serving": False},
            )
            if index == 0:
                # Without these, Sanic skips its own optimisations and sends an empty header.
                await server.startup()
                await server.before_start()
            self._servers.append(server)
        for server in self._servers:
            await server.start_serving()
        if self._servers:
            await self._servers[0].after_start()

    async def stop(self) -> None:
        """Accept no more, finish what is in flight, close idle connections at once."""
        for server in self._servers:
            server.server.close()
        deadline = asyncio.get_running_loop().time() + GRACE_SECONDS
        while connections := [c for server in self._servers for c in server.connections]:
            if asyncio.get_running_loop().time() > deadline:
                for connection in connections:
                    connection.abort()
                return
            for connection in connections:
                # Sanic calls a connection idle whose bytes have come but were not looked at yet:
                # that is a request in flight.
                if not connection.recv_buffer:
                    connection.close_if_idle()
            await asyncio.sleep(_POLL_SECONDS)
