"""The spool: a release that was kept is applied once, or not at all when it is too late."""

# expected == actual

from __future__ import annotations

import asyncio
import fcntl
import os
import posix
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coild import spool, spool_files
from coild.events import REQUESTED, AddressReleased
from coild.startup import apply_spool
from tests.daemon_kit import Daemon

SOON = 0.0
HOLDER = ("default", "web-0", "c1")
NAMES = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=300)


@pytest.fixture
def place(tmp_path: Path) -> str:
    """The directory of a spool that is not there yet."""
    return str(tmp_path / "deep" / "spool")


def keep(
    place: str, pod_namespace: str = "default", pod_name: str = "web-0", container_id: str = "c1"
) -> Path:
    """Keep a release; the entry's file."""
    spool.add(place, pod_namespace, pod_name, container_id, time.monotonic() + 5)
    return Path(place, spool.file_name(container_id))


def names_in(place: str) -> list[str]:
    """The files in the directory."""
    return [path.name for path in Path(place).iterdir()]


def holders(place: str) -> list[tuple[str, str, str]]:
    """What whoever applies the spool finds; nothing is applied."""
    return [(it.pod_namespace, it.pod_name, it.container_id) for it in spool.claims(place)]


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the calls that the spool makes from here on."""
    calls: list[str] = []

    def wrap(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*arguments: Any, **more: Any) -> Any:
            calls.append(name)
            return real(*arguments, **more)

        return call

    class Recorder:
        """As the module `posix`."""

        def __getattr__(self, name: str) -> Any:
            if name in {"write", "fsync", "link", "rename", "unlink"}:
                return wrap(name)
            return getattr(os, name)

    for module in (spool, spool_files):
        monkeypatch.setattr(module, "posix", Recorder())
    return calls


@given(namespace=NAMES, pod=NAMES, container=NAMES, other=NAMES)
def test_any_names_are_kept(namespace: str, pod: str, container: str, other: str) -> None:
    """An entry is found as it was left, and two container IDs never share one."""
    with tempfile.TemporaryDirectory() as place:
        keep(place, namespace, pod, container)
        keep(place, namespace, pod, other)
        expected = {(namespace, pod, container), (namespace, pod, other)}

        assert expected == set(holders(place))


def test_an_entry_is_durable_before_it_has_its_name(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written, flushed, named, and the name flushed; nothing else is left."""
    Path(place).mkdir(parents=True)
    calls = recorded(monkeypatch)
    path = keep(place)

    assert ["write", "fsync", "link", "unlink", "fsync"] == calls
    assert [path.name] == names_in(place)


