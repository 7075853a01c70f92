"""What signals do: some stop the daemon, and none ends it without a word (signal(7)).

But for those that cannot be had (KILL, STOP), and those that a fault of the program raises.
"""

from __future__ import annotations

import logging
import signal
import sys
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
    for number in STOPPING:
        # It may end it anywhere, as a crash may.
        signal.signal(number, lambda *_: sys.exit(0))
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, _tell)
    for name in _HARMLESS:
        signal.signal(getattr(signal, name), _tell)
    for real_time in range(signal.SIGRTMIN, signal.SIGRTMAX + 1):
        signal.signal(real_time, _tell)


def _tell(number: int, _frame: FrameType | None) -> None:
    if number == signal.SIGHUP:
        logger.warning("SIGHUP: there is nothing to reload yet; a restart reads the configuration")
    else:
        logger.warning("signal %d (%s) means nothing here", number, signal.strsignal(number))
