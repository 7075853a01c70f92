"""The daemon's life: recover, serve, stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import uvloop

from coild import __version__, logs, signals
from coild.address_file import AddressFile
from coild.announcement import announce_blocks, exporter_of
from coild.answers import Answer, Health
from coild.api import build_app
from coild.blocks.static import StaticBlocks
from coild.clock import Clock
from coild.clock_watch import ClockWatch
from coild.compactor import Compactor
from coild.config import Config
from coild.events import DaemonStopped
from coild.exhaustion import blocked, exhausted
from coild.exporter import Exporter
from coild.guard import Guard
from coild.listen import Listeners, address_of, inherit, listen, place_of
from coild.readiness import Readiness
from coild.recovery import make_data_dir, recover
from coild.replay import State
from coild.server import Server
from coild.service import Service
from coild.socket_watch import SocketWatch
from coild.startup import Beginning
from coild.systemd import Notifier
from coild.upkeep import UpkeepProcess
from journal import Journal, JournalDisplacedError, JournalError

logger = logging.getLogger(__name__)

_ROUTES_FAIL = "pods may not be reached from other nodes"


def run(config: Config) -> int:
    """Run the daemon until a signal ends it; the exit status.

    Raises ConfigError, StartError and JournalError when it cannot start.
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
        state = State()
        # A replay makes no garbage in circles, and what it makes stays: no collection during it,
        # and none looks at it later.
        gc.disable()
        journal = recover(config, state, notifier)
        Answer.identify(journal.id)
        gc.freeze()
        gc.enable()
        stack.callback(signals.ignore)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            status = runner.run(_serve(config, state, journal, listeners, notifier))
    notifier.close()
    return status


async def _serve(  # noqa: PLR0915 - one life, told in order
    config: Config, state: State, journal: Journal, listeners: Listeners, notifier: Notifier
) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    failures: list[JournalError] = []

    readiness = Readiness()

    def on_failure(failure: JournalError) -> None:
        failures.append(failure)
        readiness.failure = f"the daemon ends: {failure}"
        stop.set()

    signals.serve(loop, stop.set)
    clock = Clock(state.time)
    clock_watch = ClockWatch(clock)
    clock_watch.look()
    exporter = exporter_of(config)
    blocks = StaticBlocks(state.pools, [block.subnet for block in state.blocks.values()])
    service = Service(
        state,
        journal,
        blocks,
        reuse_after=config.reuse_after,
        clock=clock,
        ago=clock.ago,
        announcer=exporter,
    )
    journal.start(on_failure)
    compactor = Compactor(
        journal,
        service.record,
        UpkeepProcess(journal.path.parent),
        journal.path.parent,
        clock=clock,
        newest=lambda: max(state.time, journal.time),
        stepped=clock.stepped,
        compact_after=config.compact_after,
    )

    beginning = Beginning(config, state, journal, service, clock, notifier)

    def health() -> Health:
        return Health(
            writable=journal.trouble is None and not beginning.trouble, routes=exporter.health
        )

    _add_checks(readiness, journal, beginning, exporter)
    readiness.add("pools", lambda: "; ".join(exhausted(service, blocks, state)))
    readiness.add("clock", lambda: clock_watch.reason)
    guard = Guard(config.allowed_hosts, remote=config.allow_remote)
    app = build_app(service, compactor, guard, health, beginning, readiness)
    server = Server(app, config.max_connections)
    socket_watch = SocketWatch(listeners.unix, server.replace)
    readiness.add("socket", lambda: socket_watch.unreachable, fails=len(listeners.sockets) == 1)
    readiness.add("socket-lock", lambda: socket_watch.unlocked)
    address_file = AddressFile(config.data_dir / "http")
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(signals.hold)
        stack.push_async_callback(journal.close)
        # First of all: whatever keeps this start from serving, the journal must tell of the repair.
        await beginning.repairs()
        stack.push_async_callback(exporter.close)
        await announce_blocks(config, state, exporter)
        stack.push_async_callback(service.close)
        await beginning.all()
        tell_blocked = _tell_blocked(beginning, lambda: blocked(service, blocks, state))
        tasks = [asyncio.create_task(tell_blocked)]
        await server.start(listeners.sockets)
        stack.push_async_callback(asyncio.to_thread, address_file.remove)
        await asyncio.to_thread(address_file.publish, address_of(listeners.sockets[0]))
        places = [place_of(sock) for sock in listeners.sockets]
        _announce(config, journal, places)
        notifier.ready(f"listening on {' and '.join(places)}")
        tasks += [
            asyncio.create_task(beginning.run(on_failure)),
            asyncio.create_task(_scan(beginning, service, config.scan_interval, address_file)),
            asyncio.create_task(_renew(beginning, config.scan_interval)),
            asyncio.create_task(_keep_up(beginning, compactor)),
            asyncio.create_task(exporter.run()),
            asyncio.create_task(_be_watched(notifier)),
            asyncio.create_task(socket_watch.run()),
            asyncio.create_task(clock_watch.run()),
        ]
        for task in tasks:
            task.add_done_callback(_tell_of_bug)
        await stop.wait()
        logger.info("stopping")
        notifier.stopping("stopping")
        for task in tasks:
            task.cancel()
        # Whoever waits for a compaction is told that there will be none, before the server waits.
        await compactor.close()
        # What they started has to end before the loop does.
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.stop()
        if not failures and not beginning.trouble:
            with contextlib.suppress(JournalError):
                await service.record(DaemonStopped(clock(), __version__, config.node_name))
    if failures:
        if isinstance(failures[0].__cause__, JournalDisplacedError):
            logger.error(
                "stopped because the journal is not where it was; nothing was answered since, and "
                "what was answered before is in the files that were there: put %s back as it was, "
                "run coild-verify --journal %s, then start again",
                journal.path.parent,
                journal.path.parent,
            )
        else:
            logger.error("stopped because the journal failed; what was answered is safe")
        return 1
    counted = service.statistics
    logger.info(
        "stopped, head %s; %d allocated, %d released, %d reused early, %d refused",
        journal.head,
        counted.allocated,
        counted.released,
        counted.reused_early,
        counted.refused,
    )
    return 0


