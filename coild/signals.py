"""What signals do: some stop the daemon, and none ends it without a word (signal(7)).

But for those that cannot be had (KILL, STOP), and those that a fault of the program raises.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

logger = logging.getLogger(__name__)

#: They stop it in order, with status 0.
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
#: They would kill, and nobody means that by them.
_HARMLESS = (
    *("SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGIO", "SIGPWR", "SIGSTKFLT"),
    *("SIGXCPU", "SIGXFSZ"),
)


def configure() -> None:
    """From here on, signals do what they do in a daemon; until it serves, a stop is at once."""
    for stopping in STOPPING:
        # It may end it anywhere, as a crash may.
        signal.signal(stopping, lambda *_: sys.exit(0))
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    for number in _told():
        signal.signal(number, _tell)


def serve(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
    """From here on the loop deals with them: `stop` is called, or a line is logged, in its turn.

    A handler that the interpreter calls is interrupted by the next signal, and so on: a flood of
    them would exhaust the stack.
    """
    for stopping in STOPPING:
        loop.add_signal_handler(stopping, stop)
    for number in _told():
        loop.add_signal_handler(number, _tell, number)


def _told() -> Iterator[int]:
    yield signal.SIGHUP
    yield from (getattr(signal, name) for name in _HARMLESS)
    yield from range(signal.SIGRTMIN, signal.SIGRTMAX + 1)


def _tell(number: int, _frame: FrameType | None = None) -> None:
    if number == signal.SIGHUP:
        logger.warning("SIGHUP: there is nothing to reload yet; a restart reads the configuration")
    else:
        logger.warning("signal %d (%s) means nothing here", number, signal.strsignal(number))
