"""The effects of signals: some stop the daemon, none ends it without a line (signal(7)).

But for those that cannot be had (KILL, STOP), and those that a fault of the program raises.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # The program begins with this module: a signal must not find it while it loads others.
    import asyncio
    from collections.abc import Callable, Iterator
    from types import FrameType

logger = logging.getLogger(__name__)

#: They stop it in order, with status 0.
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
#: They would kill, which is not what they are sent for.
_HARMLESS = (
    *("SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGIO", "SIGPWR", "SIGSTKFLT"),
    *("SIGXCPU", "SIGXFSZ"),
)
#: They would stop a background process at its first line to a terminal with `stty tostop`.
_OF_TERMINALS = (signal.SIGTTOU, signal.SIGTTIN)


def begin() -> None:
    """Until `configure`, while the program is being loaded: a stop ends it, the others are nothing.

    Loading takes longest of all that a start does, and there is no log yet.
    """
    for stopping in STOPPING:
        # There is nothing to clean up, and an exception might be raised where it is not passed on.
        signal.signal(stopping, lambda *_: os._exit(0))
    for other in (signal.SIGPIPE, *_OF_TERMINALS, *_logged()):
        signal.signal(other, signal.SIG_IGN)
    # What blocked them for itself may have started this: then no stop would come, nor the news that
    # a child ended.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def configure() -> None:
    """From here on, signals do what they do in a daemon; until it serves, a stop is at once."""
    for stopping in STOPPING:
        # It may end it anywhere, as a crash may.
        signal.signal(stopping, lambda *_: sys.exit(0))
    for other in (signal.SIGPIPE, *_OF_TERMINALS):
        signal.signal(other, signal.SIG_IGN)
    for number in _logged():
        signal.signal(number, _log)


def serve(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
    """From here on the loop deals with them: `stop` is called, or a line is logged, in its turn.

    A handler that the interpreter calls is interrupted by the next signal, and so on: a flood of
    them would exhaust the stack.
    """
    for stopping in STOPPING:
        loop.add_signal_handler(stopping, stop)
    for number in _logged():
        loop.add_signal_handler(number, _log, number)


def hold() -> None:
    """From here on none is taken: none may turn a good end into a bad one, or hide a bad one.

    The end of the loop gives them back to the system, which would kill. That needs the other
    threads to have done `leave_to_main`.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, (*STOPPING, *_logged()))


def ignore() -> None:
    """From here on, after the end of the loop, they are nothing, in new threads too."""
    for number in (*STOPPING, *_logged()):
        signal.signal(number, signal.SIG_IGN)


def leave_to_main() -> None:
    """The calling thread takes no signal, for it may outlast the loop."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def _logged() -> Iterator[int]:
    yield signal.SIGHUP
    yield from (getattr(signal, name) for name in _HARMLESS)
    yield from range(signal.SIGRTMIN, signal.SIGRTMAX + 1)


def _log(number: int, _frame: FrameType | None = None) -> None:
    if number == signal.SIGHUP:
        logger.warning("SIGHUP: there is nothing to reload yet; a restart reads the configuration")
    else:
        logger.warning("signal %d (%s) means nothing here", number, signal.strsignal(number))
