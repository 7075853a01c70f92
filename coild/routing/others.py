"""Other programs on a table of routes: another coild that keeps it, and changes that are told."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from collections.abc import Set as AbstractSet

from coild.routing.route_watch import RouteWatch
from coild.routing.table_lock import TableLock, TableTakenError
from coild.rules.addresses import Subnet

logger = logging.getLogger(__name__)

#: After word of a change the table is compared so much later, for one change seldom comes alone,
#: and not sooner than that after the last time.
SETTLE_SECONDS, NOTICE_SECONDS = 0.05, 0.5
#: What others do to the routes is logged no more often than that.
_LOG_SECONDS = 60.0


class Others:
    """Holds the lock of a table, and hears of its changes. Belongs to one event loop."""

    def __init__(
        self,
        wanted: AbstractSet[Subnet],
        wake: Callable[[], None],
        lock: TableLock | None,
        watch: Callable[[], RouteWatch] | None,
    ) -> None:
        """`wanted` is what should be in the table at any moment; `wake` is called for a look."""
        self._wanted = wanted
        self._wake = wake
        self._lock = lock
        self._make_watch = watch
        self._watch: RouteWatch | None = None
        #: Another coild keeps the table.
        self.taken = False
        #: Blocks whose routes others removed, as far as was told since the table was compared.
        self._missing: set[Subnet] = set()
        self._noticed = False
        self._compared_at = self._logged_at = -math.inf
        #: Whether connections to the lock, by which others ask who holds it, are accepted.
        self._accepts = False
        self._squatter = ""

    @property
    def missing(self) -> AbstractSet[Subnet]:
        """Blocks whose routes the kernel has no more, as far as it told."""
        return self._missing & self._wanted

    def claim(self) -> TableTakenError | None:
        """Whether another coild keeps the table, and if not, it is ours. May block for a moment."""
        try:
            if self._lock is not None:
                self._lock.claim()
        except TableTakenError as error:
            return error
        return None

    def claimed(self, taken: TableTakenError | None) -> None:
        """Take note of what `claim` said."""
        self.taken = taken is not None
        if self._lock is None or self._accepts or self.taken:
            return
        descriptor = self._lock.fileno()
        if descriptor is not None:
            self._accepts = True
            asyncio.get_running_loop().add_reader(descriptor, self._lock.accept)
        elif self._lock.squatter not in {"", self._squatter}:
            self._squatter = self._lock.squatter
            logger.warning(
                "%s has the name by which daemons like this one agree on who keeps a table of "
                "routes: it is not heeded; see to it that no other coild uses this table",
                self._squatter,
            )

    def listen(self) -> None:
        """Subscribe to the kernel's news of changes to the table."""
        if self._make_watch is None:
            return
        try:
            self._watch = self._make_watch()
        except OSError as error:
            logger.warning(
                "the kernel does not tell when others change routes: %s; they are looked at from "
                "time to time",
                error.strerror or error,
            )
        else:
            asyncio.get_running_loop().add_reader(self._watch.fileno(), self._notice)

    def close(self) -> None:
        """End the subscription, and give up the lock of the table."""
        loop = asyncio.get_running_loop()
        if self._watch is not None:
            loop.remove_reader(self._watch.fileno())
            self._watch.close()
            self._watch = None
        if self._lock is not None:
            if (descriptor := self._lock.fileno()) is not None:
                loop.remove_reader(descriptor)
            self._lock.close()

    def next_look(self) -> float:
        """When the table should be compared for what was told; infinity if for nothing."""
        if not self._noticed:
            return math.inf
        self._noticed = False
        now = asyncio.get_running_loop().time()
        return max(now + SETTLE_SECONDS, self._compared_at + NOTICE_SECONDS)

    def looks(self) -> set[Subnet]:
        """Take note that the table is read now; the result is for `looked`."""
        # What is told from here on may be newer than what is found.
        self._noticed = False
        return set(self._missing)

    def looked(self, missing: set[Subnet], wrong: set[Subnet]) -> None:
        """Take note that the table is right again, of which `wrong` was not as it was left."""
        first = self._compared_at == -math.inf
        self._compared_at = asyncio.get_running_loop().time()
        self._missing -= missing
        if not wrong or first or self._compared_at < self._logged_at + _LOG_SECONDS:
            return
        self._logged_at = self._compared_at
        logger.warning(
            "the route to %s%s was not as coild left it: others change the table, too; what they "
            "change is put right",
            min(wrong),
            f" and {len(wrong) - 1} more" if len(wrong) > 1 else "",
        )

    def _notice(self) -> None:
        """Take note of what the kernel tells. Our own changes lead to what is wanted."""
        if self._watch is None:
            return
        changes = self._watch.read()
        lost = self._wanted if changes.down else changes.gone & self._wanted
        self._missing |= lost
        self._missing -= changes.made
        strange = (changes.made - self._wanted) | (changes.foreign & self._wanted)
        if lost or strange or changes.unsure:
            self._noticed = True
            self._wake()
