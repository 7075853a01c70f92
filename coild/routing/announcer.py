"""The interface to what tells the cluster's routers which blocks are this node's."""

from __future__ import annotations

from typing import Literal, Protocol

from coild.rules.addresses import Subnet

#: No block is announced; all are; some cannot be at the moment, or some still are that should not.
RouteHealth = Literal["off", "exported", "failing"]


class RouteError(Exception):
    """Routes could not be read or changed; one line that names the reason."""


class RoutesForbiddenError(RouteError):
    """This process may not announce blocks."""


class Announcer(Protocol):
    """Announces blocks. Neither method raises: what fails is tried again and shows in `health`."""

    @property
    def health(self) -> RouteHealth:
        """How it goes."""
        ...

    def announce(self, block: Subnet) -> None:
        """Announce a block soon. Never waits: a pod's start does not depend on it."""
        ...

    async def withdraw(self, block: Subnet) -> bool:
        """Announce a block no more; whether it surely is announced no more.

        If it is not sure, the block must not become another node's: `announce` it again, and try
        later.
        """
        ...
