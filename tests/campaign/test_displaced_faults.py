"""Faults that let two writers in, or let one write where nobody will read, are found out."""

from __future__ import annotations

import gc
import socket
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from coild import daemon
from coild.config.config import load
from coild.config.layers import Settings, StartError
from coild.rules.events import SCHEMA, DaemonStarted, Event
from journal import Journal
from journal.errors import JournalDisplacedError, JournalLockedError
from journal.format.segments import LOCK_NAME
from journal.fs import OsFileSystem
from journal.write.custody import acquire_lock
from tests.crash.mutants import OF_CUSTODY, mutated
from tests.crash.scale import report_fault

_EVENT = msgspec.msgpack.encode(DaemonStarted(0, "1", "n", ""))


def opened(directory: Path) -> Journal:
    """A journal with one event and no mark behind it, whose thread does not run."""
    journal = Journal.open(
        directory, Event, schema=SCHEMA, replay=lambda _: None, segment_bytes=16 * 1024
    )
    journal._log.append([_EVENT])
    return journal


def second_writer(scratch: Path) -> str:
    """With the first writer's LOCK removed, another one is refused."""
    journal = opened(scratch)
    try:
        (scratch / LOCK_NAME).unlink()
        try:
            second = acquire_lock(OsFileSystem(), scratch)
        except JournalLockedError:
            return ""
        second.close()
        return "two writers"
    finally:
        journal._custody.close()


def failed_start(scratch: Path) -> str:
    """A start whose address is taken writes nothing."""
    scratch.mkdir()
    opened(scratch / "journal")._custody.close()

    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in scratch.rglob("*") if path.is_file()}

    before = content()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        variables = {"COILD_DATA_DIR": str(scratch), "COILD_HTTP": address}
        try:
            with pytest.raises(StartError, match="is taken"):
                daemon.run(load(Settings(), None, variables))
        finally:
            gc.enable()
    return "" if before == content() else "a start that failed wrote"


def moved_lock(scratch: Path) -> str:
    """A writer whose LOCK is gone acknowledges nothing."""
    journal = opened(scratch)
    try:
        (scratch / LOCK_NAME).unlink()
        try:
            journal._log.append([_EVENT])
        except JournalDisplacedError:
            return ""
        return "acknowledged in a journal that was displaced"
    finally:
        journal._custody.close()


FOUND_BY: dict[str, Callable[[Path], str]] = {
    "the lock is on its name only": second_writer,
    "a mark is written by a start that failed": failed_start,
    "it is acknowledged without the look": moved_lock,
}


@pytest.mark.parametrize("name", OF_CUSTODY)
def test_a_fault_of_custody_is_found_out(name: str, tmp_path: Path) -> None:
    """What holds of the code as it is does not hold with the fault."""
    kept = FOUND_BY[name](tmp_path / "kept")
    with mutated(name):
        broken = FOUND_BY[name](tmp_path / "broken")
    report_fault(name, broken)

    assert not kept
    assert broken
