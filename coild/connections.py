"""One connection: what Sanic's protocol lacks, and how many of them there may be."""

from __future__ import annotations

import asyncio
import logging
from operator import attrgetter
from time import monotonic
from typing import Any

from sanic.exceptions import BadRequest, RequestTimeout
from sanic.http import Http, Stage
from sanic.http.http1 import HTTP_CONTINUE
from sanic.server.protocols.http_protocol import HttpProtocol

from coild.answers import too_many_connections
from coild.framing import check_head, is_chunk_line, parse_length
from coild.limits import ARRIVAL_SECONDS, HEADER_BYTES_MAX, RESPONSE_SECONDS
from coild.routes import COMPACT

logger = logging.getLogger(__name__)

#: How long it is taken for granted that no connection is idle.
_SEARCH_SECONDS = 0.1
#: So often it is said that there are too many connections.
_LOG_SECONDS = 10.0
#: As in Sanic: the size of a chunk has not so many digits.
_CHUNK_LINE_BYTES = 64
_TOO_MANY = too_many_connections()


class _Http(Http):
    """HTTP/1.1 as RFC 9112 has it, where Sanic's own is lenient.

    And it answers a URL that cannot be parsed; Sanic's own hangs up without a word.
    """

    __slots__ = ()

    async def http1_request_header(self) -> None:
        """Read the head of a request, and check it before Sanic does."""
        buffer = self.recv_buffer
        start = 0
        while (end := buffer.find(b"\r\n\r\n", start)) < 0 and len(buffer) < HEADER_BYTES_MAX:
            start = max(0, len(buffer) - 3)
            await self._receive_more()
        if 0 <= end < HEADER_BYTES_MAX:
            check_head(bytes(buffer[:end]))
        await super().http1_request_header()  # type: ignore[no-untyped-call]

    async def read(self) -> bytes | None:
        """Read some of the body; the line before each chunk is checked before Sanic does."""
        body: Any = self.request_body
        if body == "chunked" and not self.request_bytes_left:
            await self._check_chunk_line()
        data: bytes | None = await super().read()
        return data

    async def _check_chunk_line(self) -> None:
        if self.expecting_continue:
            self.expecting_continue = False
            await self._send(HTTP_CONTINUE)
        buffer = self.recv_buffer
        while (end := buffer.find(b"\r\n", 2)) < 0 and len(buffer) <= _CHUNK_LINE_BYTES:
            await self._receive_more()
        if end < 0 or not is_chunk_line(bytes(buffer[:end])):
            self.keep_alive = False
            raise BadRequest("Bad chunked encoding")

    @staticmethod
    def _safe_int(value: str, base: int = 10) -> int:
        return parse_length(value, base)

    def create_empty_request(self) -> None:
        """Make the request that stands in for one that could not be read."""
        # It would be given the same URL, and fail again.
        self.url = None
        super().create_empty_request()


class Room:
    """How many connections one socket serves; what is refused is logged, but not each time."""

    def __init__(self, connections_max: int) -> None:
        self.connections_max = connections_max
        self._refused = 0
        self._logged = self._searched = -_LOG_SECONDS

    def make(self, connections: set[Any]) -> bool:
        """Whether one more may come; for it, some that have been idle the longest may be closed."""
        if len(connections) < self.connections_max:
            return True
        now = monotonic()
        # A search that found nothing is not repeated for each of those who storm the door.
        if now - self._searched < _SEARCH_SECONDS:
            self._refused += 1
            return False
        idle = sorted((c for c in connections if c.is_idle), key=attrgetter("last_used"))
        # Several, so that there is no such search at the next one.
        for connection in idle[: self.connections_max // 16 or 1]:
            connection.close()
            connections.discard(connection)
        if not idle:
            self._searched = now
            self._refused += 1
        if now - self._logged >= _LOG_SECONDS:
            self._logged = now
            self._log(found_idle=bool(idle))
        return bool(idle)

    def _log(self, *, found_idle: bool) -> None:
        if found_idle:
            logger.warning(
                "%d connections are open, so idle ones are closed; see --max-connections",
                self.connections_max,
            )
        else:
            logger.error(
                "%d connections are open and busy, so others are refused, %d so far; "
                "see --max-connections",
                self.connections_max,
                self._refused,
            )


class Connection(HttpProtocol):
    """A connection. What Sanic's time limits miss is ended: its clock restarts at each byte."""

    __slots__ = ("_arriving_since", "_room", "_unread_since")
    HTTP_CLASS = _Http

    def __init__(self, *, room: Room, **parameters: Any) -> None:
        super().__init__(**parameters)
        self._room = room
        self._arriving_since = self._unread_since = 0.0

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being received, done or sent."""
        return (
            self.http is not None
            and self.http.stage is Stage.IDLE
            and not self.recv_buffer
            and self._can_write.is_set()
            and not getattr(self.http, "request_body", None)
        )

    @property
    def last_used(self) -> float:
        """When something was received or sent last, by the monotonic clock."""
        return self._time

    def connection_made(self, transport: Any) -> None:
        """Serve the connection, or say that there are too many."""
        if self._room.make(self.connections):
            super().connection_made(transport)  # type: ignore[no-untyped-call]
            return
        transport.set_protocol(asyncio.Protocol())
        transport.write(_TOO_MANY)
        transport.close()

    def pause_writing(self) -> None:
        """The peer does not read: from now on its time runs."""
        self._unread_since = monotonic()
        super().pause_writing()  # type: ignore[no-untyped-call]

    def check_timeouts(self) -> None:
        """End what takes too long; but a compaction is answered when it is done, however long."""
        http = self.http
        if http is None or self._task is None:
            return
        now = monotonic()
        body_is_missing = bool(getattr(http, "request_body", None))
        if not self._can_write.is_set():
            # Nobody can be told, neither of an answer nor of a time-out.
            if now - self._unread_since > RESPONSE_SECONDS:
                self.abort()  # type: ignore[no-untyped-call]
                return
            self._time = now
        elif http.stage is Stage.REQUEST or body_is_missing:
            # Sanic forgets the exception at the start of each request: this one is new.
            if http.exception is None:
                http.exception = RequestTimeout()
                self._arriving_since = now
            elif now - self._arriving_since > ARRIVAL_SECONDS:
                # Sanic would wait for the rest of the body after the answer.
                http.request_body = None
                self._task.cancel()
                return
        elif http and http.request.path == COMPACT:
            self._time = now
        super().check_timeouts()  # type: ignore[no-untyped-call]
