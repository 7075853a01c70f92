"""One connection: what Sanic's protocol lacks."""

from __future__ import annotations

import asyncio
import logging
import select
from asyncio import CancelledError
from time import monotonic
from typing import Any

from sanic.exceptions import BadRequest, PayloadTooLarge, RequestCancelled, RequestTimeout
from sanic.http import Http, Stage
from sanic.http.http1 import HTTP_CONTINUE
from sanic.server.protocols.http_protocol import HttpProtocol

from coild.http.answers import too_many_connections
from coild.http.budget import Budget, BusyError, Shared
from coild.http.connection_limit import ConnectionLimit
from coild.http.framing import check_head, is_chunk_line, parse_length
from coild.http.operations import COMPACT
from coild.rules.limits import (
    ARRIVAL_SECONDS,
    FREE_BYTES,
    HEADER_BYTES_MAX,
    LINGER_BYTES,
    LINGER_SECONDS,
    RESPONSE_SECONDS,
)

logger = logging.getLogger(__name__)

#: How often a connection whose peer sends no more is looked at while it waits for its answers.
_LOOK_SECONDS = 0.1
#: As in Sanic: the size of a chunk has not so many digits.
_CHUNK_LINE_BYTES = 64


class _Http(Http):
    """HTTP/1.1 as RFC 9112 has it, where Sanic's own is lenient.

    And it answers a URL that cannot be parsed; Sanic's own hangs up without a word.
    """

    __slots__ = ("kept",)

    def init_for_request(self) -> None:
        """Begin with the next request."""
        super().init_for_request()  # type: ignore[no-untyped-call]
        #: Bytes of this request that are kept, and are not in the buffer any more.
        self.kept = 0
        connection: Any = self.protocol
        if connection.share:
            connection.count()

    async def http1(self) -> None:
        """Serve requests until the connection is to be closed."""
        connection: Any = self.protocol
        await super().http1()  # type: ignore[no-untyped-call]
        if self.response is not None and self.response.status >= 400:
            await connection.linger()

    async def error_response(self, exception: Exception) -> None:
        """Answer what went wrong. Raises RequestCancelled if that is the end of the connection."""
        # It is a CancelledError, and so no Exception to Python; Sanic has it here all the same.
        error: BaseException = exception
        if isinstance(error, RequestCancelled):
            # An answer may have begun, and another would be taken for the rest of it.
            logger.debug("a connection ended before it was answered")
            raise error
        await super().error_response(exception)

    async def http1_request_header(self) -> None:
        """Read the head of a request."""
        connection: Any = self.protocol
        try:
            await self._read_header()
        except CancelledError:
            if connection.transport is None:
                # The connection ended here: Sanic logs which request it was, and there is none.
                self.create_empty_request()
            raise

    async def _read_header(self) -> None:
        """Read the head of a request, and check it before Sanic does."""
        buffer = self.recv_buffer
        start = 0
        while (end := buffer.find(b"\r\n\r\n", start)) < 0 and len(buffer) < HEADER_BYTES_MAX:
            start = max(0, len(buffer) - 3)
            self._check_budget()
            await self._receive_more()
        self._check_budget()
        if 0 <= end < HEADER_BYTES_MAX:
            check_head(bytes(buffer[:end]))
        await super().http1_request_header()  # type: ignore[no-untyped-call]
        if end > FREE_BYTES:
            # As bytes, as text, and as a dictionary.
            self._keep(3 * end)

    async def read(self) -> bytes | None:
        """Read some of the body; the line before each chunk is checked before Sanic does."""
        body: Any = self.request_body
        if body == "chunked" and not self.request_bytes_left:
            await self._check_chunk_line()
        try:
            data: bytes | None = await super().read()
            if data:
                self._keep(len(data))
        except (PayloadTooLarge, BusyError):
            # Sanic would read on, and raise again.
            self.request_body = None
            self.keep_alive = False
            raise
        return data

    def _keep(self, size: int) -> None:
        """Count so many bytes more of this request. Raises BusyError."""
        self.kept += size
        connection: Any = self.protocol
        if self.kept > FREE_BYTES or connection.share:
            connection.count()
            self._check_budget()

    def _check_budget(self) -> None:
        """Drop what came, and raise BusyError, if there is no room for it."""
        connection: Any = self.protocol
        if connection.is_over:
            self.keep_alive = False
            self.kept = 0
            self.recv_buffer.clear()
            connection.count()
            raise connection.budget.refusal()

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


