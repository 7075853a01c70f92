"""What is different since the last run, dealt with before anyone is served."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from pathlib import Path

from coild import __version__, spool
from coild.api import Gate
from coild.boot import Boot, Verdict, compare, read_boot
from coild.clock import Clock
from coild.config import Config
from coild.events import REBOOTED, DaemonStarted, NodeBooted
from coild.log_limit import LogLimit
from coild.node_addresses import NodeAddresses
from coild.replay import State, records_of
from coild.service import Service
from coild.systemd import Notifier
from journal import Journal, JournalError, JournalFailedError, JournalFullError

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
#: So many entries of the spool, each an open file, are applied at a time.
_SPOOL_BATCH = 100
#: How soon a start that a full disk kept from being journalled is tried again.
_RETRY_SECONDS = 1.0


class Beginning(Gate):
    """What a start has to journal before anything else may be, on a full disk when there is room.

    Until then nothing may be changed, and questions are answered.
    """

    def __init__(
        self,
        config: Config,
        state: State,
        journal: Journal,
        service: Service,
        clock: Clock,
        notifier: Notifier,
    ) -> None:
        self._config = config
        self._state = state
        self._journal = journal
        self._service = service
        self._clock = clock
        self._notifier = notifier
        self.node_addresses = NodeAddresses(config.pools, state, service, clock)
        self._repairs = deque(records_of(journal.recovered, clock))
        # Each may be tried again from its beginning, until it was done.
        self._steps = deque((self._record_repairs, self._record_start, self._apply_spool))
        self._recorded = asyncio.Event()

    async def repairs(self) -> None:
        """Say and journal what was set aside, now or by a repair that was cut short.

        Raises JournalFailedError.
        """
        _tell_repairs(self._journal)
        _tell_name(self._state.node_name, self._config.node_name)
        await self._try(len(self._steps) - 1)

    async def all(self) -> None:
        """Journal what is different now, and apply the releases that were kept meanwhile.

        Raises JournalFailedError.
        """
        await self._try(0)

    async def run(self, on_failure: Callable[[JournalError], None]) -> None:
        """Try again for as long as there is no room.

        `on_failure` is told of anything else that keeps the start from being journalled, but for a
        failure of the journal, of which it is told by the journal.
        """
        while self.trouble:
            await asyncio.sleep(_RETRY_SECONDS)
            if self._journal.trouble is None:
                try:
                    await self._try(0)
                except JournalFailedError:
                    return
                except JournalError as error:
                    logger.error("this start cannot be journalled: %s", error)
                    on_failure(error)
                    return

    async def recorded(self) -> None:
        """Wait until all is in the journal."""
        await self._recorded.wait()

    async def _try(self, left: int) -> None:
        """Go on until so many steps are left."""
        try:
            while len(self._steps) > left:
                await self._steps[0]()
                self._steps.popleft()
        except JournalFullError as error:
            if not self.trouble:
                logger.error(
                    "this start cannot be journalled: %s; questions are answered, nothing is "
                    "allocated or released until there is space",
                    error,
                )
            self.trouble = error.reason
        else:
            if self.trouble:
                logger.info("this start is journalled, everything goes on")
            self.trouble = ""
            if not left:
                self._recorded.set()

    async def _record_repairs(self) -> None:
        while self._repairs:
            await self._service.record(self._repairs[0])
            self._repairs.popleft()
        await asyncio.to_thread(self._journal.repairs_recorded)

    async def _record_start(self) -> None:
        await record_start(
            self._config, self._state, self._service, self._clock, self.node_addresses
        )

    async def _apply_spool(self) -> None:
        await apply_spool(self._config.data_dir / "spool", self._service, self._notifier)


def _tell_repairs(journal: Journal) -> None:
    for aside in journal.recovered.set_aside:
        logger.warning(
            "%s ended in %d bytes of an unfinished write (%s), which nobody was told was durable; "
            "they are kept in %s"
            if not aside.ordered
            else "an operator had %s cut off by %d bytes (%s); they are kept in %s",
            aside.file,
            aside.size,
            aside.reason,
            journal.path.with_name(aside.kept) if aside.kept else "no file: they were missing",
        )


def _tell_name(former: str, name: str) -> None:
    if former and former != name:
        logger.warning(
            "this node is %s, at the last start with this journal it was %s: if the data directory "
            "was copied from that node, stop coild and give each its own, or both hand out the "
            "same addresses; if the node was renamed, all is well",
            name,
            former,
        )


async def record_start(
    config: Config, state: State, service: Service, clock: Clock, nodes: NodeAddresses
) -> None:
    """Journal what is different now: the pools, the node's boot, and that the daemon runs."""
    # In threads, all that asks a disk or the kernel: a start that waits for room answers already.
    boot = await asyncio.to_thread(read_boot, config.proc)
    await nodes.begin()
    for block in state.blocks.values():
        if not block.in_force:
            logger.warning(
                "block %s of pool %s is in no configured subnet any more: its %d addresses are "
                "kept until they are released, no more are handed out",
                block.subnet,
                block.pool,
                block.held,
            )
    await _record_boot(config, state, service, clock, boot)
    await service.record(DaemonStarted(clock(), __version__, config.node_name, boot.boot_id))


