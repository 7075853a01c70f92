"""What the tools show of a journal's end is what no power cut takes back."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from coild.rules.events import SCHEMA
from journal.format.codec import decode_header
from journal.format.scan import scan
from journal.fs import OsFileSystem
from journal.read.tail import read_head
from tests.failures.test_failing_disk import FailingDaemon, fail
from tests.kits.daemon.process import TIMEOUT_SECONDS, Daemon, wait_for
from tests.kits.daemon.wire import allocate_body
from tests.kits.journal.building import frames_of, patched, segments
from tests.kits.journal.verify import facts, opened_plain
from tests.kits.system.tool import records
from tests.kits.variants import failing_daemon
from tools.history import cli as history
from tools.replay import cli as replay
from tools.verify import cli as verify

OLD, NEW = "old-container", "new-container"


class Shown(NamedTuple):
    """What a tool prints, and what it says on stderr."""

    out: str
    said: str


#: Tools that show the end of a journal, how they are asked; and what they must not show.
ASKED: dict[str, tuple[Callable[[list[str]], int], list[str]]] = {
    "head": (verify.main, ["--head"]),
    "verify": (verify.main, ["-o", "json"]),
    "verify --deep": (verify.main, ["--deep"]),
    "history": (history.main, ["--pool", "default", "-o", "json"]),
    "history --held": (history.main, ["--held"]),
    "history --at": (history.main, ["--at", "tomorrow"]),
    "history by container": (history.main, ["--container", NEW]),
    "history, newest": (history.main, ["-n", "1", "-o", "json"]),
    "replay": (replay.main, ["-o", "json"]),
    "replay --until": (replay.main, ["--until", "tomorrow"]),
    "replay --step": (replay.main, ["--step"]),
    "replay --diff": (replay.main, ["--diff", "3", "tomorrow"]),
    "replay --check": (replay.main, ["--check", "-o", "json"]),
}


def head_of(directory: Path, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """What `--head` prints, and what it says on stderr."""
    assert verify.main(["--journal", str(directory), "--head"]) == 0
    shown = capsys.readouterr()
    return shown.out.removeprefix("head ").strip(), shown.err


def ask(data_dir: Path, what: str, capsys: pytest.CaptureFixture[str], *more: str) -> Shown:
    """Ask a tool of a data directory; it answers."""
    main, arguments = ASKED[what]
    assert main(["--data-dir", str(data_dir), *arguments, *more]) == 0
    return Shown(*capsys.readouterr())


def cut_last(directory: Path) -> None:
    """A power cut: the last frame never reached the disk."""
    path = segments(directory)[-1]
    data = path.read_bytes()
    _, frames = frames_of(data)
    last = frames[-1]
    path.write_bytes(patched(data, last.offset, bytes(last.end - last.offset)))


def test_what_is_shown_while_a_flush_hangs_outlives_a_power_cut(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The event whose flush hangs is in nothing that a tool shows; all that is, is there then."""
    variables = {failing_daemon.VARIABLE: str(tmp_path / "failure")}
    after = tmp_path / "after"
    with FailingDaemon(tmp_path / "data", "--segment-size=1MiB", **variables) as daemon:
        assert daemon.allocate(OLD).is_success
        sequence = daemon.client.get("/health").json()["sequence"]
        path = fail(daemon, "hang")
        with daemon.new_client() as client, ThreadPoolExecutor(1) as pool:
            posted = pool.submit(client.post, "/ip", content=allocate_body(NEW, "web-0"))
            try:
                wait_for(path.with_suffix(".hangs").exists, "a flush to hang")
                shown = {what: ask(daemon.data_dir, what, capsys) for what in ASKED}
                early = ask(daemon.data_dir, "replay", capsys, f"--until-seq={sequence}")
                shutil.copytree(daemon.data_dir, after)
            finally:
                path.unlink()
            assert posted.result(TIMEOUT_SECONDS).is_success

    for what, (out, said) in shown.items():
        assert NEW not in out, what
        assert "1 event at the end" in said, what
        assert "not known to be on disk yet" in said, what
    head = shown["head"].out.strip()
    summary = records(shown["verify"].out)[-1]
    assert (head, sequence, 1) == (summary["head"], summary["events"], summary["unvouched-events"])
    assert f"{sequence} events in 1 segments, head {head}\n" == shown["verify --deep"].out
    assert records(shown["replay"].out)[0] == records(early.out)[0]
    assert not early.said
    assert OLD in shown["history --held"].out

    cut_last(after / "journal")
    with Daemon(after) as daemon:
        assert daemon.allocate("other").is_success
        assert verify.main(["--journal", str(after / "journal"), "--anchor", head]) == 0
        capsys.readouterr()
        again = ask(after, "replay", capsys, f"--until-seq={sequence}")
        rows = records(ask(after, "history", capsys).out)
    assert early.out == again.out
    assert records(shown["history"].out) == [row for row in rows if row["container-id"] == OLD]


def test_a_killed_daemon_leaves_a_head_and_a_notice(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    """After kill -9 the last event is not vouched for; the next start vouches for it."""
    assert daemon.allocate("c1").is_success
    sequence = daemon.client.get("/health").json()["sequence"]
    daemon.kill()
    journal = daemon.data_dir / "journal"
    head, said = head_of(journal, capsys)
    # Of one frame, which may hold several events, or of none if a mark was in time.
    left = sequence - int(head.partition(":")[0])
    assert left >= 0
    assert ("not known to be on disk yet" in said) == bool(left)
    assert f"{left} event" in said or not left

    daemon.start()
    assert verify.main(["--journal", str(journal), "--anchor", head]) == 0
    capsys.readouterr()
    again, said = head_of(journal, capsys)
    assert int(again.partition(":")[0]) >= sequence


@pytest.mark.parametrize("frames", range(4))
def test_the_last_frame_is_no_part_of_the_head(directory: Path, frames: int) -> None:
    """Not even a mark, whose digest a power cut takes back; of one alone, the header's is left."""
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
