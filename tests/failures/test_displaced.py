"""What is done to the files of a running daemon: it answers no change any more, and says why."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.kits.daemon.process import TIMEOUT_SECONDS, Daemon, fold, run, status_of

Act = Callable[[Path, Path], object]


def segment_of(data_dir: Path) -> Path:
    """The segment that is being written."""
    return max((data_dir / "journal").glob("*.seg"))


def replace(path: Path) -> None:
    """Put a copy in the place of a file, with the same bytes."""
    copy = path.with_name("copy")
    shutil.copy2(path, copy)
    copy.rename(path)


def untar_over(data_dir: Path, _backup: Path) -> None:
    """Unpack its own present backup over it."""
    archive = data_dir.with_name("b.tar")
    subprocess.run(["tar", "-C", str(data_dir), "-cf", str(archive), "."], check=True)
    subprocess.run(["tar", "-C", str(data_dir), "-xf", str(archive)], check=True)


def truncate(data_dir: Path, _backup: Path) -> None:
    """Cut the segment in place."""
    with segment_of(data_dir).open("r+b") as file:
        file.truncate(4096)


def replace_directory(data_dir: Path, backup: Path) -> None:
    """Put an older copy where the journal was."""
    (data_dir / "journal").rename(data_dir / "journal.old")
    shutil.copytree(backup / "journal", data_dir / "journal")


ACTS: dict[str, Act] = {
    "LOCK removed": lambda data, _: (data / "journal/LOCK").unlink(),
    "LOCK moved": lambda data, _: (data / "journal/LOCK").rename(data / "journal/L"),
    "LOCK replaced": lambda data, _: replace(data / "journal/LOCK"),
    "segment removed": lambda data, _: segment_of(data).unlink(),
    "segment moved": lambda data, _: segment_of(data).rename(data / "s"),
    "segment replaced": lambda data, _: replace(segment_of(data)),
    "segment cut": truncate,
    "older segment in place": lambda data, backup: shutil.copyfile(
        segment_of(backup), segment_of(data)
    ),
    "older copy over it in place": lambda data, backup: shutil.copytree(
        backup, data, dirs_exist_ok=True
    ),
    "journal removed": lambda data, _: shutil.rmtree(data / "journal"),
    "journal moved": lambda data, _: (data / "journal").rename(data / "j"),
    "journal replaced by an older copy": replace_directory,
    "data directory removed": lambda data, _: shutil.rmtree(data),
    "data directory moved": lambda data, _: data.rename(data.with_name("e")),
    "unpacked over": untar_over,
}


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon with one address that is in the backup, and one that is not."""
    with Daemon(tmp_path / "d") as made:
        assert made.allocate("before").is_success
        shutil.copytree(made.data_dir, tmp_path / "backup")
        assert made.allocate("since").is_success
        yield made


@pytest.mark.parametrize("act", ACTS)
def test_a_change_after_it_is_not_answered_with_success(daemon: Daemon, act: str) -> None:
    """The first change after the act is refused with 500 that says what is where, then exit 1."""
    ACTS[act](daemon.data_dir, daemon.data_dir.with_name("backup"))
    try:
        answer = daemon.allocate("after")
    except httpx.TransportError:
        pass  # the look of an idle daemon came first
    else:
        assert 500 == answer.status_code
        for text in (str(daemon.data_dir), "is not what this process has open", "start again"):
            assert text in answer.json()["error"]
    assert 1 == daemon.process.wait(TIMEOUT_SECONDS)
    assert "the journal is not where it was" in daemon.log
    assert f"coild-verify --journal {daemon.data_dir}/journal" in daemon.log
    assert "Traceback" not in daemon.log


@pytest.mark.parametrize("act", ["LOCK removed", "older segment in place", "data directory moved"])
def test_an_idle_daemon_notices(daemon: Daemon, act: str) -> None:
    """A daemon that nobody asks anything ends by itself."""
    ACTS[act](daemon.data_dir, daemon.data_dir.with_name("backup"))

    assert 1 == daemon.process.wait(TIMEOUT_SECONDS)


def test_what_was_answered_under_load_is_there_after_the_lock_was_removed(tmp_path: Path) -> None:
    """With LOCK removed under load, the next start has all that was answered."""
    answered: list[str] = []
    with Daemon(tmp_path / "d") as daemon:
        under_way = threading.Event()

        def load() -> None:
            with daemon.new_client() as client:
                for number in range(100_000):
                    body = {"pod-namespace": "n", "pod-name": "p", "container-id": f"c{number}"}
                    try:
                        if client.post("/ip", json=body).is_success:
                            answered.append(f"c{number}")
                    except httpx.TransportError:
                        return
                    if number == 50:
                        under_way.set()

        thread = threading.Thread(target=load)
        thread.start()
        assert under_way.wait(TIMEOUT_SECONDS)
        (daemon.data_dir / "journal" / "LOCK").unlink()
        thread.join()
        status = daemon.process.wait(TIMEOUT_SECONDS)
        daemon.client.close()
        daemon.start()
        pods = daemon.status()["pods"]

        assert 1 == status
        assert set(answered) <= set(pods)
        assert status_of(fold(daemon.events())) == daemon.status()


