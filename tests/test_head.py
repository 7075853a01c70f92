"""The head that `coild-verify --head` prints is what no power cut takes back."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from coild.events import SCHEMA
from journal.codec import decode_header
from journal.fs import OsFileSystem
from journal.head import read_head
from journal.scan import scan
from tests.crash import failing_daemon
from tests.daemon_kit import PATIENCE_SECONDS, Daemon, wait_for
from tests.journal_kit import frames_of, patched, segments
from tests.test_failing_disk import FailingDaemon, fail
from tests.verify_kit import facts, opened_plain
from tests.wire_kit import allocate_body
from tools.verify import main


def head_of(directory: Path, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """What `--head` prints, and what it says on stderr."""
    assert main(["--journal", str(directory), "--head"]) == 0
    shown = capsys.readouterr()
    return shown.out.removeprefix("head ").strip(), shown.err


def cut_last(directory: Path) -> None:
    """A power cut: the last frame never reached the disk."""
    path = segments(directory)[-1]
    data = path.read_bytes()
    _, frames = frames_of(data)
    last = frames[-1]
    path.write_bytes(patched(data, last.offset, bytes(last.end - last.offset)))


def test_a_head_taken_while_a_flush_hangs_outlives_a_power_cut(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The event whose flush hangs is not in it; what was not flushed is gone, the head is there."""
    variables = {failing_daemon.VARIABLE: str(tmp_path / "failure")}
    after = tmp_path / "after"
    with FailingDaemon(tmp_path / "data", "--segment-size=1MiB", **variables) as daemon:
        assert daemon.allocate("old").is_success
        sequence = daemon.client.get("/health").json()["sequence"]
        path = fail(daemon, "hang")
        with daemon.new_client() as client, ThreadPoolExecutor(1) as pool:
            posted = pool.submit(client.post, "/ip", content=allocate_body("new", "web-0"))
            try:
                wait_for(path.with_suffix(".hangs").exists, "a flush to hang")
                head, said = head_of(daemon.data_dir / "journal", capsys)
                shutil.copytree(daemon.data_dir, after)
            finally:
                path.unlink()
            assert posted.result(PATIENCE_SECONDS).is_success

    assert head.startswith(f"{sequence}:")
    assert "1 event is at the end" in said
    assert "not vouched for yet" in said
    cut_last(after / "journal")
    with Daemon(after) as daemon:
        assert daemon.allocate("other").is_success
        assert main(["--journal", str(after / "journal"), "--anchor", head]) == 0


def test_a_killed_daemon_leaves_a_head_and_a_notice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After kill -9 the last event is not vouched for; the next start vouches for it."""
    with Daemon(tmp_path / "data") as daemon:
        assert daemon.allocate("c1").is_success
        sequence = daemon.client.get("/health").json()["sequence"]
        daemon.kill()
        journal = daemon.data_dir / "journal"
        head, said = head_of(journal, capsys)
        # Of one frame, which may hold several events, or of none if a mark was in time.
        left = sequence - int(head.partition(":")[0])
        assert left >= 0
        assert ("not vouched for yet" in said) == bool(left)
        assert f"{left} event" in said or not left

        daemon.start()
        assert main(["--journal", str(journal), "--anchor", head]) == 0
        capsys.readouterr()
        again, said = head_of(journal, capsys)
        assert int(again.partition(":")[0]) >= sequence


@pytest.mark.parametrize("frames", range(4))
def test_the_last_frame_is_no_part_of_the_head(tmp_path: Path, frames: int) -> None:
    """Not even a mark, whose digest a power cut takes back; of one alone, the header's is left."""
    directory = tmp_path / "journal"
    with opened_plain(directory) as journal:
        journal.append([facts(1)[0]])
        journal.log.seal()
        heads = [(journal.log.next_sequence - 1, journal.log.digest)]
        for number in range(frames):
            journal.append([facts()[1]] if number % 2 == 0 else [])
            heads.append((journal.log.next_sequence - 1, journal.log.digest))
        _, found = read_head(OsFileSystem(), directory, SCHEMA)
    data = segments(directory)[-1].read_bytes()

    assert found.vouched == heads[max(0, frames - 1)]
    assert scan(data, decode_header(data, SCHEMA)).vouched == found.vouched
