"""Whether and how the blocks of this node are announced: by routes in the kernel, or not at all."""

from __future__ import annotations

import logging

from coild.config.config import ALWAYS, NEVER, Config
from coild.config.layers import StartError
from coild.routing.announcer import RouteError, RoutesForbiddenError
from coild.routing.exporter import Exporter, RouteTable
from coild.routing.route_watch import RouteWatch
from coild.routing.table_lock import TableLock, has_net_admin
from coild.rules.projection import Projection

logger = logging.getLogger(__name__)


def exporter_of(config: Config) -> Exporter:
    """The exporter that the configuration asks for; it has to be opened."""

    def make() -> RouteTable:
        if not has_net_admin():
            raise RoutesForbiddenError("this process has not the capability CAP_NET_ADMIN")
        # Not at the top: 9 MB and 0.2 s, which only a daemon that exports routes should take.
        from coild.routing.netlink import KernelRoutes  # noqa: PLC0415

        return KernelRoutes(config.table_id, config.protocol_id)

    return Exporter(
        make,
        lock=TableLock(config.table_id, config.protocol_id),
        watch=lambda: RouteWatch(config.table_id, config.protocol_id),
    )


async def announce_blocks(config: Config, state: Projection, exporter: Exporter) -> None:
    """Make the kernel's routes those of the blocks that the journal says are ours.

    Raises StartError if routes are asked for and there can be none.
    """
    if config.export_routes == NEVER:
        return
    try:
        await exporter.open(block.subnet for block in state.blocks.values())
    except RouteError as error:
        if config.export_routes == ALWAYS:
            right = "give coild CAP_NET_ADMIN, or " * isinstance(error, RoutesForbiddenError)
            raise StartError(
                "export-routes",
                f"cannot export routes to table {config.table_id}: {error}; {right}start it with "
                "--no-export-routes",
            ) from None
        logger.info("blocks are not exported as routes: %s (see --export-routes)", error)
        return
    logger.info(
        "blocks are exported as routes on lo, table %d, protocol %d",
        config.table_id,
        config.protocol_id,
    )
