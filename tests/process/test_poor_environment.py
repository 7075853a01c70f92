"""An environment that lacks what a program needs, or has what is not for it: a line, or nothing."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from coild.process.open_files import FILES_MIN
from tests.kits.daemon.process import Daemon, command, ended, environment


def limited(files: int, *flags: str) -> Sequence[str]:
    """The command that executes another one, which may have so many files open."""
    return ["sh", "-c", f'ulimit {" ".join(flags)} -n {files}; exec "$@"', "sh"]


class LimitedDaemon(Daemon):
    """A coild that may have as few files open as it says that it needs."""

    runner = (*limited(FILES_MIN), *limited(20, "-S"))


def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return ended(words, env=environment(**variables))


@pytest.mark.parametrize("files", [8, FILES_MIN - 1])
def test_too_few_files_are_told_in_a_line(tmp_path: Path, files: int) -> None:
    """The daemon does not start, and makes nothing; a compaction begins nothing."""
    data = tmp_path / "d"
    daemon = run(*limited(files), *command("--data-dir", str(data), "--http", "127.0.0.1:0"))
    made = data.exists()
    Daemon(data).stop()
    compact = run(*limited(files), *command("--data-dir", str(data), module="tools.compact"))

    for found in (daemon, compact):
        assert (1, 1) == (found.returncode, len(found.stderr.splitlines())), found.stderr
        assert f"only {files} files may be open, and {FILES_MIN} are needed" in found.stderr
    assert not made


def test_as_many_files_as_it_says_are_enough(tmp_path: Path) -> None:
    """With so many it serves, compacts and stops; a soft limit of less is raised to that."""
    with LimitedDaemon(tmp_path / "d") as daemon:
        answers = [daemon.allocate("c1"), daemon.client.post("/compact"), daemon.release("c1")]
        status, log = daemon.stop(), daemon.log

    assert [200] * 3 == [answer.status_code for answer in answers]
    assert (0, False) == (status, "ERROR" in log)


def at_terminal(words: Sequence[str], **variables: str) -> tuple[int, str]:
    """Run a command with a terminal as its stderr; its exit status and what the terminal shows."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        words, env=environment(**variables), stdout=subprocess.DEVNULL, stderr=theirs
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while more := os.read(ours, 4096):
                shown += more
        except OSError:
            # Linux has EIO where nobody has the other end open.
            pass
        finally:
            os.close(ours)
    return process.returncode, shown.decode()


def test_variables_of_progress_bars_are_not_for_these(tmp_path: Path) -> None:
    """TQDM_… that is set for other programs, rightly or not, keeps none of ours from its work."""
    variables = dict.fromkeys(("TQDM_MININTERVAL", "TQDM_NCOLS", "TQDM_DELAY"), "x")
    with Daemon(tmp_path / "d", **variables) as daemon:
        status = daemon.stop()
    shown = at_terminal(
        command("--data-dir", str(tmp_path / "d"), module="tools.verify"), **variables
    )
    script = "import os, coild.process.bars; print(os.environ['TQDM_NCOLS'])"
    kept = run(sys.executable, "-c", script, **variables)

    assert (0, (0, "")) == (status, shown)
    assert "x\n" == kept.stdout
