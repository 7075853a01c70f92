"""Small journals of coild's events, for tests of `coild-verify`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import msgspec

from coild.rules.addresses import Subnet
from coild.rules.events import (
    SCHEMA,
    AddressAllocated,
    BlockAcquired,
    PoolsChanged,
    PoolSpec,
    SnapshotTaken,
)
from coild.rules.projection import Projection
from coild.vocabulary import VOCABULARY
from journal import prepare, retire
from tests.kits.journal.building import Opened, opened
from tests.kits.journal.disks import FS

NOW = 1_800_000_000_000_000_000
SUBNET = Subnet.parse("10.64.0.0/24").key
BLOCK = Subnet.parse("10.64.0.0/27").key


def facts(count: int = 8) -> list[Any]:
    """A pool, a block, and allocations of it."""
    return [
        PoolsChanged(NOW, {"default": PoolSpec([SUBNET], 5)}),
        BlockAcquired(NOW, BLOCK, "default"),
        *(
            AddressAllocated(NOW + n, BLOCK, n, f"c{n}", "default", f"web-{n}", "default")
            for n in range(count)
        ),
    ]


class Made:
    """A journal of coild's events: with a snapshot, archived segments, sealed ones and an open one.

    Its heads are those behind each frame, marks included.
    """

    def __init__(self, directory: Path, journal: Opened | None = None) -> None:
        """Make it; with `journal`, a new one in `directory`, that stays open."""
        self.directory = directory
        self.heads: list[str] = []
        events = facts()
        with nullcontext(journal) if journal else opened_plain(directory) as written:

            def note(event: Any | None = None) -> None:
                written.append([event] if event is not None else [])
                self.heads.append(f"{written.log.next_sequence - 1}:{written.log.digest.hex()}")

            for event in events[:3]:
                note(event)
            note()
            written.log.seal()
            for event in events[3:5]:
                note(event)
            self.through = written.log.seal()
            done = prepare(FS, directory, self.through, VOCABULARY, Projection(), now=NOW)
            self.digest = bytes.fromhex(done.digest)
            retire(FS, directory, SCHEMA)
            note(SnapshotTaken(NOW + 50, self.through, self.digest, 1))
            note(msgspec.structs.replace(events[5], time=NOW + 50))
            written.log.seal()
            prepare(FS, directory, self.through, VOCABULARY, Projection(), now=NOW)
            note(msgspec.structs.replace(events[6], time=NOW + 50))
            note(msgspec.structs.replace(events[7], time=NOW + 50))

    @property
    def files(self) -> list[Path]:
        """All files, which must stay as they are."""
        return sorted(
            path
            for path in self.directory.rglob("*")
            if path.suffix in {".seg", ".zst", ".snap", ".idx"}
        )


@contextmanager
def opened_plain(directory: Path) -> Iterator[Opened]:
    """A new journal of coild's schema, which is not replayed; it ends with a mark."""
    with opened(directory, schema=SCHEMA, clock=lambda: NOW) as journal:
        yield journal
        journal.log.mark()


def age(directory: Path) -> None:
    """Make the segments look old, so that no tool waits for a mark."""
    for file in directory.glob("*.seg"):
        if file.is_file():
            os.utime(file, (0, 0))
