"""Sanic on our own loop and our own sockets, with an end that does not wait for idle clients."""

from __future__ import annotations

import asyncio
import logging
import socket
from functools import partial
from typing import Any, NamedTuple

from sanic import Sanic

from coild.http.connection_limit import ConnectionLimit
from coild.http.connections import Connection
from coild.process.listen import descriptors_for
from coild.process.log_limit import LogLimit
from coild.process.tcp import BACKLOG

logger = logging.getLogger(__name__)

#: How long a stop waits for requests that are being answered. A disk needs less, or is broken.
GRACE_SECONDS = 5.0
_POLL_SECONDS = 0.005


class _Listener(NamedTuple):
    """A socket that is served, or was and still has connections."""

    socket: socket.socket
    # Sanic's AsyncioServer; its methods have no types.
    server: Any
    limit: ConnectionLimit


class Server:
    """Serves one application on several sockets that listen already."""

    def __init__(self, app: Sanic[Any, Any], connections_max: int) -> None:
        """`connections_max` is for each socket; there are fewer if the system allows no more."""
        self._app = app
        self._connections_max = connections_max
        self._listeners: list[_Listener] = []

    async def start(self, sockets: list[socket.socket]) -> None:
        """Answer requests from here on."""
        limit = descriptors_for(self._connections_max * len(sockets)) // len(sockets)
        if limit < self._connections_max:
            logger.warning(
                "the limit of open files (ulimit -n) allows %d connections on each socket, not %d",
                limit,
                self._connections_max,
            )
        log: LogLimit = self._app.ctx.log
        for index, sock in enumerate(sockets):
            server = await self._create(sock, ConnectionLimit(limit, log))
            if index == 0:
                # Without these, Sanic skips its own optimisations and sends an empty header.
                await server.startup()
                await server.before_start()
        for listener in self._listeners:
            await listener.server.start_serving()
        if self._listeners:
            await self._listeners[0].server.after_start()

    async def replace(self, old: socket.socket, new: socket.socket) -> None:
        """Answer on `new` in place of `old`, whose connections go on and count as before."""
        (former,) = (listener for listener in self._listeners if listener.socket is old)
        server = await self._create(new, former.limit)
        await server.start_serving()
        former.server.server.close()
        former.limit.inherit(former.server.connections)
        # A stop waits for the requests of connections, whichever socket they came by.
        self._listeners = [
            listener
            for listener in self._listeners
            if listener.server.server.is_serving() or listener.server.connections
        ]

    async def _create(self, sock: socket.socket, limit: ConnectionLimit) -> Any:
        server: Any = await self._app.create_server(
            sock=sock,
            backlog=BACKLOG,
            protocol=partial(Connection, limit=limit),  # type: ignore[arg-type]
            return_asyncio_server=True,
            asyncio_server_kwargs={"start_serving": False},
        )
        self._listeners.append(_Listener(sock, server, limit))
        return server

    async def stop(self) -> None:
        """Accept no more, finish what is in flight, close idle connections at once."""
        servers = [listener.server for listener in self._listeners]
        for server in servers:
            server.server.close()
        await self._finish(servers)
        # Whatever clients did, they cannot do any more.
        self._app.ctx.log.flush()

    @staticmethod
    async def _finish(servers: list[Any]) -> None:
        deadline = asyncio.get_running_loop().time() + GRACE_SECONDS
        while connections := [c for server in servers for c in server.connections]:
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
