"""The daemon's life: recover, serve, stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import sys
import time
from pathlib import Path

import tqdm
import uvloop

from coild import __version__
from coild.address_file import AddressFile
from coild.api import build_app
from coild.blocks.static import StaticBlocks
from coild.clock import Clock
from coild.compactor import Compactor
from coild.config import Config, Endpoint
from coild.events import SCHEMA, DaemonStarted, DaemonStopped, Folded
from coild.guard import Guard
from coild.listen import UnixSocket, bind_tcp
from coild.projection import InconsistentEventError, pools_changed
from coild.replay import State, records_of
from coild.server import Server
from coild.service import Service
from coild.settings import ConfigError
from coild.upkeep import UpkeepProcess
from journal import Journal, JournalError, OsFileSystem

logger = logging.getLogger(__name__)

_OWN_NAMES = {"journal", "http"}
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# Its thread would watch over a bar that is long gone, for as long as the daemon runs.
tqdm.tqdm.monitor_interval = 0
#: A recovery that takes longer than this shows a progress bar at a terminal.
_PROGRESS_AFTER_SECONDS = 1.0


def run(config: Config) -> int:
    """Run the daemon until a signal ends it; the exit status.

    Raises ConfigError and JournalError when it cannot start.
    """
    _make_data_dir(config.data_dir)
    state = State()
    # A replay makes no garbage in circles, and what it makes stays: no collection during it, and
    # none looks at it later.
    gc.disable()
    journal = _recover(config, state)
    gc.freeze()
    gc.enable()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        status = runner.run(_serve(config, state, journal))
    # The loop's end gave the signals back to the system, which would kill.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    return status


def _make_data_dir(path: Path) -> None:
    """Make the directory and its parents; on return their names are durable."""
    missing = [part for part in (path, *path.parents) if not part.exists()]
    try:
        for part in reversed(missing):
            part.mkdir(mode=0o700, exist_ok=True)
            OsFileSystem().sync_directory(part.parent)
        # One that was made for coild is coild's alone; one with anything else in it is left as it
        # is, for it may be anybody's. The journal inside is 0700 either way.
        if {entry.name for entry in path.iterdir()} <= _OWN_NAMES and path.stat().st_mode & 0o077:
            # Another's directory that we may use: how open it is, is the other's business.
            with contextlib.suppress(PermissionError):
                path.chmod(0o700)
    except OSError as error:
        raise ConfigError("data-dir", f"cannot use {path}: {error.strerror}") from None


def _recover(config: Config, state: State) -> Journal:
    directory = config.data_dir / "journal"
    started = time.monotonic()
    with tqdm.tqdm(
        desc="replaying the journal",
        unit="B",
        unit_scale=True,
        leave=False,
        delay=_PROGRESS_AFTER_SECONDS,
        disable=None if sys.stderr is not None else True,
    ) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        try:
            journal = Journal.open(
                directory,
                Folded,
                schema=SCHEMA,
                replay=state.apply_all,
                restore=state.restore,
                segment_bytes=config.segment_size,
                progress=progress,
            )
        except OSError as error:
            raise JournalError(f"cannot use the journal in {directory}: {error}") from None
        except (InconsistentEventError, ValueError) as error:
            raise JournalError(
                f"the journal in {directory} is whole, but contradicts itself: {error}; nothing "
                "was changed; keep a copy and report it: whatever wrote it has a bug"
            ) from None
    for path, reason in journal.recovered.rejected:
        logger.error("the snapshot %s could not be used, an older state was: %s", path, reason)
    snapshot = journal.recovered.snapshot_sequence
    logger.info(
        "replayed %d events from %d segments%s in %s in %.0f ms, head %s",
        state.sequence - snapshot,
        journal.recovered.segments,
        f" after snapshot {snapshot}" if snapshot else "",
        directory,
        (time.monotonic() - started) * 1000,
        journal.head,
    )
    return journal


async def _serve(config: Config, state: State, journal: Journal) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    failures: list[JournalError] = []

    def on_failure(failure: JournalError) -> None:
        failures.append(failure)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    clock = Clock(state.time)
    service = Service(
        state,
        journal,
        StaticBlocks(config.pools, [block.subnet for block in state.blocks.values()]),
        reuse_after=config.reuse_after,
        clock=clock,
    )
    journal.start(on_failure)
    compactor = Compactor(
        journal,
        service.record,
        UpkeepProcess(journal.path.parent),
        journal.path.parent,
        clock=clock,
        compact_after=config.compact_after,
    )
    guard = Guard(config.allowed_hosts, remote=config.allow_remote)
    server = Server(build_app(service, compactor, guard), config.max_connections)
    address_file = AddressFile(config.data_dir / "http")
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(journal.close)
        # First of all: whatever keeps this start from serving, the journal must tell of the repair.
        await _record_repairs(journal, service, clock)
        tcp = bind_tcp(config.http)
        stack.callback(tcp.close)
        sockets = [tcp]
        if config.socket is not None:
            unix = UnixSocket(config.socket)
            stack.callback(unix.close)
            sockets.append(unix.socket)
        await _record_start(config, state, service, clock)
        stack.push_async_callback(service.close)
        await server.start(sockets)
        address = _address(tcp)
        address_file.publish(address)
        stack.callback(address_file.remove)
        _announce(config, journal, address)
        scan = asyncio.create_task(_scan(service, config.scan_interval, address_file))
        upkeep = asyncio.create_task(compactor.run())
        await stop.wait()
        logger.info("stopping")
        scan.cancel()
        upkeep.cancel()
        # Whoever waits for a compaction is told that there will be none, before the server waits.
        await compactor.close()
        await server.stop()
        if not failures:
            with contextlib.suppress(JournalError):
                await service.record(DaemonStopped(clock(), __version__, config.node_name))
    # Nothing is left to end: another signal must not turn a good end into a bad one.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
    if failures:
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


async def _record_repairs(journal: Journal, service: Service, clock: Clock) -> None:
    """Say and journal what was set aside, by recovery now or by a repair that was cut short."""
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
    for event in records_of(journal.recovered, clock):
        await service.record(event)
    journal.repairs_recorded()


async def _record_start(config: Config, state: State, service: Service, clock: Clock) -> None:
    """Journal what is different now: the pools, and that the daemon runs."""
    if state.pools != config.pools:
        await service.record(pools_changed(clock(), config.pools))
    for block in state.blocks.values():
        if not block.in_force:
            logger.warning(
                "block %s of pool %s is in no configured subnet any more: its %d addresses are "
                "kept until they are released, no more are handed out",
                block.subnet,
                block.pool,
                block.held,
            )
    await service.record(DaemonStarted(clock(), __version__, config.node_name, _boot_id()))


async def _scan(service: Service, interval: int, address_file: AddressFile) -> None:
    """Give back blocks that stay empty, for as long as the daemon runs."""
    while True:
        await asyncio.sleep(interval / 1e9)
        address_file.retry()
        try:
            for block in await service.release_idle_blocks(interval):
                logger.info("gave block %s back, it was empty for a while", block)
        except JournalError as error:
            logger.warning("could not give idle blocks back: %s", error)


def _announce(config: Config, journal: Journal, address: str) -> None:
    """Say where the daemon is and, to who configured nothing, what it chose."""
    if config.embedded:
        pools = "; ".join(
            f"{name} = {', '.join(map(str, pool.subnets))}, block size {pool.block_size}"
            for name, pool in config.pools.items()
        )
        logger.info("no pools were configured, so this is the embedded default: %s", pools)
        logger.info("the journal is in %s", journal.path.parent)
        logger.info("try: curl -s http://%s/status", address)
        logger.info(
            "try: curl -s http://%s/ip -d '%s'",
            address,
            '{"pod-namespace": "default", "pod-name": "web-0", "container-id": "c1"}',
        )
    if config.socket is not None:
        logger.info("listening on unix:%s", config.socket)
    logger.info("listening on http://%s", address)


def _boot_id() -> str:
    """The kernel's name for this boot; empty where there is none."""
    return _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else ""


def _address(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return str(Endpoint(host, port))