class Connection(HttpProtocol):
    """A connection. What Sanic's time limits miss is ended: its clock restarts at each byte."""

    __slots__ = (
        "_arriving_since",
        "_dropped",
        "_has_ended",
        "_limit",
        "_unread_since",
        "budget",
        "is_over",
        "share",
        "unread",
    )
    HTTP_CLASS = _Http

    def __init__(self, *, limit: ConnectionLimit, **parameters: Any) -> None:
        super().__init__(**parameters)
        self._limit = limit
        self.budget: Budget = self.app.ctx.budget
        self._arriving_since = self._unread_since = 0.0
        #: What of the budget is reserved for this connection.
        self.share = 0
        #: Whether it keeps more than there is room for.
        self.is_over = False
        #: The long body that the peer has not read all of, if there is one.
        self.unread: Shared | None = None
        # How much was dropped of what comes after an error; negative: nothing is to be.
        self._dropped = -1
        # Whether the peer sends no more.
        self._has_ended = False

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
        if self._limit.admit(self.connections):
            super().connection_made(transport)  # type: ignore[no-untyped-call]
            # Little is kept of answers that the peer does not read, and none when all is read.
            transport.set_write_buffer_limits(high=FREE_BYTES, low=0)
            return
        transport.set_protocol(asyncio.Protocol())
        transport.write(too_many_connections())
        transport.close()

    def data_received(self, data: bytes) -> None:
        """Keep what came, within the budget."""
        if self._dropped >= 0:
            self._dropped += len(data)
            if self._dropped > LINGER_BYTES:
                self.abort()  # type: ignore[no-untyped-call]
            return
        super().data_received(data)
        if len(self.recv_buffer) > FREE_BYTES or self.share:
            # It is resumed when more is needed.
            if self.transport is not None:
                self.transport.pause_reading()
            self.count()
            if self.is_over and self._is_at_work:
                # It sends and sends while it waits for its answers: nothing else stops it.
                self.abort()  # type: ignore[no-untyped-call]

    def eof_received(self) -> bool:
        """The peer sends no more: whether what it asked for is still to be answered.

        As by `nc -N`. One that hung up altogether may look the same: see `_look_for_peer`.
        """
        self._has_ended = True
        # It is unset while more is waited for.
        stays = self._data_received.is_set() and self._dropped < 0
        if stays:
            self.loop.call_later(_LOOK_SECONDS, self._look_for_peer)
        return stays

    def _look_for_peer(self) -> None:
        """Give up what is at work for a peer that is gone, as far as the kernel knows.

        It does of a unix socket, and of TCP once there was a reset. A plain end of TCP is half of a
        connection until something is written to it.
        """
        if self.transport is None or self.transport.is_closing() or self._dropped >= 0:
            return
        poll = select.poll()
        # The loop does not look at it any more. These two need not be asked for.
        poll.register(self.transport.get_extra_info("socket").fileno(), 0)
        if any(flags & (select.POLLHUP | select.POLLERR) for _, flags in poll.poll(0)):
            logger.debug("a client went away before it was answered")
            self.abort()  # type: ignore[no-untyped-call]
            return
        self.loop.call_later(_LOOK_SECONDS, self._look_for_peer)

    async def receive_more(self) -> None:
        """Wait for more of a request, or for the first of the next one."""
        if self._has_ended:
            # There is none. The end of the connection ends this task.
            self.close()
        elif self.transport is not None:
            self.transport.resume_reading()
        # As in Sanic, without a call of it: this is done for each request.
        self._data_received.clear()
        await self._data_received.wait()

    @property
    def _is_at_work(self) -> bool:
        """Whether a request that came as a whole is being answered."""
        http = self.http
        return http is not None and bool(http) and not getattr(http, "request_body", None)

    async def send(self, data: bytes) -> None:
        """Write an answer, or a part of one; that of a long body is counted by itself.

        Raises RequestCancelled if the connection has ended.
        """
        if self.transport is None:
            # It was aborted, and the task is not cancelled yet.
            raise RequestCancelled
        await super().send(data)  # type: ignore[no-untyped-call]
        if self.unread is not None:
            if self._can_write.is_set() and data is self.unread.body:
                self.unread = None
        elif self.share or len(data) > FREE_BYTES:
            self.count()

    def count(self) -> None:
        """Reserve what is kept for this connection now, or release what is not any more."""
        kept = len(self.recv_buffer) + getattr(self.http, "kept", 0)
        if self.unread is None and self.transport is not None:
            kept += self.transport.get_write_buffer_size()
        wanted = kept if kept > FREE_BYTES else 0
        more = wanted - self.share
        if not wanted:
            self.is_over = False
        elif more > 0 and not self.budget.fits(more):
            self.is_over = True
        # It is there already, so it counts, whether it fits or not.
        self.budget.used += more
        self.share = wanted

    async def linger(self) -> None:
        """Read and drop what still comes after the answer, for a while, or until the peer ends."""
        if self.transport is None or self.transport.is_closing():
            return
        self._dropped = 0
        self.recv_buffer.clear()
        self.count()
        self.transport.write_eof()
        if self._has_ended:
            return
        self.transport.resume_reading()
        # The end of the connection ends this task.
        await asyncio.sleep(LINGER_SECONDS)

    def connection_lost(self, error: Exception | None) -> None:
        """Nothing is kept any more."""
        super().connection_lost(error)  # type: ignore[no-untyped-call]
        self.budget.used -= self.share
        self.share = 0
        self.unread = None

    def pause_writing(self) -> None:
        """The peer does not read: from now on its time runs."""
        self._unread_since = monotonic()
        super().pause_writing()  # type: ignore[no-untyped-call]

    def resume_writing(self) -> None:
        """The peer has read all."""
        self.unread = None
        super().resume_writing()  # type: ignore[no-untyped-call]
        if self.share:
            self.count()

    def check_timeouts(self) -> None:
        """End what takes too long; but a compaction is answered when it is done, however long."""
        http = self.http
        if http is None or self._task is None:
            return
        now = monotonic()
        body_is_missing = bool(getattr(http, "request_body", None))
        if not self._can_write.is_set():
            # The peer cannot be told, neither of an answer nor of a time-out.
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
