"""The two ways between systemd and a service: its environment, and the notification socket.

The protocols are a datagram and a few variables: sd_notify(3), sd_watchdog_enabled(3),
sd_listen_fds(3). No library is used for them: sdnotify and systemd-python are not kept any more,
systemd-watchdog knows no sockets, cysystemd and pystemd must be compiled against systemd's own.

Whatever is found here is taken out of the environment, so that no child takes it for its own.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import socket
import struct
import threading
import time
from collections.abc import MutableMapping
from typing import NamedTuple

from coild.process import signals

logger = logging.getLogger(__name__)

#: SD_LISTEN_FDS_START: the first descriptor that is passed.
_FIRST_DESCRIPTOR = 3
#: How much longer a start that goes on may take; told anew each second.
_EXTENSION_SECONDS = 60
#: `struct timeval`: after 1 s a thread looks whether there is still something to tell.
_SEND_TIMEOUT = struct.pack("@ll", 1, 0)


class Descriptor(NamedTuple):
    """A file that was open when the process began: its number, and the name of its unit."""

    number: int
    name: str

    def __str__(self) -> str:
        return f"descriptor {self.number} ({self.name})"


def take_descriptors(environment: MutableMapping[str, str]) -> list[Descriptor]:
    """The descriptors that LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES pass to this very process.

    They are closed in every program that this one starts. Raises ValueError.
    """
    process, count, names = (
        environment.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    )
    if process != str(os.getpid()):
        return []
    if not count.isascii() or not count.isdigit():
        raise ValueError(f"LISTEN_FDS is {count!r}, which is no number of descriptors")
    found = []
    named = dict(enumerate(names.split(":")))
    for index in range(int(count)):
        descriptor = Descriptor(_FIRST_DESCRIPTOR + index, named.get(index) or "unknown")
        try:
            os.set_inheritable(descriptor.number, False)
        except OSError as error:
            raise ValueError(f"{descriptor} cannot be used: {error.strerror}") from None
        found.append(descriptor)
    return found


class Notifier:
    """Tells the service manager how this service is, if there is a service manager."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        """Takes NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID.

        Raises RuntimeError if there is a service manager, and the system gives no thread.
        """
        self._address = environment.pop("NOTIFY_SOCKET", "")
        interval = environment.pop("WATCHDOG_USEC", "")
        process = environment.pop("WATCHDOG_PID", "")
        #: How often `alive` must be called at least, in seconds; None: never.
        self.watchdog_seconds = _watchdog(interval, process)
        self._sock: socket.socket | None = None
        # What a service manager that reads nothing has to be told all the same, for a thread.
        self._waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._is_behind = False
        self._closed = False
        self._extended = float("-inf")
        if self._address[:1] in {"/", "@"}:
            # Made now: later there may be no descriptor left.
            self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            # The kernel's time-out: Python's own finds such a socket writable, and would spin.
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _SEND_TIMEOUT)
            if self._address.startswith("@"):
                # unix(7): an abstract name begins with a NUL.
                self._address = f"\0{self._address[1:]}"
            # Now, too: when it is needed, there may be no thread to be had.
            threading.Thread(
                target=self._send_waiting, args=(self._sock,), name="notify", daemon=True
            ).start()
        elif self._address:
            logger.warning("cannot notify %s: it is no unix socket", self._address)

    def starting(self, status: str) -> None:
        """The start goes on and may need more time. May be called as often as one likes."""
        now = time.monotonic()
        if now - self._extended >= 1:
            self._extended = now
            self._send(
                f"STATUS={status}",
                f"EXTEND_TIMEOUT_USEC={_EXTENSION_SECONDS * 10**6}",
                flags=socket.MSG_DONTWAIT,
            )

    def ready(self, status: str) -> None:
        """The service serves. Returns at once; it is told as soon as the service manager reads."""
        self._send_surely("READY=1", f"STATUS={status}")

    def alive(self) -> None:
        """The service is not stuck."""
        # Told again soon: no request waits for a service manager that does not read.
        self._send("WATCHDOG=1", flags=socket.MSG_DONTWAIT)

    def stopping(self, status: str) -> None:
        """The service ends. Returns at once, as `ready`."""
        self._send_surely("STOPPING=1", f"STATUS={status}")

    def close(self) -> None:
        """End the notifications; what must arrive is still sent."""
        self._closed = True
        # The thread may be sending: it closes the socket.
        self._waiting.put(b"")
        self._sock = None

    def _send(self, *assignments: str, flags: int) -> None:
        """One datagram. Whether anyone reads it is the service manager's business."""
        if self._sock is not None:
            with contextlib.suppress(OSError):
                self._sock.sendto("\n".join(assignments).encode(), flags, self._address)

    def _send_surely(self, *assignments: str) -> None:
        """One datagram that must arrive; behind others like it."""
        if self._sock is None:
            return
        datagram = "\n".join(assignments).encode()
        if not self._is_behind:
            try:
                self._sock.sendto(datagram, socket.MSG_DONTWAIT, self._address)
            except BlockingIOError:
                self._is_behind = True
            except OSError:
                return
            else:
                return
        self._waiting.put(datagram)

    def _send_waiting(self, sock: socket.socket) -> None:
        signals.leave_to_main()
        with sock:
            while datagram := self._waiting.get():
                while not self._closed:
                    try:
                        sock.sendto(datagram, self._address)
                    except BlockingIOError:
                        continue  # it still reads nothing
                    except OSError:
                        pass
                    break


def _watchdog(interval: str, process: str) -> float | None:
    """WATCHDOG_USEC in seconds, if WATCHDOG_PID says that it is meant for this process."""
    if process not in {"", str(os.getpid())}:
        return None
    if not interval.isascii() or not interval.isdigit() or not int(interval):
        return None
    return int(interval) / 10**6
