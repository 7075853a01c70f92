"""The releases that the CNI plugin kept while coild was down, applied at a start."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from coild.allocation.service import Service
from coild.process.log_limit import LogLimit
from coild.process.systemd import Notifier
from coild.spool import releases as spool

logger = logging.getLogger(__name__)

#: So many entries of the spool, each an open file, are applied at a time.
_BATCH = 100


async def apply_spool(directory: Path, service: Service, notifier: Notifier) -> None:
    """Apply the releases that the CNI plugin kept while coild did not answer.

    Errors of the spool are only logged. Raises the journal's errors.
    """
    path = str(directory)
    applied = freed = 0
    errors: list[spool.SpoolError] = []
    limit = LogLimit()
    loop = asyncio.get_running_loop()

    def on_rejected(path: str) -> None:
        # From the thread that looks, which flushes the disk for each: so they do not pile up here.
        loop.call_soon_threadsafe(_log_rejected, limit, path)

    try:
        # In a thread, as all that touches these files: a start that waits for room answers already.
        batches = spool.batches(path, _BATCH, on_rejected)
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
                errors.append(error)
            for answer in answers:
                if isinstance(answer, BaseException):
                    raise answer
            # A service manager is to wait.
            notifier.starting(f"applying the releases of the spool, {applied} so far")
    except spool.SpoolError as error:
        errors.append(error)
    finally:
        limit.flush()
    if errors:
        logger.warning("%s; what is left there, the plugin's next run applies", errors[0])
    if applied:
        logger.info("applied %d releases of the spool %s, %d addresses", applied, path, freed)


def _mark_applied(left: dict[spool.Claim, list[str]]) -> None:
    """Remove the entries that are done, and write what is left of the others. Raises SpoolError."""
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


def _log_rejected(limit: LogLimit, path: str) -> None:
    name = path.encode(errors="surrogateescape").decode(errors="backslashreplace")
    text = f"a release in the spool is damaged, it was set aside: {name}"
    limit.log("damaged", logger, logging.WARNING, text)
