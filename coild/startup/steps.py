"""The steps of a start, each journalled; on a full disk they wait for room."""

from __future__ import annotations

import asyncio
import enum
import logging
from collections import deque
from collections.abc import Callable

from coild import __version__
from coild.allocation.committer import WriteGate
from coild.allocation.node_addresses import NodeAddresses
from coild.allocation.service import Service
from coild.config.config import Config
from coild.process.boot import read_boot
from coild.process.clock import Clock
from coild.process.systemd import Notifier
from coild.rules.events import DaemonStarted
from coild.rules.projection import Projection
from coild.startup.kept_releases import apply_spool
from coild.startup.reboot import record_boot
from coild.vocabulary import records_of
from journal import Journal, JournalError, JournalFailedError, JournalFullError

logger = logging.getLogger(__name__)

#: How soon a start that a full disk kept from being journalled is tried again.
_RETRY_SECONDS = 1.0


class Step(enum.IntEnum):
    """The next step of a start, in order. Each may be tried again until it was done."""

    #: Journal what was set aside, now or by a repair that was cut short.
    REPAIRS = 0
    #: Journal what is different now: the pools, the node's boot, that the daemon runs.
    START = 1
    #: Apply the releases that were kept while no daemon ran.
    SPOOL = 2
    DONE = 3


class Startup:
    """The events that a start has to journal before any other.

    While the disk has no room for that, `gate` is shut.
    """

    def __init__(
        self,
        config: Config,
        state: Projection,
        journal: Journal,
        service: Service,
        clock: Clock,
        notifier: Notifier,
        gate: WriteGate,
    ) -> None:
        self._config = config
        self._state = state
        self._journal = journal
        self._service = service
        self._clock = clock
        self._notifier = notifier
        self._gate = gate
        self.node_addresses = NodeAddresses(config.pools, state, service, clock)
        self._repairs = deque(records_of(journal.recovered, clock))
        self._next = Step.REPAIRS
        self._done = asyncio.Event()

    async def record_repairs(self) -> None:
        """Log and journal what was set aside. Raises JournalFailedError."""
        _log_repairs(self._journal)
        _log_name(self._state.node_name, self._config.node_name)
        await self._go_on(Step.START)

    async def complete(self) -> None:
        """Go through the other steps, as far as the disk has room. Raises JournalFailedError."""
        await self._go_on(Step.DONE)

    async def retry(self, on_failure: Callable[[JournalError], None]) -> None:
        """Try again while the disk is full.

        `on_failure` is told of any other error that keeps the start from being journalled, but for
        a failure of the journal, which tells of it by itself.
        """
        while self._gate.reason:
            await asyncio.sleep(_RETRY_SECONDS)
            if self._journal.full_reason is None:
                try:
                    await self._go_on(Step.DONE)
                except JournalFailedError:
                    return
                except JournalError as error:
                    logger.error("this start cannot be journalled: %s", error)
                    on_failure(error)
                    return

    async def done(self) -> None:
        """Wait until all steps are done."""
        await self._done.wait()

    async def _go_on(self, until: Step) -> None:
        """Do the steps before `until` that are left, or shut the gate if there is no room."""
        try:
            while self._next < until:
                await self._do(self._next)
                self._next = Step(self._next + 1)
        except JournalFullError as error:
            if not self._gate.reason:
                logger.error(
                    "this start cannot be journalled: %s; questions are answered, nothing is "
                    "allocated or released until there is space",
                    error,
                )
            self._gate.reason = error.reason
        else:
            if self._gate.reason:
                logger.info("this start is journalled, everything goes on")
            self._gate.reason = ""
            if until is Step.DONE:
                self._done.set()

    async def _do(self, step: Step) -> None:
        match step:
            case Step.REPAIRS:
                await self._record_repairs()
            case Step.START:
                await self._record_start()
            case Step.SPOOL:
                spool = self._config.data_dir / "spool"
                await apply_spool(spool, self._service, self._notifier)

    async def _record_repairs(self) -> None:
        while self._repairs:
            await self._service.record(self._repairs[0])
            self._repairs.popleft()
        await asyncio.to_thread(self._journal.repairs_recorded)

    async def _record_start(self) -> None:
        # In threads, all that asks a disk or the kernel: a start that waits for room answers.
        boot = await asyncio.to_thread(read_boot, self._config.proc)
        await self.node_addresses.begin()
        for block in self._state.blocks.values():
            if not block.configured:
                logger.warning(
                    "block %s of pool %s is in no configured subnet any more: its %d addresses are "
                    "kept until they are released, no more are handed out",
                    block.subnet,
                    block.pool,
                    block.held,
                )
        await record_boot(self._config, self._state, self._service, self._clock, boot)
        started = DaemonStarted(self._clock(), __version__, self._config.node_name, boot.boot_id)
        await self._service.record(started)


def _log_repairs(journal: Journal) -> None:
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


def _log_name(former: str, name: str) -> None:
    if former and former != name:
        logger.warning(
            "this node is %s, at the last start with this journal it was %s: if the data directory "
            "was copied from that node, stop coild and give each its own, or both hand out the "
            "same addresses; if the node was renamed, all is well",
            name,
            former,
        )
