"""Who keeps the routes of a table: one coild for each table, protocol and network namespace.

A coild removes each route of its protocol in its table that it has no block for. A second one, with
another data directory, would so withdraw the routes of the first. They share no directory, maybe
not even a file system, but the network namespace; and there is one kind of name that is a network
namespace's own and that the kernel takes back with the process: that of an abstract unix socket.

Any user of the machine may take such a name. So its holder is looked up: a connection to a
listening socket tells which process listens (SO_PEERCRED, unix(7)). A holder that could not change
routes anyway is not a coild, and is not heeded; nor is one that only has the right in a user
namespace of its own, as any user may make one. The holder accepts connections and closes them; one
that is stopped for a while leaves them open, which says that it is there, too.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from pathlib import Path

from coild.config.files import read_limited
from coild.routing.announcer import RouteError

#: linux/capability.h: CAP_NET_ADMIN.
NET_ADMIN = 12
_CREDENTIALS = struct.Struct("=iII")
#: Between binding and listening, or with many connections, a holder cannot be asked for a moment.
_ATTEMPTS, _PAUSE_SECONDS = 10, 0.02
_STATUS_BYTES_MAX = 1 << 20


class TableTakenError(RouteError):
    """Another coild keeps the routes of the table."""


class TableLock:
    """The lock of one table and protocol in the network namespace of the calling thread."""

    def __init__(self, table: int, protocol: int) -> None:
        self._table = table
        self._protocol = protocol
        self._socket: socket.socket | None = None
        # A connection to the holder that it has not accepted yet, and the text of the refusal.
        self._asking: socket.socket | None = None
        self._taken = ""
        #: The process that has the name without being a coild, as text; the table is used anyway.
        self.squatter = ""

    def claim(self) -> None:
        """On return, the table is ours until `close`. May block for a moment.

        Raises TableTakenError if it is another's.
        """
        if self._socket is not None:
            return
        if self._is_waiting():
            raise TableTakenError(self._taken)
        name = f"\0coild/table-{self._table}/protocol-{self._protocol}"
        self.squatter = ""
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(_PAUSE_SECONDS)
            mine = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            try:
                mine.bind(name)
                mine.listen()
            except OSError:
                mine.close()
            else:
                self._socket = mine
                return
            holder = self._ask(name)
            if holder is None:
                continue
            pid, uid = holder
            if _may_be_coild(pid, uid):
                process = f"process {pid}" if pid else "in another container"
                self._taken = (
                    f"another coild ({process}) keeps table {self._table}, protocol "
                    f"{self._protocol}; none is changed until it ends; give this one another "
                    "--table-id"
                )
                raise TableTakenError(self._taken)
            self._hang_up()
            self.squatter = f"process {pid} of the user {uid}"
            return
        self.squatter = "a process that does not answer"

    def fileno(self) -> int | None:
        """Readable when `accept` has something to do; None if nothing is held."""
        return None if self._socket is None else self._socket.fileno()

    def accept(self) -> None:
        """Close the next connection: another coild asked by it who holds the lock."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.accept()[0].close()

    def close(self) -> None:
        """Give up the lock."""
        self._hang_up()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _ask(self, name: str) -> tuple[int, int] | None:
        """Process and user of the listener at a name; None if there is none, or it is too busy."""
        self._hang_up()
        self._asking = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._asking.connect(name)
            found = self._asking.getsockopt(
                socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
            )
        except OSError:
            self._hang_up()
            return None
        pid, uid, _ = _CREDENTIALS.unpack(found)
        return pid, uid

    def _is_waiting(self) -> bool:
        """Whether the holder that was asked last is there still, and has not answered yet."""
        if self._asking is None:
            return False
        try:
            self._asking.recv(1)
        except BlockingIOError:
            return True
        except OSError:
            pass
        # It answered, or is gone.
        self._hang_up()
        return False

    def _hang_up(self) -> None:
        if self._asking is not None:
            self._asking.close()
            self._asking = None


def _may_be_coild(pid: int, uid: int) -> bool:
    """Whether a process may change the routes that this one may; `pid` is 0 if it is not seen."""
    if not pid or not Path(f"/proc/{pid}/status").exists():
        return uid in {0, os.geteuid()}
    return has_net_admin(str(pid)) and _user_namespace(str(pid)) == _user_namespace("self")


def _user_namespace(process: str) -> str:
    """A text by which a process's user namespace differs from those below it; user_namespaces(7).

    Its identity may be read by root only. Its map of users is shown to all, by their own users:
    no namespace that a user makes has the same as the one that it was made in.
    """
    try:
        return Path(f"/proc/{process}/uid_map").read_text()
    except OSError:
        return ""


def has_net_admin(process: str = "self") -> bool:
    """Whether a process, as /proc names it, is known to have CAP_NET_ADMIN; capabilities(7)."""
    try:
        # Its first line is the process's name, which may be any bytes.
        status = read_limited(Path(f"/proc/{process}/status"), _STATUS_BYTES_MAX)
    except OSError:
        return False
    effective = status.partition(b"\nCapEff:")[2].split(maxsplit=1)[0]
    return bool(int(effective, 16) >> NET_ADMIN & 1)
