"""Keeps a journal of today's vocabulary, for every later version to read.

    python -m tests.kits.journal.keep DATA_DIR

copies the journal of a daemon that has ended to `tests/old_journals/schema-N`, and writes its
expected content to `expected.json`, which `tests/journal/test_old_journals.py` reads.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from coild.audit.diff import view
from coild.rules.events import SCHEMA, Event
from coild.rules.projection import Projection
from journal import OsFileSystem, Reader
from journal.read.tail import read_head

OLD_JOURNALS = Path(__file__).parents[2] / "old_journals"


def expected_of(directory: Path) -> dict[str, Any]:
    """The expected content of a journal that has all its history."""
    state = Projection()
    for batch in Reader(directory, Event, schema=SCHEMA).batches():
        state.apply_all(batch.events)
    seen = view(state)
    _, head = read_head(OsFileSystem(), directory, SCHEMA)
    return {
        "sequence": state.sequence,
        "time": state.time,
        "digest": state.digest(),
        "head": f"{state.sequence}:{head.digest.hex()}",
        "address-blocks": seen.address_blocks,
        "pods": {name: held.address for name, held in sorted(seen.pods.items())},
        "boot-id": state.boot_id,
        "init-start": state.init_start,
        "networks": {n: held.network for n, held in sorted(seen.pods.items()) if held.network},
    }


def keep(data_dir: Path, to: Path = OLD_JOURNALS / f"schema-{SCHEMA}") -> None:
    """Copy the journal of a data directory to `to`, with its expected content."""
    shutil.copytree(
        data_dir / "journal", to / "journal", ignore=shutil.ignore_patterns("LOCK", "*.tmp")
    )
    text = json.dumps(expected_of(to / "journal"), indent=1, ensure_ascii=False)
    (to / "expected.json").write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    keep(Path(sys.argv[1]))
