"""Sanic on our own loop and our own sockets, with an end that waits for nobody idle."""

from __future__ import annotations

import asyncio
import logging
import socket
from functools import partial
from typing import Any

from sanic import Sanic

from coild.connections import Connection, Room
from coild.listen import descriptors_for
from coild.log_limit import LogLimit
from coild.tcp import BACKLOG

logger = logging.getLogger(__name__)

#: How long a stop waits for requests that are being answered. A disk needs less, or is broken.
GRACE_SECONDS = 5.0
_POLL_SECONDS = 0.005


class Server:
    """Serves one application on several sockets that listen already."""

    def __init__(self, app: Sanic[Any, Any], connections_max: int) -> None:
        """`connections_max` is for each socket; there are fewer if the system allows no more."""
        self._app = app
        self._connections_max = connections_max
        # Sanic's AsyncioServer; its methods have no types.
        self._servers: list[Any] = []

    async def start(self, sockets: list[socket.socket]) -> None:
        """Answer requests from here on."""
        room = descriptors_for(self._connections_max * len(sockets)) // len(sockets)
        if room < self._connections_max:
            logger.warning(
                "the limit of open files (ulimit -n) allows %d connections on each socket, not %d",
                room,
                self._connections_max,
            )
        log: LogLimit = self._app.ctx.log
        for index, sock in enumerate(sockets):
            server: Any = await self._app.create_server(
                sock=sock,
                backlog=BACKLOG,
                protocol=partial(Connection, room=Room(room, log)),  # type: ignore[arg-type]
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
        await self._finish()
        # Whatever clients did, they cannot do any more.
        self._app.ctx.log.flush()

    async def _finish(self) -> None:
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