@pytest.mark.parametrize("act", ["removed", "replaced"])
def test_the_lock_s_file_lets_nobody_in(tmp_path: Path, act: str) -> None:
    """A second daemon on another port is refused while the first lives, whatever became of LOCK."""
    with Daemon(tmp_path / "d") as daemon:
        # It cannot look while it is stopped, so only the directory's own lock refuses the second.
        subprocess.run(["kill", "-STOP", str(daemon.process.pid)], check=True)
        ACTS[f"LOCK {act}"](daemon.data_dir, daemon.data_dir)
        before = {p.name: p.read_bytes() for p in (daemon.data_dir / "journal").iterdir()}
        second = run("--data-dir", str(daemon.data_dir), "--http", "127.0.0.1:0")
        after = {p.name: p.read_bytes() for p in (daemon.data_dir / "journal").iterdir()}
        subprocess.run(["kill", "-CONT", str(daemon.process.pid)], check=True)

        assert (1, True) == (second.returncode, "is in use by" in second.stderr)
        assert before == after


def test_a_copy_of_hard_links_lets_nobody_in(tmp_path: Path) -> None:
    """A copy made by `cp -al` has the same segment: its writer would write over this one's."""
    with Daemon(tmp_path / "d", "--segment-size=1MiB") as daemon:
        daemon.allocate("before")
        # The next segment is locked as the first is.
        assert daemon.client.post("/compact").is_success
        daemon.allocate("c1")
        subprocess.run(["cp", "-al", str(daemon.data_dir), str(tmp_path / "e")], check=True)
        (tmp_path / "e/journal/LOCK").unlink()
        second = run("--data-dir", str(tmp_path / "e"), "--http", "127.0.0.1:0")
        after = daemon.allocate("c2")
        daemon.kill()
        daemon.start()

        assert 1 == second.returncode
        assert "under another name: a hard link" in second.stderr
        assert after.is_success
        assert {"before", "c1", "c2"} == set(daemon.status()["pods"])


def test_a_start_without_its_address_writes_nothing(tmp_path: Path) -> None:
    """A start whose port is taken makes no directory, and changes nothing in one that is there."""
    with Daemon(tmp_path / "d") as daemon:
        address = daemon.address
        other = Daemon(tmp_path / "e")
        other.allocate("c")
        other.kill()
        before = {path: path.read_bytes() for path in (tmp_path / "e/journal").iterdir()}
        refused = [
            run("--data-dir", str(tmp_path / name), "--http", address) for name in ("e", "new/d")
        ]

        assert all(found.returncode for found in refused)
        assert "is taken by another process" in refused[0].stderr
        assert before == {path: path.read_bytes() for path in (tmp_path / "e/journal").iterdir()}
        assert not (tmp_path / "new").exists()


def test_a_start_without_its_address_leaves_no_directory_of_its_socket(tmp_path: Path) -> None:
    """A socket inside the data directory needs it; a start that fails takes it away again."""
    with Daemon(tmp_path / "d") as daemon:
        data = tmp_path / "new" / "d"
        found = run(
            "--data-dir", str(data), "--socket", str(data / "sock"), "--http", daemon.address
        )

        assert found.returncode
        assert not (tmp_path / "new").exists()


def test_the_address_file_follows_no_link(tmp_path: Path) -> None:
    """A link where the address file is made leads to no other file."""
    data, precious = tmp_path / "d", tmp_path / "precious"
    data.mkdir()
    precious.write_text("precious")
    (data / "http.tmp").symlink_to(precious)
    with Daemon(data) as daemon:
        assert daemon.address == (data / "http").read_text().strip()
    assert "precious" == precious.read_text()


def test_a_lock_that_is_another_file_as_well_is_not_written_to(tmp_path: Path) -> None:
    """A hard link to a file of somebody's own, made as LOCK, gives way to a file of coild's."""
    data, precious = tmp_path / "d", tmp_path / "precious"
    lock = data / "journal/LOCK"
    lock.parent.mkdir(parents=True)
    precious.write_text("precious")
    lock.hardlink_to(precious)
    with Daemon(data) as daemon:
        second = run("--data-dir", str(data), "--http", "127.0.0.1:0")

        assert "precious" == precious.read_text()
        assert f"{daemon.process.pid}\n" == lock.read_text().replace(" ", "")
        assert (1, True) == (second.returncode, "is in use by" in second.stderr)
        assert daemon.allocate("c1").is_success
