"""What all tools share, as a shell sees it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.daemon_kit import PATIENCE_SECONDS, ROOT, environment

OLD = ROOT / "tests/old_journals/schema-2/journal"
TOOLS = {
    "history": ("10.64.0.1",),
    "replay": (),
    "verify": (),
}


def shell(line: str) -> subprocess.CompletedProcess[str]:
    """Run a line of the shell; `tool NAME` is a tool of this checkout."""
    line = line.replace("tool ", f"{sys.executable} -W error -m tools.")
    return subprocess.run(
        ["/bin/sh", "-c", line],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """A copy of a journal with snapshots, archive and indexes."""
    return Path(shutil.copytree(OLD, tmp_path / "journal"))


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
@pytest.mark.parametrize("tool", TOOLS)
def test_a_closed_stream_is_no_error(journal: Path, tool: str, closed: str) -> None:
    """A wrapper may close what it does not need: the rest comes out as ever."""
    line = f"tool {tool} --journal {journal} {' '.join(TOOLS[tool])}"
    expected, done = shell(line), shell(f"{line} {closed}")

    assert expected.returncode == done.returncode
    assert ("" if closed == ">&-" else expected.stdout) == done.stdout
    assert "Traceback" not in done.stderr


def test_a_difference_since_a_while_ago(journal: Path) -> None:
    """Both values of --diff may begin with a minus."""
    assert (0, "") == (
        (done := shell(f"tool replay --journal {journal} --diff -2h -1s")).returncode,
        done.stderr,
    )


def test_the_next_command_names_the_journal(journal: Path) -> None:
    """Also when it is a file of the archive that is damaged."""
    (journal / "archive/00000000000000000119.seg.zst").unlink()

    done = shell(f"tool history --journal {journal} 10.64.0.1")

    assert done.returncode == 1
    assert done.stderr.rstrip().endswith(f"run: coild-verify --journal {journal}")


def test_an_empty_directory_name_is_refused() -> None:
    """It would mean the directory that one happens to be in."""
    done = shell("tool verify --journal ''")

    assert done.returncode == 2
    assert "empty" in done.stderr
