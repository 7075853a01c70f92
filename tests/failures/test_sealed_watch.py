"""Files of the journal that somebody changes beside the daemon, and that it does not write."""

# expected == actual

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from tests.http.test_readiness import told
from tests.kits.daemon.process import Daemon, wait_for
from tests.tools.test_compact import SMALL, churn, compacted

NAME = "sealed-files"


def learn(daemon: Daemon, stray: Path) -> None:
    """Return when the daemon knows its files: it tells that another one was removed.

    That one is there again then, and nothing is told.
    """
    kept = stray.with_suffix(".kept")
    kept.touch()

    def is_known() -> bool:
        stray.hardlink_to(kept)
        time.sleep(1.5)
        stray.unlink()
        for _ in range(150):
            if f"{stray} was removed" in told(daemon, NAME):
                return True
            time.sleep(0.02)
        return False

    wait_for(is_known, "a look")
    stray.hardlink_to(kept)
    wait_for(lambda: "" == told(daemon, NAME), "the check")


def lines_of(daemon: Daemon) -> list[str]:
    """What the log has about changed files."""
    return [line for line in daemon.log.splitlines() if "beside this daemon" in line]


def test_a_changed_file_is_told_and_a_compaction_is_not(tmp_path: Path) -> None:
    """Each by its name, what was done to it and what to do, until it is as it was again."""
    journal = tmp_path / "data" / "journal"
    stray = journal / f"{0:020d}.snap"
    with Daemon(tmp_path / "data", *SMALL) as daemon:
        for tag in "ab":
            churn(daemon, 5, tag)
            compacted("--data-dir", str(daemon.data_dir))
        learn(daemon, stray)
        (cut,) = sorted(journal.glob("*.snap"))[-1:]
        removed, replaced = sorted((journal / "archive").glob("*.zst"))
        size = cut.stat().st_size
        kept = {path: path.with_suffix(".kept") for path in (removed, replaced)}
        for path, link in kept.items():
            link.hardlink_to(path)
        removed.unlink()
        os.truncate(cut, size - 1)
        shutil.copy(replaced, journal / "copy")
        (journal / "copy").rename(replaced)
        expected = {
            f"{removed} was removed",
            f"{replaced} was replaced",
            f"{cut} has {size - 1} bytes instead of {size}",
        }
        wait_for(lambda: all(part in told(daemon, NAME) for part in expected), "the check")
        answers = daemon.allocate("still"), daemon.client.get("/readyz")
        for path, link in kept.items():
            link.rename(path)
        os.truncate(cut, size)
        # What is written over in place is seen with the next name that changes, or a while later.
        (journal / "copy").touch()
        wait_for(lambda: "" == told(daemon, NAME), "the check")
        before = lines_of(daemon)
        churn(daemon, 5, "c")
        compacted("--data-dir", str(daemon.data_dir), "--delete")
        stray.unlink(missing_ok=True)
        stray.with_suffix(".kept").unlink()
        learn(daemon, stray)
        after = lines_of(daemon)[len(before) :]

    assert [200, 200] == [answer.status_code for answer in answers]
    assert f"coild-verify --journal {journal}" in before[-1]
    assert [f"beside this daemon, {stray} was removed:"] * len(after) == [
        line[line.index("beside") :][: len(f"beside this daemon, {stray} was removed:")]
        for line in after
    ]
