"""The daemon's life: recover, serve, stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
from collections.abc import Coroutine, Iterable
from pathlib import Path
from typing import Any

import uvloop

from coild import __version__
from coild.allocation.committer import WriteGate
from coild.allocation.exhaustion import blocked, exhausted
from coild.allocation.service import Service
from coild.blocks.static import StaticBlocks
from coild.config.config import Config
from coild.http.answers import Answer
from coild.http.api import Handlers, build_app
from coild.http.guard import Guard
from coild.http.messages import Health
from coild.http.readiness import Readiness
from coild.http.server import Server
from coild.process import logs, signals
from coild.process.address_file import AddressFile
from coild.process.clock import Clock
from coild.process.clock_watch import ClockWatch
from coild.process.listen import Listeners, address_of, inherit, listen, place_of
from coild.process.socket_watch import SocketWatch
from coild.process.systemd import Notifier
from coild.process.threads import is_shortage, start_workers
from coild.recovery import make_data_dir, recover
from coild.routing.setup import announce_blocks, exporter_of
from coild.rules.events import DaemonStopped
from coild.rules.projection import Projection
from coild.startup.steps import Startup
from coild.upkeep.compactor import Compactor
from coild.upkeep.sealed_watch import SealedWatch
from coild.upkeep.worker import UpkeepProcess
from journal import Journal, JournalDisplacedError, JournalError

logger = logging.getLogger(__name__)

_ROUTES_FAIL = "pods may not be reached from other nodes"


def run(config: Config) -> int:
    """Run the daemon until a signal ends it; the exit status.

    Raises ConfigError, StartError and JournalError when it cannot start, RuntimeError if a thread
    cannot be started.
    """
    inherited = inherit(os.environ, allow_remote=config.allow_remote)
    notifier = Notifier(os.environ)
    with contextlib.ExitStack() as stack:
        made: list[Path] = []
        if config.socket is not None and config.socket.is_relative_to(config.data_dir):
            # Its directory has to be there; a start that fails takes it away again.
            made = make_data_dir(config.data_dir)
            stack.callback(_remove_empty, made)
        # The addresses first: a start that does not get them has made and written nothing.
        listeners = stack.enter_context(listen(config.http, config.socket, inherited))
        make_data_dir(config.data_dir)
        state = Projection()
        # A replay makes no garbage in circles, and what it makes stays: no collection during it,
        # and none looks at it later.
        gc.disable()
        journal = recover(config, state, notifier)
        Answer.identify(journal.id)
        gc.freeze()
        gc.enable()
        stack.callback(signals.ignore)
        status = _run_loop(_serve(config, state, journal, listeners, notifier))
    notifier.close()
    return status


class Daemon:
    """A daemon whose journal is open and whose sockets listen, from its wiring to its end."""

    def __init__(
        self,
        config: Config,
        state: Projection,
        journal: Journal,
        listeners: Listeners,
        notifier: Notifier,
    ) -> None:
        """Wire the parts together. Nothing runs yet, and nothing is journalled."""
        self._config = config
        self._state = state
        self._journal = journal
        self._listeners = listeners
        self._notifier = notifier
        self._stop_ordered = asyncio.Event()
        self._failures: list[JournalError] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._clock = clock = Clock(state.time)
        self._clock_watch = ClockWatch(clock)
        self._exporter = exporter_of(config)
        self._blocks = StaticBlocks(state.pools, [block.subnet for block in state.blocks.values()])
        self._service = Service(
            state,
            journal,
            self._blocks,
            reuse_after=config.reuse_after,
            clock=clock,
            ago=clock.ago,
            announcer=self._exporter,
        )
        self._compactor = Compactor(
            journal,
            self._service.record,
            UpkeepProcess(journal.path.parent),
            journal.path.parent,
            clock=clock,
            newest=lambda: max(state.time, journal.time),
            stepped=clock.stepped,
            compact_after=config.compact_after,
        )
        self._gate = WriteGate()
        self._startup = Startup(config, state, journal, self._service, clock, notifier, self._gate)
        self._readiness = Readiness()
        handlers = Handlers(
            self._service,
            self._compactor,
            Guard(config.allowed_hosts, remote=config.allow_remote),
            self._health,
            self._gate,
            self._readiness,
        )
        self._server = Server(build_app(handlers), config.max_connections)
        self._socket_watch = SocketWatch(listeners.unix, self._server.replace)
        self._sealed_watch = SealedWatch(journal.path.parent, lambda: self._compactor.generation)
        self._address_file = AddressFile(config.data_dir / "http")
        self._add_checks()

    async def serve(self) -> int:
        """Start, serve until a signal or a failure ends it, and stop; the exit status."""
        signals.serve(asyncio.get_running_loop(), self._stop_ordered.set)
        self._clock_watch.look()
        self._journal.start(self._fail)
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(signals.hold)
            stack.push_async_callback(self._journal.close)
            await self._start(stack)
            await self._stop_ordered.wait()
            await self._stop()
        return self._log_end()

    async def _start(self, stack: contextlib.AsyncExitStack) -> None:
        """Journal what is different since the last run, then serve; `stack` gets what ends that."""
        # First of all: whatever keeps this start from serving, the journal must tell of the repair.
        await self._startup.record_repairs()
        stack.push_async_callback(self._exporter.close)
        await announce_blocks(self._config, self._state, self._exporter)
        stack.push_async_callback(self._service.close)
        await self._startup.complete()
        self._run(self._free_pools())
        await self._server.start(self._listeners.sockets)
        stack.push_async_callback(asyncio.to_thread, self._address_file.remove)
        address = address_of(self._listeners.sockets[0])
        await asyncio.to_thread(self._address_file.publish, address)
        places = [place_of(sock) for sock in self._listeners.sockets]
        _log_endpoints(self._config, self._journal, places)
        self._notifier.ready(f"listening on {' and '.join(places)}")
        for work in (
            self._startup.retry(self._fail),
            self._give_back_blocks(),
            self._keep_node_addresses(),
            self._compact(),
            self._exporter.run(),
            _be_watched(self._notifier),
            self._socket_watch.run(),
            self._clock_watch.run(),
            self._sealed_watch.run(),
        ):
            self._run(work)

    async def _stop(self) -> None:
        """End what runs beside the requests, then the requests, and journal the end."""
        logger.info("stopping")
        self._notifier.stopping("stopping")
        for task in self._tasks:
            task.cancel()
        # Requests that wait for a compaction are told that there will be none, before the server
        # waits for them.
        await self._compactor.close()
        # What they started has to end before the loop does.
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.stop()
        if not self._failures and not self._gate.reason:
            with contextlib.suppress(JournalError):
                await self._service.record(
                    DaemonStopped(self._clock(), __version__, self._config.node_name)
                )

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run this beside the requests until the daemon stops."""
        task = asyncio.create_task(work)
        task.add_done_callback(_log_bug)
        self._tasks.append(task)

    def _fail(self, failure: JournalError) -> None:
        """End the daemon: nothing can be journalled any more."""
        self._failures.append(failure)
        self._readiness.failure = f"the daemon ends: {failure}"
        self._stop_ordered.set()

    def _health(self) -> Health:
        writable = self._journal.full_reason is None and not self._gate.reason
        return Health(writable=writable, routes=self._exporter.health)

    def _add_checks(self) -> None:
        """Add the checks of /readyz; `fails` if nothing can be allocated then."""

        def journal() -> str:
            reason = self._journal.full_reason
            return f"no space for the journal: {reason}" if reason else ""

        def start() -> str:
            reason = self._gate.reason
            return f"this start cannot be journalled yet: {reason}" if reason else ""

        def routes() -> str:
            failing = self._exporter.health == "failing"
            return f"{self._exporter.reason or 'see the log'}; {_ROUTES_FAIL}" if failing else ""

        def pools() -> str:
            return "; ".join(exhausted(self._service.allocator, self._blocks, self._state))

        only_socket = len(self._listeners.sockets) == 1
        add = self._readiness.add
        add("journal", journal, fails=True)
        add("start", start, fails=True)
        add("routes", routes)
        add("log", logs.dropped)
        add("pools", pools)
        add("clock", lambda: self._clock_watch.reason)
        add("sealed-files", lambda: self._sealed_watch.reason)
        add("addresses", lambda: self._startup.node_addresses.reason)
        add("socket", lambda: self._socket_watch.unreachable, fails=only_socket)
        add("socket-lock", lambda: self._socket_watch.unlocked)

    async def _free_pools(self) -> None:
        """Give blocks of old back once the pools are journalled; say which pools others block."""
        await self._startup.done()
        await self._give_back(None)
        for line in blocked(self._service.allocator, self._blocks, self._state):
            logger.warning("%s", line)

    async def _compact(self) -> None:
        """Compact when the journal has grown, for as long as the daemon runs."""
        await self._startup.done()
        await self._compactor.run()

    async def _keep_node_addresses(self) -> None:
        """Look after what the node itself has of its pools, for as long as the daemon runs."""
        await self._startup.done()
        await self._startup.node_addresses.run(self._config.scan_interval / 1e9)

    async def _give_back_blocks(self) -> None:
        """Give back blocks that stay empty, for as long as the daemon runs."""
        interval = self._config.scan_interval
        while True:
            await asyncio.sleep(interval / 1e9)
            await asyncio.to_thread(self._address_file.retry)
            await self._startup.done()
            await self._give_back(interval)

    async def _give_back(self, idle_for: int | None) -> None:
        try:
            await self._service.release_idle_blocks(idle_for)
        except JournalError as error:
            logger.warning("could not give idle blocks back: %s", error)

    def _log_end(self) -> int:
        """Say how it ended; the exit status."""
        if self._failures:
            if isinstance(self._failures[0].__cause__, JournalDisplacedError):
                directory = self._journal.path.parent
                logger.error(
                    "stopped because the journal is not where it was; nothing was answered since, "
                    "and what was answered before is in the files that were there: put %s back as "
                    "it was, run coild-verify --journal %s, then start again",
                    directory,
                    directory,
                )
            else:
                logger.error("stopped because the journal failed; what was answered is safe")
            return 1
        counted = self._service.statistics
        logger.info(
            "stopped, head %s; %d allocated, %d released, %d reused early, %d refused",
            self._journal.head,
            counted.allocated,
            counted.released,
            counted.reused_early,
            counted.refused,
        )
        return 0