def _remove_empty(directories: Iterable[Path]) -> None:
    """Remove directories that were made, unless something has come to be in them."""
    for path in directories:
        with contextlib.suppress(OSError):
            path.rmdir()


def _add_checks(
    readiness: Readiness, journal: Journal, beginning: Beginning, exporter: Exporter
) -> None:
    def journal_trouble() -> str:
        trouble = journal.trouble
        return f"no space for the journal: {trouble}" if trouble else ""

    def start_trouble() -> str:
        trouble = beginning.trouble
        return f"this start cannot be journalled yet: {trouble}" if trouble else ""

    def route_trouble() -> str:
        failing = exporter.health == "failing"
        return f"{exporter.reason or 'see the log'}; {_ROUTES_FAIL}" if failing else ""

    readiness.add("journal", journal_trouble, fails=True)
    readiness.add("start", start_trouble, fails=True)
    readiness.add("routes", route_trouble)
    readiness.add("log", logs.dropped)


async def _tell_blocked(beginning: Beginning, blocked: Callable[[], list[str]]) -> None:
    """Say which pools cannot be used because of blocks of old, once the pools are journalled."""
    await beginning.recorded()
    for line in blocked():
        logger.warning("%s", line)


async def _keep_up(beginning: Beginning, compactor: Compactor) -> None:
    """Compact when the journal has grown, for as long as the daemon runs."""
    await beginning.recorded()
    await compactor.run()


async def _renew(beginning: Beginning, interval: int) -> None:
    """Look after what the node itself has of its pools, for as long as the daemon runs."""
    await beginning.recorded()
    await beginning.node_addresses.run(interval / 1e9)


async def _scan(
    beginning: Beginning, service: Service, interval: int, address_file: AddressFile
) -> None:
    """Give back blocks that stay empty, for as long as the daemon runs."""
    while True:
        await asyncio.sleep(interval / 1e9)
        await asyncio.to_thread(address_file.retry)
        await beginning.recorded()
        try:
            for block in await service.release_idle_blocks(interval):
                logger.info("gave block %s back, it was empty for a while", block)
        except JournalError as error:
            logger.warning("could not give idle blocks back: %s", error)


async def _be_watched(notifier: Notifier) -> None:
    """Tell the service manager that the loop turns, as often as it wants to know."""
    while notifier.watchdog_seconds is not None:
        notifier.alive()
        # As sd_watchdog_enabled(3) has it: at half of the time.
        await asyncio.sleep(notifier.watchdog_seconds / 2)


def _tell_of_bug(task: asyncio.Task[None]) -> None:
    """Say at once that a task that runs beside the requests ended by a bug; they go on."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("a task of the daemon ended, this is a bug", exc_info=error)


def _announce(config: Config, journal: Journal, places: list[str]) -> None:
    """Say where the daemon is and, to who configured nothing, what it chose."""
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
    # TCP last: who waits for that line may ask on either.
    for place in reversed(places):
        logger.info("listening on %s", place)
