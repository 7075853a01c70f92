"""A file that says it has 60 GiB takes no memory: its size is compared with its format first."""

# expected == actual

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from journal.segments import list_archive, list_segments
from journal.snapshot import list_snapshots
from tests.daemon_kit import PATIENCE_SECONDS, ROOT, environment
from tests.verify_kit import FS, Made
from tools import verify

HUGE = 60 << 30
MEMORY = 2 << 30
#: A start without a daemon: what refuses or steps over a file is the journal's.
START = """
import sys
from pathlib import Path
from coild.events import SCHEMA, Folded
from coild.replay import State, record_of
from journal import JournalError, OsFileSystem
from journal.recovery import recover
from journal.scan import list_decoder

state = State()
try:
    found = recover(OsFileSystem(), Path(sys.argv[1]), schema=SCHEMA, segment_bytes=1 << 16, now=1,
                    decoder=list_decoder(Folded), deliver=state.apply_all, restore=state.restore,
                    record_of=record_of)
except JournalError as error:
    sys.exit(str(error))
for path, reason in found.rejected:
    print(path.name, reason)
"""


def limited(*command: str) -> subprocess.CompletedProcess[str]:
    """Run python with 2 GiB of address space."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
    )


def tool(name: str, directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a tool on a journal."""
    return limited("-m", f"tools.{name}", "--journal", str(directory), *arguments)


KINDS: dict[str, Callable[[Path], Path]] = {
    "snapshot": lambda directory: list_snapshots(FS, directory)[0].path,
    "last segment": lambda directory: list_segments(FS, directory)[-1].path,
    "sealed segment": lambda directory: list_segments(FS, directory)[0].path,
    "archived segment": lambda directory: list_archive(FS, directory)[0].path,
}


@pytest.mark.parametrize("emptied", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_huge_file_of_the_journal_is_corrupt(tmp_path: Path, kind: str, *, emptied: bool) -> None:
    """Verify names it and says 2, whether it begins as it should or with zeros."""
    made = Made(tmp_path / "journal")
    path = KINDS[kind](made.directory)
    if emptied:
        os.truncate(path, 0)
    os.truncate(path, HUGE)
    done = tool("verify", made.directory)

    assert "Traceback" not in done.stderr
    assert 2 == done.returncode
    assert path.name in done.stderr
    if not emptied and kind != "archived segment":
        assert str(HUGE) in done.stderr


@pytest.mark.parametrize("kind", ["last segment", "sealed segment"])
def test_a_start_refuses_a_huge_segment(tmp_path: Path, kind: str) -> None:
    """The error names the file and its size; nothing is changed."""
    made = Made(tmp_path / "journal")
    path = KINDS[kind](made.directory)
    os.truncate(path, HUGE)
    done = limited("-c", START, str(made.directory))

    assert 1 == done.returncode
    assert "Traceback" not in done.stderr
    assert str(path) in done.stderr
    assert str(HUGE) in done.stderr
    assert path.stat().st_size == HUGE


def test_a_start_steps_over_a_huge_snapshot(tmp_path: Path) -> None:
    """One that is too long is as good as none, and why is told."""
    made = Made(tmp_path / "journal")
    path = KINDS["snapshot"](made.directory)
    os.truncate(path, HUGE)
    done = limited("-c", START, str(made.directory))

    assert 0 == done.returncode, done.stderr
    assert path.name in done.stdout
    assert str(HUGE) in done.stdout


def test_no_repair_cuts_off_a_segment_that_it_did_not_read(tmp_path: Path) -> None:
    """What is good in a segment that grew is not lost, so it is not given up."""
    made = Made(tmp_path / "journal")
    path = KINDS["last segment"](made.directory)
    size = path.stat().st_size
    os.truncate(path, HUGE)
    done = tool("repair", made.directory, "--truncate-tail")

    assert "Traceback" not in done.stderr
    assert done.returncode
    assert str(HUGE) in done.stderr
    os.truncate(path, size)
    assert 0 == verify.main(["--journal", str(made.directory)])