def test_a_release_that_was_applied_is_gone_durably(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is removed and flushed before the lock is let go."""
    path = keep(place)
    claim = spool.claim(place, "c1", SOON)
    assert claim is not None
    calls = recorded(monkeypatch)
    claim.done()
    gone = not path.exists()
    claim.close()

    assert ["unlink", "fsync"] == calls
    assert gone
    assert spool.claim(place, "c1", SOON) is None


def test_what_was_not_applied_stays(place: str) -> None:
    """A claim that is let go of leaves the entry to the next."""
    keep(place)

    assert [HOLDER] == holders(place)
    assert [HOLDER] == holders(place)


def test_one_applies_an_entry_at_a_time(place: str) -> None:
    """Others step over it, or wait until it is let go of or their time is over."""
    keep(place)
    claim = spool.claim(place, "c1", SOON)
    assert claim is not None
    stepped_over = holders(place)
    with pytest.raises(spool.SpoolBusyError, match="c1: another process is applying it"):
        spool.claim(place, "c1", SOON)
    threading.Timer(0.1, claim.close).start()
    waited = spool.claim(place, "c1", time.monotonic() + 30)

    assert [] == stepped_over
    assert waited is not None
    waited.close()


def test_a_process_that_dies_lets_go(place: str) -> None:
    """Its entry is the next one's to apply."""
    keep(place)
    child = os.fork()
    if not child:
        spool.claim(place, "c1", SOON)
        os._exit(0)
    os.waitpid(child, 0)

    assert [HOLDER] == holders(place)


def test_an_entry_that_was_applied_meanwhile_is_none(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening and locking, another may have applied it: it is not applied again."""
    path = keep(place)
    real = fcntl.flock

    def late(fd: int, operation: int) -> None:
        path.unlink(missing_ok=True)
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", late)

    assert spool.claim(place, "c1", SOON) is None


def test_the_last_of_two_releases_counts(place: str) -> None:
    """The same again is one entry; that of another pod takes its place, but not under a lock."""
    keep(place)
    keep(place)
    once = holders(place)
    claim = spool.claim(place, "c1", SOON)
    assert claim is not None
    with pytest.raises(spool.SpoolBusyError):
        spool.add(place, "shop", "web-1", "c1", SOON)
    claim.close()
    keep(place, "shop", "web-1", "c1")

    assert [HOLDER] == once
    assert [("shop", "web-1", "c1")] == holders(place)
    assert 1 == len(names_in(place))


def test_an_altered_entry_is_set_aside(place: str) -> None:
    """Each byte changed, each length, and another entry's bytes: told, kept, never applied."""
    path = keep(place)
    content = path.read_bytes()
    other = keep(place, "default", "web-0", "c2")
    foreign = other.read_bytes()
    other.unlink()
    changed = [
        content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :] for i in range(len(content))
    ]
    for number, bad in enumerate([*changed, *(content[:i] for i in range(len(content))), foreign]):
        path.write_bytes(bad)
        told: list[str] = []
        found = list(spool.claims(place, told.append))

        assert [] == found, number
        assert [f"{path}.rejected"] == told
        assert bad == Path(told[0]).read_bytes()


@pytest.mark.parametrize("kind", ["directory", "link", "pipe"])
def test_what_is_no_file_is_set_aside(place: str, kind: str, tmp_path: Path) -> None:
    """Nothing is followed, waited for or read."""
    path = keep(place)
    path.rename(tmp_path / "elsewhere")
    if kind == "directory":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(tmp_path / "elsewhere")
    else:
        os.mkfifo(path)
    told: list[str] = []

    assert [] == list(spool.claims(place, told.append))
    assert [f"{path}.rejected"] == told


def test_what_a_writer_left_is_removed_in_time(place: str) -> None:
    """A temporary of long ago goes, one of now may be being written."""
    keep(place)
    old, new = Path(place, f"{spool_files.TEMPORARY}1"), Path(place, f"{spool_files.TEMPORARY}2")
    for path in (old, new):
        path.touch()
    os.utime(old, (0, 0))

    assert [HOLDER] == holders(place)
    assert not old.exists()
    assert new.exists()


def test_a_spool_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """The error has the directory and the reason."""
    (tmp_path / "file").touch()
    with pytest.raises(spool.SpoolError, match=r"the spool .*file/spool: Not a directory"):
        keep(str(tmp_path / "file" / "spool"))


def test_a_full_disk_leaves_no_half_entry(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that is cut short is an error, and nothing of it is left."""
    Path(place).mkdir(parents=True)
    monkeypatch.setattr(posix, "write", lambda fd, content: os.pwrite(fd, content[:5], 0))
    with pytest.raises(spool.SpoolError, match="No space left on device"):
        keep(place)

    assert [] == names_in(place)


def test_a_start_applies_the_spool_once(tmp_path: Path) -> None:
    """Each release is in the journal once, only of who holds it; what is damaged is told of."""
    place = str(tmp_path / "data" / "spool")
    with Daemon(tmp_path / "data") as daemon:
        for number in range(40):
            daemon.allocate(f"c{number}")
        daemon.kill()
        for number in range(30):
            keep(place, "default", "web-0", f"c{number}")
        keep(place, "shop", "web-1", "c35")
        keep(place, "default", "web-0", "c36").write_bytes(b"rot")
        daemon.start()
        left = names_in(place)
        daemon.kill()
        daemon.start()
        released = [e for _, e in daemon.events() if isinstance(e, AddressReleased)]

        assert {f"c{number}" for number in range(30, 40)} == set(daemon.status()["pods"])
        assert sorted(f"c{n}" for n in range(30)) == sorted(e.container_id for e in released)
        assert {REQUESTED} == {event.reason for event in released}
        assert ["c36.rejected"] == left
        assert "applied 31 releases of the spool" in daemon.log
        assert "is damaged, it was set aside" in daemon.log


def test_a_release_that_is_not_durable_stays_in_the_spool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entry is removed only after the journal has the release."""
    place = str(tmp_path / "spool")
    path = keep(place)
    seen: list[bool] = []

    class Slow:
        """As Service, which looks whether the entry is there when it is asked."""

        async def release(self, *_: str) -> str:
            await asyncio.sleep(0)
            seen.append(path.exists())
            return "10.64.0.0"

    class Silent:
        """As Notifier."""

        def starting(self, _: str) -> None:
            pass

    service: Any = Slow()
    notifier: Any = Silent()
    asyncio.run(apply_spool(Path(place), service, notifier))

    assert [True] == seen
    assert not path.exists()
