"""Looks after the unix socket's file and lock, which others can remove beside a running daemon."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import TypeVar

from coild.config.layers import StartError
from coild.process.threads import WorkerThread
from coild.process.unix_socket import PassedSocket, UnixSocket

logger = logging.getLogger(__name__)

#: It is known within a second, and costs three calls that look at names.
_LOOK_SECONDS = 0.5
#: So long a stop waits for a look that is at work.
_END_SECONDS = 1.0

_T = TypeVar("_T")


class SocketWatch:
    """Binds and locks again what was removed or replaced, as soon as that can be done."""

    def __init__(
        self,
        unix: UnixSocket | PassedSocket | None,
        replace: Callable[[socket.socket, socket.socket], Awaitable[None]],
    ) -> None:
        """`replace` has to serve its second socket in place of the first."""
        self._unix = unix
        self._served = unix.socket if unix is not None else None
        self._replace = replace
        self._thread = WorkerThread("socket-watch")
        if unix is not None:
            # Not later: once the daemon serves, it starts no thread.
            self._thread.start()
        #: Why requests over the socket's path do not reach this daemon; empty if they do.
        self.unreachable = ""
        #: Why the lock does not keep another coild from the path; empty if it does.
        self.unlocked = ""

    async def run(self) -> None:
        """Look at both twice a second, for as long as the daemon runs."""
        try:
            while self._unix is not None:
                await asyncio.sleep(_LOOK_SECONDS)
                await self._look(self._unix)
        finally:
            self._thread.end()

    async def _call(self, call: Callable[[], _T]) -> _T:
        """Make a call in the thread: the path may lead to a file system that does not answer."""
        future = self._thread.submit(call)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            # What closes the socket next must not meet one that is being bound.
            done, _ = await asyncio.wait([future], timeout=_END_SECONDS)
            for ended in done:
                ended.exception()
            raise

    async def _look(self, unix: UnixSocket | PassedSocket) -> None:
        bound, locked = await self._call(lambda: (unix.is_bound, unix.is_locked))
        if bound and locked and unix.socket is self._served:
            if self.unreachable or self.unlocked:
                logger.warning("the unix socket %s is where it was again", unix.path)
            self.unreachable = self.unlocked = ""
            return
        try:
            await self._call(unix.restore)
            if self._served is not None and unix.socket is not self._served:
                await self._replace(self._served, unix.socket)
                self._served.close()
                self._served = unix.socket
        except (StartError, OSError) as error:
            bound = await self._call(lambda: unix.is_bound)
            self._log_change(unix, str(error).removeprefix("socket: "), bound=bound)
            return
        self.unreachable = self.unlocked = ""
        if not bound:
            logger.warning(
                "the file of the unix socket %s was removed or replaced; it is bound again",
                unix.path,
            )
        if not locked:
            logger.warning(
                "the lock %s.lock was removed or replaced; it is locked again", unix.path
            )

    def _log_change(self, unix: UnixSocket | PassedSocket, reason: str, *, bound: bool) -> None:
        """Tell once what is lost, and why it stays so."""
        unreachable = unlocked = ""
        if not bound:
            unreachable = (
                f"requests over the unix socket {unix.path} do not reach this daemon, its file was "
                f"removed or replaced: {reason}; {unix.ADVICE}"
            )
        else:
            unlocked = (
                f"the lock {unix.path}.lock was removed or replaced, and cannot be locked again: "
                f"{reason}; stop the other coild, or remove what is there"
            )
        for before, now in ((self.unreachable, unreachable), (self.unlocked, unlocked)):
            if now and now != before:
                logger.error("%s", now)
        self.unreachable, self.unlocked = unreachable, unlocked
