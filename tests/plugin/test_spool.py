"""The spool alone: what an entry is, that it is durable, and that one at a time has it."""

from __future__ import annotations

import fcntl
import os
import resource
import tempfile
import threading
from pathlib import Path
from time import monotonic, time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coild.spool import files as spool_files
from coild.spool import releases as spool
from coild.spool.files import TEMPORARY
from tests.kits.plugin.spool import Calls, files, held_elsewhere, holder_of, kept, soon

#: Any that coild takes, and then some: no control characters, no surrogates.
IDS = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=256)
ODD_IDS = st.sampled_from(
    ["/", "..", ".", "%", "%2F", "a/b", "a%2Fb", ".tmp-1", "x.rejected", "é" * 256, "x" * 256]
)
NAMES = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=253)
WEB = ("shop", "web-0", "c1")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where the spool will be."""
    return tmp_path / "spool"


def add(directory: Path, holder: tuple[str, str, str] = WEB, deadline: float = 0.0) -> None:
    """Keep a release."""
    spool.add(str(directory), *holder, deadline)


def claim(directory: Path, container_id: str = "c1", deadline: float = 0.0) -> spool.Claim:
    """The entry, which there is."""
    found = spool.claim(str(directory), container_id, deadline)
    assert found is not None
    return found


@given(NAMES, NAMES, IDS | ODD_IDS)
def test_an_entry_says_what_was_kept(namespace: str, pod: str, container_id: str) -> None:
    """Whatever the names are, they are read as they were written, from one file of the spool."""
    with tempfile.TemporaryDirectory() as parent:
        directory = Path(parent) / "spool"
        add(directory, (namespace, pod, container_id))
        entry = claim(directory, container_id)
        entry.close()

        assert (namespace, pod, container_id) == holder_of(entry)
        assert [spool.file_name(container_id)] == files(directory) == spool.names(str(directory))
        assert ["spool"] == files(Path(parent))


@given(IDS | ODD_IDS, IDS | ODD_IDS)
def test_two_containers_never_share_a_file(one: str, two: str) -> None:
    """The name is short enough, plain ASCII, no temporary's, and one container ID's."""
    name = spool.file_name(one)

    assert (one == two) == (name == spool.file_name(two))
    assert name.isascii()
    assert len(name + spool.REJECTED) <= 255
    assert not {"/", ".", "\0"} & set(name)


@pytest.mark.parametrize("length", [199, 200, 201, 256])
def test_long_ids_that_differ_at_the_end(length: int) -> None:
    """Where the name is cut, a digest of the whole ID tells them apart."""
    names = {spool.file_name("x" * (length - 1) + last) for last in "ab/%é"}

    assert 5 == len(names)


def test_all_is_the_owners_alone(tmp_path: Path) -> None:
    """Directories that are made have the mode 0700, entries 0600."""
    directory = tmp_path / "lib" / "coild" / "spool"
    add(directory)
    paths = [directory / "c1", directory, directory.parent, directory.parent.parent]

    assert [0o600, 0o700, 0o700, 0o700] == [path.stat().st_mode & 0o777 for path in paths]


def test_an_entry_is_durable_before_it_has_its_name(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written aside, flushed, linked, and then the directory is flushed; so is a new directory."""
    calls = Calls(monkeypatch)
    add(directory)

    assert [
        ("mkdir", "spool"),
        ("fsync", directory.parent.name),
        ("write", TEMPORARY),
        ("fsync", TEMPORARY),
        ("link", TEMPORARY, "c1"),
        ("unlink", TEMPORARY),
        ("fsync", "spool"),
    ] == calls.made


