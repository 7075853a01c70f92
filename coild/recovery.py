"""From a data directory to a state and an open journal, or to one line that says why not."""

from __future__ import annotations

import contextlib
import errno
import logging
import time
from pathlib import Path

from coild.config.config import Config
from coild.config.layers import StartError
from coild.process import logs
from coild.process.bars import tqdm
from coild.process.systemd import Notifier
from coild.rules.events import SCHEMA, Event
from coild.rules.holding import InconsistentEventError
from coild.rules.projection import Projection
from coild.vocabulary import record_of
from journal import Journal, JournalError, OsFileSystem, UnrecordedSnapshot

logger = logging.getLogger(__name__)

_OWN_NAMES = {"journal", "http", "spool", "spool.journals"}
#: A recovery that takes longer than this shows a progress bar at a terminal.
_PROGRESS_AFTER_SECONDS = 1.0


def make_data_dir(path: Path) -> list[Path]:
    """Make the directory and its parents; those that were made, the innermost first.

    On return their names are durable. Raises StartError.
    """
    try:
        missing = [part for part in (path, *path.parents) if not part.exists()]
        for part in reversed(missing):
            part.mkdir(mode=0o700, exist_ok=True)
            OsFileSystem().sync_directory(part.parent)
        # One that was made for coild is coild's alone; one with anything else in it is left as it
        # is, for it may be another program's. The journal inside is 0700 either way.
        if {entry.name for entry in path.iterdir()} <= _OWN_NAMES and path.stat().st_mode & 0o077:
            # Another's directory that we may use: how open it is, is the other's business.
            with contextlib.suppress(PermissionError):
                path.chmod(0o700)
    except OSError as error:
        raise StartError("data-dir", f"cannot use {path}: {error.strerror}") from None
    return missing


def recover(config: Config, state: Projection, notifier: Notifier) -> Journal:
    """Open the journal and fold it into `state`; the service manager is told how far that is.

    Raises JournalError if it cannot be used; one line that says what to do.
    """
    directory = config.data_dir / "journal"
    started = time.monotonic()
    screen = logs.Screen()
    with tqdm(
        desc="replaying the journal",
        unit="B",
        unit_scale=True,
        leave=False,
        delay=_PROGRESS_AFTER_SECONDS,
        file=screen,
        ncols=screen.columns,
        disable=not screen.isatty(),
    ) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)
            notifier.starting(f"replaying the journal, {100 * done // max(total, 1)} %")

        try:
            journal = Journal.open(
                directory,
                Event,
                schema=SCHEMA,
                replay=state.apply_all,
                restore=state.restore,
                record_of=record_of,
                segment_bytes=config.segment_size,
                progress=progress,
            )
        except OSError as error:
            full = error.errno in {errno.ENOSPC, errno.EDQUOT}
            advice = "; make room there and start again: nothing is lost" if full else ""
            raise JournalError(f"cannot use the journal in {directory}: {error}{advice}") from None
        except (InconsistentEventError, ValueError) as error:
            raise JournalError(
                f"the journal in {directory} is whole, but contradicts itself: {error}; nothing "
                "was changed; keep a copy and report it: whatever wrote it has a bug"
            ) from None
    for rejected in journal.recovered.rejected:
        # Without a record it is what a crash in a compaction leaves: the next one mends it.
        level = logging.WARNING if isinstance(rejected, UnrecordedSnapshot) else logging.ERROR
        logger.log(level, "the snapshot %s could not be used, an older state was: %s", *rejected)
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
