"""Whether the node was booted since the last run, and what becomes of the addresses held then."""

from __future__ import annotations

import logging

from coild.allocation.service import Service
from coild.config.config import Config
from coild.process.boot import Boot, Verdict, compare
from coild.process.clock import Clock
from coild.rules.events import REBOOTED, NodeBooted
from coild.rules.projection import Projection

logger = logging.getLogger(__name__)

_IN_A_CONTAINER = "of a container that coild is in (then --proc should name the runtime's proc)"
#: What is seen, and how that may be, where boot ID and PID 1 do not say the same of a reboot.
_DISAGREE = {
    Verdict.ONLY_ID: (
        "the boot ID is another one, but PID 1 started before coild last ran",
        f"Either that is the ID {_IN_A_CONTAINER}, or the clock was set back over a reboot",
    ),
    Verdict.ONLY_INIT: (
        "PID 1 is another one, but the boot ID is the same",
        f"Either the node is a container and was restarted, or that is PID 1 {_IN_A_CONTAINER}",
    ),
}


async def record_boot(
    config: Config, state: Projection, service: Service, clock: Clock, boot: Boot
) -> None:
    """Journal the node's boot if it is another one, and what became of the addresses held before.

    Their containers ended with the boot before this one, so no runtime will release them. The boot
    is journalled last: a start that is cut short is continued by the next.
    """
    if not boot.boot_id:
        logger.warning("%s has no boot ID: a reboot of the node is not noticed", config.proc)
        return
    verdict = compare(boot, state.boot_id, state.init_start, state.last_active)
    held = len(state.holdings)
    if held and not state.boot_id:
        logger.warning(
            "the journal does not say since which boot its %d addresses are held: they are kept",
            held,
        )
    elif held and verdict in _DISAGREE:
        logger.warning(
            "%s; the %d addresses that are held are kept. %s. If the containers ended all the same "
            "(coild-history --held lists them), have the runtime collect its garbage, or release "
            "them with DELETE",
            _DISAGREE[verdict][0],
            held,
            _DISAGREE[verdict][1],
        )
    elif held and verdict is Verdict.BOOTED and config.after_reboot == "release":
        await service.release_all(list(state.holdings.items()), REBOOTED)
        logger.warning(
            "the node was booted since: the %d addresses that were held are released "
            "(--after-reboot keep would keep them)",
            held,
        )
    elif held and verdict is Verdict.BOOTED:
        logger.warning("the node was booted since: the %d addresses are kept, as ordered", held)
    # A coild that does not see the runtime's PID 1 does not forget what another one saw.
    learned = boot.init_start is not None and boot.init_start != state.init_start
    if boot.boot_id != state.boot_id or learned:
        await service.record(NodeBooted(clock(), boot.boot_id, boot.init_start))