async def apply_spool(directory: Path, service: Service, notifier: Notifier) -> None:
    """Apply the releases that the CNI plugin kept while nobody answered. Trouble is only told.

    Raises the journal's errors.
    """
    path = str(directory)
    applied = freed = 0
    troubles: list[spool.SpoolError] = []
    limit = LogLimit()
    loop = asyncio.get_running_loop()

    def tell_rejected(path: str) -> None:
        # From the thread that looks, which flushes the disk for each: so they do not pile up here.
        loop.call_soon_threadsafe(_tell_rejected, limit, path)

    try:
        # In a thread, as all that touches these files: a start that waits for room answers already.
        batches = spool.batches(path, _SPOOL_BATCH, tell_rejected)
        while (entries := await asyncio.to_thread(next, batches, None)) is not None:
            # What one flush makes durable, one removal takes away: there may be thousands.
            answers = await asyncio.gather(
                *(_apply(entry, service) for entry in entries), return_exceptions=True
            )
            released = {
                entry: answer
                for entry, answer in zip(entries, answers, strict=True)
                if isinstance(answer, int)
            }
            applied += len(released)
            freed += sum(released.values())
            left = {
                entry: entry.left(service.journal_id, None, had_any=bool(count))
                for entry, count in released.items()
            }
            try:
                await asyncio.to_thread(_mark_applied, left)
            except spool.SpoolError as error:
                troubles.append(error)
            for answer in answers:
                if isinstance(answer, BaseException):
                    raise answer
            # A service manager is to wait.
            notifier.starting(f"applying the releases of the spool, {applied} so far")
    except spool.SpoolError as error:
        troubles.append(error)
    finally:
        limit.flush()
    if troubles:
        logger.warning("%s; what is left there, the plugin's next run applies", troubles[0])
    if applied:
        logger.info("applied %d releases of the spool %s, %d addresses", applied, path, freed)


def _mark_applied(left: dict[spool.Claim, list[str]]) -> None:
    """Take away what is done, and note what is left of the others. Raises SpoolError."""
    spool.done([entry for entry, marks in left.items() if not marks])
    for entry, marks in left.items():
        if marks:
            entry.applied(marks)


async def _apply(entry: spool.Claim, service: Service) -> int | None:
    """How many addresses the release freed; None if it is another daemon's."""
    if not entry.marks:
        return bool(await service.release(entry.pod_namespace, entry.pod_name, entry.container_id))
    if not entry.is_for(service.journal_id, None):
        return None
    return len(await service.release_containers(entry.container_ids))


def _tell_rejected(limit: LogLimit, path: str) -> None:
    name = path.encode(errors="surrogateescape").decode(errors="backslashreplace")
    text = f"a release in the spool is damaged, it was set aside: {name}"
    limit.log("damaged", logger, logging.WARNING, text)


async def _record_boot(
    config: Config, state: State, service: Service, clock: Clock, boot: Boot
) -> None:
    """Journal the node's boot if it is another one, and what became of the addresses held before.

    Their containers ended with the boot before this one, and nobody will release them. The boot is
    journalled last: a start that is cut short is gone on with.
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
