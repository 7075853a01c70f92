"""How many connections there may be, and which make room for others."""

from __future__ import annotations

import logging
from operator import attrgetter
from time import monotonic
from typing import Any

from coild.process.log_limit import LogLimit

logger = logging.getLogger(__name__)

#: How long it is taken for granted that no connection is idle.
_SEARCH_SECONDS = 0.1


class ConnectionLimit:
    """How many connections one socket serves."""

    def __init__(self, connections_max: int, log: LogLimit) -> None:
        """Refused and closed connections are told to `log`."""
        self.connections_max = connections_max
        self._log = log
        self._searched = -_SEARCH_SECONDS
        # Connections by a listener that this one replaced.
        self._former: list[set[Any]] = []

    def inherit(self, connections: set[Any]) -> None:
        """Count these, too, for as long as they last: the socket they came by was replaced."""
        self._former = [each for each in (*self._former, connections) if each]

    def admit(self, connections: set[Any]) -> bool:
        """Whether one more may come; for it, some that have been idle the longest may be closed."""
        if len(connections) + sum(map(len, self._former)) < self.connections_max:
            return True
        now = monotonic()
        # A search that found nothing is not repeated for each connection of a storm.
        if now - self._searched < _SEARCH_SECONDS:
            self._tell_refused()
            return False
        groups = (connections, *self._former)
        idle = sorted(
            (c for group in groups for c in group if c.is_idle), key=attrgetter("last_used")
        )
        if not idle:
            self._searched = now
            self._tell_refused()
            return False
        # Several, so that there is no such search at the next one.
        for connection in idle[: self.connections_max // 16 or 1]:
            connection.close()
            for group in groups:
                group.discard(connection)
        self._log.log(
            "idle connections",
            logger,
            logging.WARNING,
            f"{self.connections_max} connections are open, so idle ones are closed; "
            "see --max-connections",
        )
        return True

    def _tell_refused(self) -> None:
        self._log.log(
            "too many connections",
            logger,
            logging.ERROR,
            f"{self.connections_max} connections are open and busy, so another one was refused; "
            "see --max-connections",
        )