def _run_loop(serving: Coroutine[Any, Any, int]) -> int:
    """Run the loop to its end, the exit status. Raises what `serving` raises."""
    status: int | None = None
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            start_workers(runner.get_loop())
            status = runner.run(serving)
    except RuntimeError as error:
        # To end the workers, the loop wants a thread more. They end with the process.
        if status is None or not is_shortage(error):
            raise
    finally:
        serving.close()
    return status


async def _serve(
    config: Config, state: Projection, journal: Journal, listeners: Listeners, notifier: Notifier
) -> int:
    # Within the loop: parts of it belong to the loop that runs.
    return await Daemon(config, state, journal, listeners, notifier).serve()


def _remove_empty(directories: Iterable[Path]) -> None:
    """Remove directories that were made, unless something has come to be in them."""
    for path in directories:
        with contextlib.suppress(OSError):
            path.rmdir()


async def _be_watched(notifier: Notifier) -> None:
    """Tell the service manager that the loop turns, as often as it wants to know."""
    while notifier.watchdog_seconds is not None:
        notifier.alive()
        # As sd_watchdog_enabled(3) has it: at half of the time.
        await asyncio.sleep(notifier.watchdog_seconds / 2)


def _log_bug(task: asyncio.Task[None]) -> None:
    """Say at once that a task that runs beside the requests ended by a bug; they go on."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("a task of the daemon ended, this is a bug", exc_info=error)


def _log_endpoints(config: Config, journal: Journal, places: list[str]) -> None:
    """Say where the daemon listens and, if nothing was configured, what it chose."""
    if config.embedded:
        pools = "; ".join(
            f"{name} = {', '.join(map(str, pool.subnets))}, block size {pool.block_size}"
            for name, pool in config.pools.items()
        )
        logger.info("no pools were configured, so this is the embedded default: %s", pools)
        logger.info("the journal is in %s", journal.path.parent)
        path = places[0].removeprefix("unix:")
        where = places[0] if path == places[0] else f"--unix-socket {path} http://localhost"
        logger.info("try: curl -s %s/status", where)
        logger.info(
            "try: curl -s %s/ip -d '%s'",
            where,
            '{"pod-namespace": "default", "pod-name": "web-0", "container-id": "c1"}',
        )
    # TCP last: after that line, both may be asked.
    for place in reversed(places):
        logger.info("listening on %s", place)
