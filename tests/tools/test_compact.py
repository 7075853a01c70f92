"""coild-compact and POST /compact against the real daemon: nothing lost, nothing stopped."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from coild.rules.events import HistoryPruned, JournalCompacted, SegmentsIndexed, SnapshotTaken
from coild.upkeep.prune_orders import give_order, order_path
from journal import OsFileSystem, Policy
from journal.format.archive import decompress
from tests.kits.daemon.process import (
    TIMEOUT_SECONDS,
    Daemon,
    ended,
    environment,
    fold,
    status_of,
    wait_for,
)
from tests.kits.journal.damage import KINDS
from tests.kits.journal.history import write
from tests.kits.system.tool import run_here
from tests.kits.variants import lingering_upkeep
from tools.compact import main

PRUNED = ("pruned-through", "pruned-segments", "pruned-bytes")
SMALL = ("--segment-size=1MiB", "--reuse-after=0", "--compact-after=0")
#: Long names make long events, so that few fill a segment of the smallest size.
LONG = "n" * 250


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A coild whose segments are small, and compacted only when a test has it done."""
    with Daemon(tmp_path / "data", *SMALL) as running:
        yield running


def compact(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `coild-compact` until it ends."""
    return ended(
        [sys.executable, "-W", "error", "-m", "tools.compact", *arguments],
        env=environment(**variables),
    )


def compacted(*arguments: str) -> dict[str, Any]:
    """What a compaction that went well says of itself."""
    done = run_here(main, *arguments, "-o", "json")
    assert (0, "") == (done.returncode, done.stderr)
    last: dict[str, Any] = msgspec.json.decode(done.stdout.splitlines()[-1])
    return last


def churn(daemon: Daemon, count: int, tag: str = "c") -> None:
    """Allocate `count` addresses, and release four fifths of them."""
    for number in range(count):
        container_id = f"{tag}-{number}"
        assert 200 == daemon.allocate(container_id, LONG, LONG).status_code
        if number % 5:
            assert 200 == daemon.release(container_id, LONG, LONG).status_code


def live_segments(daemon: Daemon) -> list[str]:
    """The names of the segments that are not archived."""
    return sorted(path.name for path in (daemon.data_dir / "journal").glob("*.seg"))


def archived(daemon: Daemon) -> list[Path]:
    """The archived segments, oldest first."""
    return sorted((daemon.data_dir / "journal/archive").glob("*.seg.zst"))


def kinds(daemon: Daemon, kind: type) -> list[Any]:
    """The events of a kind in the whole journal."""
    return [event for _, event in daemon.events() if isinstance(event, kind)]


@contextmanager
def load(daemon: Daemon) -> Iterator[None]:
    """Allocate and release all the while, and fail if an answer is not what it should be."""
    stop = threading.Event()
    wrong: list[Any] = []

    def run(number: int) -> None:
        with daemon.new_client() as client:
            turn = 0
            while not stop.is_set():
                turn += 1
                name = f"load-{number}-{turn}"
                body = {"pod-namespace": "default", "pod-name": LONG, "container-id": name}
                answers = (
                    client.post("/ip", content=msgspec.json.encode(body)),
                    client.delete(f"/ip/default/{LONG}/{name}"),
                )
                wrong.extend(a.text for a in answers if a.status_code != 200)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(TIMEOUT_SECONDS)
    assert not wrong


def test_compacting_beside_a_daemon_keeps_every_event(daemon: Daemon) -> None:
    """The segments go to the archive, the state and all history stay, and a restart is the same."""
    churn(daemon, 300)
    before, events = daemon.status(), daemon.events()

    done = compacted("--data-dir", str(daemon.data_dir))

    assert 1 == done["segments"]
    assert len(events) == done["sequence"]
    assert fold(events).digest() == done["digest"]
    assert [f"{done['sequence'] + 1:020d}.seg"] == live_segments(daemon)
    assert events == daemon.events()[: len(events)]
    made, taken, moved = daemon.events()[len(events) :]
    assert isinstance(made[1], SegmentsIndexed)
    assert done["sequence"] >= max(made[1].indexes)
    assert isinstance(taken[1], SnapshotTaken)
    assert (done["sequence"], done["digest"]) == (taken[1].sequence, taken[1].digest.hex())
    assert isinstance(moved[1], JournalCompacted)
    daemon.kill()
    daemon.start()
    assert before == daemon.status()
    assert f"after snapshot {done['sequence']}" in daemon.log


def test_compacting_under_load_stops_nobody(daemon: Daemon) -> None:
    """Every request is answered while segments roll over and are archived, and no address twice."""
    with load(daemon):
        for _ in range(3):
            compacted("--data-dir", str(daemon.data_dir))

    state = fold(daemon.events())
    assert status_of(state) == daemon.status()
    assert 3 == len(kinds(daemon, SnapshotTaken))


def test_a_daemon_compacts_by_itself(tmp_path: Path) -> None:
    """When the journal has grown by --compact-after, it is compacted, roll-over or not."""
    with Daemon(tmp_path / "data", "--segment-size=1MiB", "--compact-after=256KiB") as daemon:
        churn(daemon, 250)

        wait_for(lambda: archived(daemon), "an archived segment")
        wait_for(lambda: "compacted: snapshot" in daemon.log, "its log line")
        assert status_of(fold(daemon.events())) == daemon.status()


def test_a_sealed_segment_gets_its_index(daemon: Daemon) -> None:
    """The index of a segment is written soon after the segment was sealed."""
    churn(daemon, 1000)

    wait_for(lambda: list((daemon.data_dir / "journal").glob("*.idx")), "the index of a segment")


class LingeringDaemon(Daemon):
    """A coild whose upkeep does not end at once."""

    module = lingering_upkeep.__name__


def test_a_stop_waits_for_the_upkeep_that_it_ends(tmp_path: Path) -> None:
    """A process that is still there when the event loop goes would turn a good end into a bad one.

    The journal is closed after it: nothing of the daemon is at work in there any more.
    """
    with LingeringDaemon(tmp_path / "data", *SMALL) as daemon:
        churn(daemon, 1000)
        wait_for(lambda: lingering_upkeep.AT_WORK in daemon.log, "the upkeep")

        assert 0 == daemon.stop()
        assert [lingering_upkeep.GONE, "stopped"] == re.findall(
            f"{lingering_upkeep.GONE}|stopped(?=, head )", daemon.log
        )


def test_two_compactions_at_once(daemon: Daemon) -> None:
    """One does it, the other is told with 409 that one is at work."""
    churn(daemon, 300)
    statuses: list[int] = []

    def ask() -> None:
        with daemon.new_client() as client:
            statuses.append(client.post("/compact").status_code)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert 200 in statuses
    assert {200, 409} >= set(statuses)
    # Who came after the first was done was told that there is nothing new.
    assert 1 == len(kinds(daemon, SnapshotTaken))


def test_compacting_without_a_daemon(daemon: Daemon) -> None:
    """With nobody at work the tool does all of it, and the next start finds the same state."""
    churn(daemon, 300)
    before = daemon.status()
    assert 0 == daemon.stop()

    done = compacted("--journal", str(daemon.data_dir / "journal"))
    again = compacted("--data-dir", str(daemon.data_dir))

    assert (done["sequence"], done["digest"]) == (again["sequence"], again["digest"])
    assert (False, True) == (done["nothing-new"], again["nothing-new"])
    daemon.start()
    assert before == daemon.status()
    assert 1 == len(kinds(daemon, SnapshotTaken))


@pytest.mark.parametrize("end", ["none", "kill"])
def test_a_compaction_with_nothing_new_writes_nothing(daemon: Daemon, end: str) -> None:
    """Asked for again and again, it leaves every file as it is and says so."""
    churn(daemon, 50)
    first = daemon.client.post("/compact").json()
    if end == "kill":
        daemon.kill()
        daemon.start()
        # A start is an event, and so it is new.
        first = daemon.client.post("/compact").json()
    snapshots = len(kinds(daemon, SnapshotTaken))
    files = contents(daemon)

    answers = [daemon.client.post("/compact").json() for _ in range(5)]

    assert not first["nothing-new"]
    assert all(each["nothing-new"] and not each["segments"] for each in answers)
    assert {first["digest"]} == {each["digest"] for each in answers}
    assert files == contents(daemon)
    daemon.allocate("another")
    assert not compacted("--data-dir", str(daemon.data_dir))["nothing-new"]
    assert snapshots + 1 == len(kinds(daemon, SnapshotTaken))


def test_a_snapshot_that_is_damaged_is_taken_again(daemon: Daemon) -> None:
    """What is there counts only if it is whole: else a compaction writes, events or not."""
    churn(daemon, 50)
    daemon.client.post("/compact")
    (snapshot,) = (daemon.data_dir / "journal").glob("*.snap")
    data = bytearray(snapshot.read_bytes())
    data[-1] ^= 1
    snapshot.write_bytes(data)

    assert not compacted("--data-dir", str(daemon.data_dir))["nothing-new"]


def test_others_have_it_compacted_once_a_minute(daemon: Daemon) -> None:
    """Whoever only reaches the API cannot have one snapshot after the other written."""
    churn(daemon, 50)
    first = daemon.client.post("/compact")
    daemon.allocate("another")
    before = contents(daemon)
    refused = daemon.client.post("/compact")
    after = contents(daemon)
    ordered = compact("--data-dir", str(daemon.data_dir))

    assert (200, 429) == (first.status_code, refused.status_code)
    assert 0 < int(refused.headers["retry-after"]) <= 60
    assert "coild-compact" in refused.json()["error"]
    assert before == after
    assert 0 == ordered.returncode
    assert 2 == len(kinds(daemon, SnapshotTaken))


def contents(daemon: Daemon) -> dict[Path, tuple[int, int, int]]:
    """All files of the journal: which file it is, when it was last changed, and its size."""
    return {
        path: (found.st_ino, found.st_mtime_ns, found.st_size)
        for path in (daemon.data_dir / "journal").rglob("*.s*")
        for found in [path.stat()]
    }


def test_progress_as_json_lines(daemon: Daemon, tmp_path: Path) -> None:
    """A script sees each step, and the result in the last line."""
    churn(daemon, 50)
    daemon.stop()

    done = compact("--data-dir", str(tmp_path / "data"), "-o", "json")

    *steps, last = map(msgspec.json.decode, done.stdout.splitlines())
    assert ["snapshot", "archiving"] == [step["step"] for step in steps]
    assert 1 == last["segments"]


@pytest.mark.parametrize("victim", ["daemon", "worker"])
def test_a_compaction_that_is_killed_is_finished_by_the_next(daemon: Daemon, victim: str) -> None:
    """Kill the daemon or the process that does the work: the journal opens, and nothing is lost."""
    churn(daemon, 400)
    before = daemon.status()
    asking = subprocess.Popen(
        [sys.executable, "-m", "tools.compact", "--data-dir", str(daemon.data_dir)],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: workers_of(daemon), "the worker")
    worker = workers_of(daemon)[0]
    os.kill(worker, signal.SIGKILL)
    if victim == "daemon":
        daemon.kill()
    _, error = asking.communicate(timeout=TIMEOUT_SECONDS)

    assert 1 == asking.returncode
    assert error.startswith("coild-compact: ")
    assert "Traceback" not in error
    if victim == "daemon":
        daemon.start()
    assert before == daemon.status()
    compacted("--data-dir", str(daemon.data_dir))
    assert 1 == len(live_segments(daemon))
    assert not list((daemon.data_dir / "journal").rglob("*.seg.zst.tmp"))
    assert before == daemon.status()


def workers_of(daemon: Daemon) -> list[int]:
    """The process ids of the daemon's own processes."""
    task = Path(f"/proc/{daemon.process.pid}/task")
    found: list[int] = []
    for children in task.glob("*/children"):
        found += map(int, children.read_text().split())
    return found


def test_history_is_lost_only_by_order_and_on_record(daemon: Daemon) -> None:
    """--delete removes the archive; the journal says so, and the state is what it was."""
    churn(daemon, 300)
    before = daemon.status()
    compacted("--data-dir", str(daemon.data_dir))
    kept = archived(daemon)

    done = compacted("--data-dir", str(daemon.data_dir), "--delete")

    assert kept
    assert not archived(daemon)
    assert len(kept) == done["pruned-segments"]
    found = [event for _, event in daemon.events(start=None) if isinstance(event, HistoryPruned)]
    assert [(done["pruned-through"], "--delete")] == [
        (event.through, event.policy) for event in found
    ]
    assert not list((daemon.data_dir / "journal").glob("*.order"))
    daemon.kill()
    daemon.start()
    assert before == daemon.status()


def test_what_is_young_or_small_enough_is_kept(daemon: Daemon) -> None:
    """Bounds that nothing exceeds remove nothing, and nothing is recorded."""
    churn(daemon, 50)

    done = compacted(
        "--data-dir", str(daemon.data_dir), "--keep-archive", "90d", "--keep-size", "2G"
    )

    assert 0 == done["pruned-segments"]
    assert 1 == len(archived(daemon))
    assert not kinds(daemon, HistoryPruned)


def test_an_order_over_http_is_no_order(daemon: Daemon) -> None:
    """Whoever reaches the API can have the journal compacted, never history removed."""
    churn(daemon, 50)

    body = msgspec.json.encode(Policy(delete=True))
    refused = daemon.client.post("/compact", content=body)
    answer = daemon.client.post("/compact")

    assert 400 == refused.status_code
    assert 0 == answer.json()["pruned-segments"]
    assert 1 == len(archived(daemon))


@pytest.mark.parametrize(
    "text",
    ["", "null", "{}", '{"delte": true}', '{"keep_age": -1}', '{"keep_bytes": -5}', '{"x":' * 9999],
)
def test_what_is_no_order_removes_nothing(daemon: Daemon, text: str) -> None:
    """A file that does not say what to keep is refused with 400."""
    daemon.allocate("c")
    token = "0" * 32
    order_path(daemon.data_dir / "journal", token).write_text(text)

    answer = daemon.client.post("/compact", json={"order": token})

    assert 400 == answer.status_code
    assert "order" in answer.json()["error"]
    assert not archived(daemon)


@pytest.mark.parametrize("token", ["f" * 32, "../http", "x"])
def test_an_order_that_is_not_there(daemon: Daemon, token: str) -> None:
    """Only a file beside the segments is an order, and only by its token."""
    assert 400 == daemon.client.post("/compact", json={"order": token}).status_code


def test_a_pipe_in_place_of_an_order_holds_up_nothing(daemon: Daemon) -> None:
    """The daemon refuses it, and goes on."""
    token = "1" * 32
    os.mkfifo(order_path(daemon.data_dir / "journal", token))

    assert 400 == daemon.client.post("/compact", json={"order": token}).status_code
    assert 0 == daemon.stop()


def test_an_order_that_was_not_taken_is_not_carried_out_later(daemon: Daemon) -> None:
    """Left by a tool that was killed, it waits in vain: a compaction takes only what it names."""
    give_order(daemon.data_dir / "journal", Policy(delete=True))
    daemon.allocate("c")

    done = compacted("--data-dir", str(daemon.data_dir))

    assert 0 == done["pruned-segments"]
    assert 1 == len(archived(daemon))


def test_root_gives_away_only_what_it_made(tmp_path: Path) -> None:
    """A link in place of a file of the journal is not followed: its target may be anybody's."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "link").symlink_to(victim)
    fs = OsFileSystem()

    with pytest.raises(OSError, match="symbolic links"):
        fs.open(tmp_path / "link", write=True, create=True)
    fs.close(fs.create(tmp_path / "link"))

    assert "mine" == victim.read_text()
    assert not (tmp_path / "link").is_symlink()


def test_a_dry_run_changes_nothing(daemon: Daemon) -> None:
    """It says what would be archived and what would go, and every file stays what it is."""
    churn(daemon, 300)
    daemon.stop()
    directory = daemon.data_dir / "journal"
    before = {path: path.read_bytes() for path in directory.iterdir() if path.is_file()}

    done = compacted("--data-dir", str(daemon.data_dir), "--dry-run", "--delete")

    assert 1 == done["segments"]
    assert 0 < done["archive-bytes"] < done["segment-bytes"]
    assert before == {p: p.read_bytes() for p in directory.iterdir() if p.is_file()}


def test_a_dry_run_over_http_is_that_of_the_tool(daemon: Daemon) -> None:
    """Both say the same, as often as one likes, and write nothing; then it is done just so."""
    where = ("--data-dir", str(daemon.data_dir))
    churn(daemon, 20)
    compacted(*where)
    churn(daemon, 20, "d")
    said = {}
    for before in ("something new", "nothing new"):
        # A mark is written meanwhile, so the time does not count.
        files = {path: (file, size) for path, (file, _, size) in contents(daemon).items()}
        answers = [
            *(daemon.client.post("/compact", json={"dry-run": True}).json() for _ in range(3)),
            compacted(*where, "--dry-run") | {"status": 200},
        ]
        said[before] = answers[0]
        for answer in answers:
            # With the mark, the estimate is another one.
            answer["archive-bytes"] = bool(answer["archive-bytes"])

        assert [said[before]] * 4 == answers
        now = {path: (file, size) for path, (file, _, size) in contents(daemon).items()}
        assert files == now
        done = daemon.client.post("/compact").json()

        for key in ("segments", "segment-bytes", "nothing-new"):
            assert done[key] == said[before][key]

    assert not said["something new"]["nothing-new"]
    assert 1 == said["something new"]["segments"]
    assert said["nothing new"]["nothing-new"]
    assert not said["nothing new"]["segments"]


def test_a_dry_run_over_http_uses_no_order_up(daemon: Daemon) -> None:
    """Both in one request are 400, and the order is there still."""
    daemon.allocate("c")
    order = {"order": give_order(daemon.data_dir / "journal", Policy(delete=True))}
    refused = daemon.client.post("/compact", json=order | {"dry-run": True})
    taken = daemon.client.post("/compact", json=order | {"dry-run": False})

    assert 400 == refused.status_code
    assert "coild-compact --dry-run" in refused.json()["error"]
    assert 200 == taken.status_code
    assert taken.json()["pruned-segments"]


@pytest.mark.parametrize(
    "policy",
    [("--delete",), ("--keep-size", "3KiB"), ("--keep-size", "6KiB"), ("--keep-archive", "0s")],
)
@pytest.mark.parametrize("make", KINDS)
def test_a_dry_run_says_what_a_run_does(
    tmp_path: Path, make: Callable[[Path], None], policy: tuple[str, ...]
) -> None:
    """What it would prune is what is archived and what it would archive first, and no other."""
    make(tmp_path / "journal")
    arguments = ("--journal", str(tmp_path / "journal"), *policy)
    said, done, said_again, done_again = (
        msgspec.json.decode(run_here(main, *arguments, "-o", "json", *dry).stdout.splitlines()[-1])
        for dry in (["--dry-run"], [], ["--dry-run"], [])
    )

    keys = [*("segments", "segment-bytes", "nothing-new"), *PRUNED]
    assert [said[key] for key in keys] == [done[key] for key in keys]
    assert [said_again[key] for key in keys] == [done_again[key] for key in keys]
    assert done_again["nothing-new"]


@pytest.mark.parametrize("options", [(), ("--delete",), ("--dry-run",)])
def test_a_journal_without_events_has_nothing_to_compact(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    """That is no failure, and leaves nothing behind."""
    write(tmp_path / "journal", [])
    done = compact("--journal", str(tmp_path / "journal"), *options)

    assert (0, "") == (done.returncode, done.stderr)
    assert "nothing to compact" in done.stdout or "0 segments would be" in done.stdout
    assert [] == list((tmp_path / "journal").glob("*.snap"))


def test_an_archive_file_is_the_segment_itself(daemon: Daemon) -> None:
    """Decompressed, it has the bytes that the segment had."""
    churn(daemon, 50)
    daemon.stop()
    (segment,) = (daemon.data_dir / "journal").glob("*.seg")
    frames = segment.read_bytes().rstrip(b"\0")

    compacted("--data-dir", str(daemon.data_dir))

    (copy,) = archived(daemon)
    assert decompress(copy.read_bytes()).startswith(frames)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--keep-archive", "soon"), "write it like 30s"),
        (("--keep-size", "lots"), "write it like 16MiB"),
        (("--data-dir", "a", "--journal", "b"), "not allowed with"),
        (("--delete", "--keep-size", "1G"), "--delete keeps nothing"),
        (("--delete", "--keep-archive", "1d"), "--delete keeps nothing"),
        (("--what",), "unrecognized arguments: --what"),
    ],
)
def test_a_wrong_flag_is_one_line(arguments: tuple[str, ...], words: str) -> None:
    """Exit 2, and a line that says what is wrong."""
    done = compact(*arguments)

    assert (2, "") == (done.returncode, done.stdout)
    assert words in done.stderr
    assert 1 == len(done.stderr.splitlines())


def test_no_journal_is_one_line(tmp_path: Path) -> None:
    """Exit 1, and a line that says where none is and how to name another."""
    done = compact("--data-dir", str(tmp_path))

    assert 1 == done.returncode
    assert f"cannot read the journal in {tmp_path}/journal" in done.stderr
    assert "--data-dir DIR or --journal DIR" in done.stderr


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_a_journal_without_its_segments_is_one_line(
    daemon: Daemon, tmp_path: Path, dry: tuple[str, ...]
) -> None:
    """A snapshot alone is no journal: the tool says what is missing, without a traceback."""
    daemon.allocate("c")
    compacted("--data-dir", str(daemon.data_dir))
    daemon.stop()
    for path in (tmp_path / "data/journal").glob("*.seg"):
        path.unlink()

    done = compact("--data-dir", str(tmp_path / "data"), *dry)

    assert "Traceback" not in done.stderr
    assert done.returncode == (0 if dry else 1)
    assert dry or "is missing: the events after it are nowhere" in done.stderr