def test_another_holders_entry_is_replaced_at_once(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new one is flushed before it has the old one's name, and the directory after."""
    add(directory)
    calls = Calls(monkeypatch)
    add(directory, ("shop", "web-1", "c1"))

    assert [
        ("mkdir", "spool"),
        ("write", TEMPORARY),
        ("fsync", TEMPORARY),
        ("link", TEMPORARY, "c1"),
        ("rename", TEMPORARY, "c1"),
        ("unlink", TEMPORARY),
        ("fsync", "spool"),
    ] == calls.made
    assert [("shop", "web-1", "c1")] == kept(directory)


def test_a_release_that_is_done_is_gone_from_the_disk(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On return, a power cut does not bring the entry back, and it was locked until then."""
    add(directory)
    entry = claim(directory)
    calls = Calls(monkeypatch)
    entry.applied([])
    entry.close()

    assert [("unlink", "c1"), ("fsync", "spool")] == calls.made
    assert [] == files(directory)
    assert spool.claim(str(directory), "c1", 0.0) is None


def test_an_entry_that_is_set_aside_stays_aside(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its new name is durable on return, and nobody is given it again."""
    add(directory)
    entry = claim(directory)
    calls = Calls(monkeypatch)
    path = entry.reject()
    entry.close()

    assert [("rename", "c1", "c1.rejected"), ("fsync", "spool")] == calls.made
    assert path == f"{directory}/c1.rejected"
    assert [] == kept(directory)
    assert spool.claim(str(directory), "c1", 0.0) is None


@pytest.mark.parametrize("other", [(), ("shop", "web-9", "c1")])
@pytest.mark.parametrize("number", range(7))
def test_a_disk_that_fails_at_any_call(
    directory: Path, monkeypatch: pytest.MonkeyPatch, number: int, other: tuple[str, ...]
) -> None:
    """The error says where and why; there is the old entry or the new one, or none, but whole."""
    before = [("shop", "web-9", "c1")] if other else []
    for holder in before:
        add(directory, holder)
    with monkeypatch.context() as patch:
        calls = Calls(patch, number)
        try:
            add(directory)
        except spool.SpoolError as error:
            assert f"the spool {directory}: Input/output error" == str(error)  # noqa: PT017 - one call may fail unseen
        else:
            # A temporary that cannot be removed is removed when it is old.
            assert "unlink" == calls.made[number][0]
    left = files(directory)

    assert number < len(calls.made)
    assert calls.made[number][0] == "unlink" or not [x for x in left if x.startswith(TEMPORARY)]
    assert kept(directory) in ([WEB], before)


def test_a_disk_that_writes_half(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short write is a full disk, and leaves nothing."""
    calls = Calls(monkeypatch)
    monkeypatch.setattr(calls, "write", lambda fd, data: os.write(fd, data[:10]), raising=False)
    with pytest.raises(spool.SpoolError, match="No space left on device"):
        add(directory)

    assert [] == files(directory)


@pytest.mark.parametrize("is_held", [False, True])
def test_the_same_release_twice_is_one_entry(directory: Path, *, is_held: bool) -> None:
    """It neither waits for who holds the entry nor touches it: that one releases just this."""
    add(directory)
    inode = (directory / "c1").stat().st_ino
    entry = claim(directory) if is_held else None
    add(directory)
    if entry is not None:
        entry.close()

    assert inode == (directory / "c1").stat().st_ino
    assert [WEB] == kept(directory)


def test_an_entry_that_is_held_is_not_replaced(directory: Path) -> None:
    """Another holder's release waits, and is refused as busy when its time is over."""
    add(directory)
    entry = claim(directory)
    with pytest.raises(spool.SpoolBusyError, match=f"{directory}/c1: another process"):
        add(directory, ("shop", "web-1", "c1"), monotonic() + 0.05)
    entry.close()

    assert [WEB] == kept(directory)
    assert ["c1"] == files(directory)


def test_an_entry_is_replaced_once_it_is_free(directory: Path) -> None:
    """Who waits for the lock finds it done, and keeps the new release under the name."""
    add(directory)
    entry = claim(directory)
    other = ("shop", "web-1", "c1")
    thread = threading.Thread(target=add, args=(directory, other, soon()))
    thread.start()
    entry.applied([])
    entry.close()
    thread.join()

    assert [other] == kept(directory)


def test_one_at_a_time_has_an_entry(directory: Path) -> None:
    """Who comes second is told that it is busy, or skips it, and gets it when it is let go."""
    add(directory)
    add(directory, ("shop", "web-0", "c2"))
    first = claim(directory)
    with pytest.raises(spool.SpoolBusyError):
        claim(directory)
    others = kept(directory)
    first.close()

    assert [("shop", "web-0", "c2")] == others
    assert [WEB, ("shop", "web-0", "c2")] == kept(directory)


def test_an_entry_is_waited_for_until_the_deadline(directory: Path) -> None:
    """And no longer, and no shorter."""
    add(directory)
    entry = claim(directory)
    started = monotonic()
    with pytest.raises(spool.SpoolBusyError):
        claim(directory, deadline=started + 0.2)
    waited = monotonic() - started
    entry.close()

    assert 0.2 <= waited < 5


def test_who_waits_gets_what_was_not_done(directory: Path) -> None:
    """Another process that lets go leaves the entry, whole, to who has been waiting for it."""
    add(directory)
    with held_elsewhere(directory, "c1") as process:
        assert process.stdin is not None
        timer = threading.Timer(0.1, process.stdin.close)
        timer.start()
        entry = claim(directory, deadline=soon())
        entry.close()
        timer.join()

    assert WEB == holder_of(entry)


def test_a_process_that_dies_lets_go(directory: Path) -> None:
    """A kill frees the entry, which stays for the next."""
    add(directory)
    with held_elsewhere(directory, "c1") as process:
        with pytest.raises(spool.SpoolBusyError):
            claim(directory)
        process.kill()
        process.wait()
        entry = claim(directory)
        entry.close()

    assert WEB == holder_of(entry)


def test_claims_hold_one_at_a_time(directory: Path) -> None:
    """Each is locked while it is looked at and free after, also when nobody wants the rest."""
    holders = [("shop", "web-0", f"c{number}") for number in range(3)]
    for holder in holders:
        add(directory, holder)
    every = spool.claims(str(directory))
    first = next(every)
    busy = [holder for holder in holders if holder not in kept(directory)]
    every.close()  # type: ignore[attr-defined] # a generator

    assert [holder_of(first)] == busy
    assert holders == kept(directory)


def meanwhile(monkeypatch: pytest.MonkeyPatch, directory: Path, now: bytes | None) -> None:
    """Between the next opening and locking of c1, it becomes this, or is gone."""
    real = fcntl.flock
    path = directory / "c1"

    def flock(fd: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", real)
        path.unlink()
        if now is not None:
            path.write_bytes(now)
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock)


def test_batches_hold_all_that_is_in_them(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each entry comes once, locked until the next batch; those done go with one flush."""
    for number in range(7):
        add(directory, ("shop", "web-0", f"c{number}"))
    sizes, seen = [], set[str]()
    calls = Calls(monkeypatch)
    for entries in spool.batches(str(directory), 3):
        sizes.append(len(entries))
        for entry in entries:
            with pytest.raises(spool.SpoolBusyError):
                spool.claim(str(directory), entry.container_id, 0.0)
        # The last one of each batch stays.
        spool.done(entries[:-1])
        seen |= {entry.container_id for entry in entries}
    spool.done([])

    assert [3, 3, 1] == sizes
    assert {f"c{number}" for number in range(7)} == seen
    assert 3 == len(kept(directory))
    assert 2 == sum(call[0] == "fsync" for call in calls.made)


def test_batches_are_as_large_as_open_files_allow(directory: Path) -> None:
    """Where fewer files may be open, each entry comes all the same."""
    for number in range(60):
        add(directory, ("shop", "web-0", f"c{number}"))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 20, limits[1]))
    try:
        for entries in spool.batches(str(directory), 100):
            spool.done(entries)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    assert [] == files(directory)


def test_entries_that_somebody_else_removed_are_done(directory: Path) -> None:
    """Those beside them are removed as well."""
    for number in range(3):
        add(directory, ("shop", "web-0", f"c{number}"))
    for entries in spool.batches(str(directory), 3):
        (directory / "c1").unlink()
        spool.done(entries)

    assert [] == files(directory)


def test_a_name_that_is_no_text_is_no_entry(directory: Path) -> None:
    """It is set aside as any file that was not written here."""
    add(directory)
    odd = os.fsencode(directory) + b"/c1\xff"
    Path(os.fsdecode(odd)).write_bytes((directory / "c1").read_bytes())
    rejected: list[str] = []

    assert ["c1"] == [entry.container_id for entry in spool.claims(str(directory), rejected.append)]
    assert [os.fsdecode(odd) + spool.REJECTED] == rejected


def test_what_a_file_system_keeps_at_its_root_is_no_entry(directory: Path) -> None:
    """A spool that is a file system of its own has a lost+found, which stays as it is."""
    add(directory)
    (directory / "lost+found").mkdir()

    assert [WEB] == kept(directory)
    assert ["c1", "lost+found"] == files(directory)


@pytest.mark.parametrize("how", ["claim", "claims"])
def test_an_entry_that_is_done_before_it_is_locked(
    directory: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Who opened it and locks it too late has nothing to apply."""
    add(directory)
    meanwhile(monkeypatch, directory, None)
    where = str(directory)
    found = spool.claim(where, "c1", 0.0) if how == "claim" else next(spool.claims(where), None)

    assert found is None


def test_an_entry_that_is_replaced_before_it_is_locked(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who opened the old one is given the new one, locked."""
    other = ("shop", "web-1", "c1")
    add(directory, other)
    content = (directory / "c1").read_bytes()
    (directory / "c1").unlink()
    add(directory)
    meanwhile(monkeypatch, directory, content)
    entry = claim(directory)
    with pytest.raises(spool.SpoolBusyError):
        claim(directory)
    entry.close()

    assert other == holder_of(entry)


def test_an_entry_that_is_done_while_another_is_kept(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new one is not lost with the old one."""
    add(directory)
    meanwhile(monkeypatch, directory, None)
    other = ("shop", "web-1", "c1")
    add(directory, other)

    assert [other] == kept(directory)


def test_what_a_writer_left_is_removed_when_it_is_old(directory: Path) -> None:
    """A temporary of an hour ago is of a process that died; a fresh one may be being written."""
    add(directory)
    stale, fresh = directory / f"{TEMPORARY}1-a", directory / f"{TEMPORARY}2-b"
    for path in (stale, fresh):
        path.touch()
    hour_ago = time() - spool_files._TEMPORARY_SECONDS
    os.utime(stale, (0, hour_ago - 10))
    os.utime(fresh, (0, hour_ago + 600))

    assert ["c1"] == spool.names(str(directory))
    assert [fresh.name, "c1"] == files(directory)


def test_no_spool_is_an_empty_one(directory: Path) -> None:
    """Nothing was ever kept: no entries, none to claim, and no directory is made."""
    where = str(directory)

    assert ([], [], None) == (
        spool.names(where),
        list(spool.claims(where)),
        spool.claim(where, "c1", 0.0),
    )
    assert not directory.exists()
