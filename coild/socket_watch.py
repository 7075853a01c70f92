"""Looks after the unix socket's file and lock, which others can remove beside a running daemon."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable

from coild.settings import StartError
from coild.unix_socket import PassedSocket, UnixSocket

logger = logging.getLogger(__name__)

#: It is known within a second, and costs three calls that look at names.
_LOOK_SECONDS = 0.5


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
        #: Why requests over the socket's path do not reach this daemon; empty if they do.
        self.unreachable = ""
        #: Why the lock does not keep another coild from the path; empty if it does.
        self.unlocked = ""

    async def run(self) -> None:
        """Look again and again, for as long as the daemon runs."""
        while self._unix is not None:
            await asyncio.sleep(_LOOK_SECONDS)
            await self._look(self._unix)

    async def _look(self, unix: UnixSocket | PassedSocket) -> None:
        bound, locked = unix.is_bound, unix.is_locked
        if bound and locked and unix.socket is self._served:
            if self.unreachable or self.unlocked:
                logger.warning("the unix socket %s is where it was again", unix.path)
            self.unreachable = self.unlocked = ""
            return
        try:
            unix.restore()
            if self._served is not None and unix.socket is not self._served:
                await self._replace(self._served, unix.socket)
                self._served.close()
                self._served = unix.socket
        except (StartError, OSError) as error:
            self._tell(unix, str(error).removeprefix("socket: "))
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

    def _tell(self, unix: UnixSocket | PassedSocket, reason: str) -> None:
        """Tell once what is lost, and why it stays so."""
        unreachable = unlocked = ""
        if not unix.is_bound:
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
