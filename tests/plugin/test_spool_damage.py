"""Entries that nobody wrote so, and directories that are of no use: nothing false is applied."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coild.spool import entries
from coild.spool import releases as spool
from tests.kits.plugin.spool import as_nobody, files, kept, soon
from tests.kits.system.small_disks import fill, make_read_only

WEB = ("shop", "web-0", "c1")
OTHER = ("shop", "web-1", "c2")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A spool with two entries."""
    path = tmp_path / "spool"
    for holder in (WEB, OTHER):
        spool.add(str(path), *holder, 0.0)
    return path


def altered(content: bytes) -> Iterator[bytes]:
    """Every byte flipped, cut off at each length, and more than there was."""
    for place in range(len(content)):
        for mask in (0x01, 0x20, 0x80, 0xFF):
            yield content[:place] + bytes([content[place] ^ mask]) + content[place + 1 :]
        yield content[:place]
    for more in (b"\n", b"\0", b"x", content, bytes(10_000)):
        yield content + more
        yield more + content


def test_any_alteration_is_set_aside(directory: Path) -> None:
    """Whatever byte is another, missing or too many: told of once, kept aside, never applied."""
    path = directory / "c1"
    aside = f"{path}{spool.REJECTED}"
    content = path.read_bytes()
    for number, damaged in enumerate(altered(content)):
        path.write_bytes(damaged)
        rejected: list[str] = []
        if number % 2:
            found = spool.claim(str(directory), "c1", 0.0, rejected.append)
            assert found is None, damaged
        else:
            holders = [each.container_id for each in spool.claims(str(directory), rejected.append)]
            assert ["c2"] == holders, damaged

        assert [aside] == rejected
        assert damaged == Path(aside).read_bytes()
    assert ["c1.rejected", "c2"] == files(directory)
    assert [OTHER] == kept(directory)


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_set_aside(content: bytes, magic: bool) -> None:  # noqa: FBT001 - drawn
    """Nothing but what was written is an entry, also behind the right first line."""
    content = entries.MAGIC * magic + content

    assert entries.fields_of("c1", content) is None


def as_empty(path: Path) -> None:
    """A file of no bytes."""
    path.touch()


def as_link(path: Path) -> None:
    """A link to an entry that is good under that name."""
    target = path.parent.parent / "elsewhere"
    target.mkdir()
    spool.add(str(target), *WEB, 0.0)
    path.symlink_to(target / path.name)


def as_dangling_link(path: Path) -> None:
    """A link that leads nowhere."""
    path.symlink_to("/nonexistent/c1")


def as_directory(path: Path) -> None:
    """A directory with something in it."""
    path.mkdir()
    (path / "c1").touch()


def as_socket(path: Path) -> None:
    """A unix socket, whose path would be too long from elsewhere."""
    before = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(path.name)
    finally:
        os.chdir(before)


def as_pipe(path: Path) -> None:
    """A pipe that nobody has opened."""
    os.mkfifo(path)


def as_held_pipe(path: Path) -> None:
    """A pipe that somebody holds open and writes nothing to."""
    os.mkfifo(path)
    _OPEN.append(os.open(path, os.O_RDWR))


def as_another(path: Path) -> None:
    """The entry of another container, under this name."""
    path.write_bytes((path.parent / "c2").read_bytes())


_OPEN: list[int] = []
FOREIGN = (
    *(as_empty, as_link, as_dangling_link, as_directory),
    *(as_socket, as_pipe, as_held_pipe, as_another),
)


@pytest.fixture(params=FOREIGN)
def foreign(request: pytest.FixtureRequest, directory: Path) -> Iterator[Path]:
    """The spool, whose entry of c1 is none."""
    make: Callable[[Path], None] = request.param
    path = directory / "c1"
    path.unlink()
    make(path)
    yield directory
    while _OPEN:
        os.close(_OPEN.pop())


@pytest.mark.parametrize("how", ["claim", "claims"])
def test_what_is_no_entry_is_set_aside(foreign: Path, how: str) -> None:
    """Nobody waits for it or follows it; it is told of, and no entry beside it is kept from use."""
    where = str(foreign)
    rejected: list[str] = []
    if how == "claim":
        assert spool.claim(where, "c1", soon(), rejected.append) is None
    else:
        assert ["c2"] == [each.container_id for each in spool.claims(where, rejected.append)]

    assert [f"{foreign}/c1.rejected"] == rejected
    assert ["c1.rejected", "c2"] == files(foreign)


def test_a_release_is_kept_where_there_is_no_entry(foreign: Path) -> None:
    """What has the entry's name is set aside and told of, and the release is kept."""
    rejected: list[str] = []
    spool.add(str(foreign), *WEB, soon(), rejected.append)

    assert [f"{foreign}/c1.rejected"] == rejected
    assert [WEB, OTHER] == kept(foreign)
    assert ["c1", "c1.rejected", "c2"] == files(foreign)


def test_an_entry_that_cannot_be_set_aside(directory: Path) -> None:
    """It is an error, at the end, and those beside it are applied."""
    (directory / "c1").write_bytes(b"damaged")
    (directory / "c1.rejected").mkdir()
    every = spool.claims(str(directory))

    assert "c2" == next(every).container_id
    with pytest.raises(spool.SpoolError, match=f"the spool {directory}: Is a directory"):
        next(every)
    assert ["c1", "c1.rejected", "c2"] == files(directory)


def test_an_entry_that_cannot_be_read(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad sector is an error at the end, not damage: the entry stays, the others are applied."""
    real = spool._read_locked

    def fail(fd: int, name: str) -> tuple[str, ...] | None:
        if name == "c1":
            raise OSError(errno.EIO, "Input/output error")
        return real(fd, name)

    monkeypatch.setattr(spool, "_read_locked", fail)
    every = spool.claims(str(directory))

    assert "c2" == next(every).container_id
    with pytest.raises(spool.SpoolError, match=f"the spool {directory}: Input/output error"):
        next(every)
    assert ["c1", "c2"] == files(directory)


def refuses(action: Callable[[], object], directory: Path, reason: str) -> None:
    """The action raises SpoolError, in one line with place and reason; it is nobody's fault."""
    with pytest.raises(spool.SpoolError) as caught:
        action()

    assert spool.SpoolError is caught.type
    assert f"the spool {directory}: {reason}" == str(caught.value)


def refuses_all(directory: Path, reason: str) -> None:
    """Nothing can be done with the spool."""
    where = str(directory)
    refuses(lambda: spool.add(where, *WEB, 0.0), directory, reason)
    refuses(lambda: spool.claim(where, "c1", 0.0), directory, reason)
    refuses(lambda: list(spool.claims(where)), directory, reason)
    refuses(lambda: spool.names(where), directory, reason)


def test_a_spool_that_is_a_file(tmp_path: Path) -> None:
    """And one below a file: every use says so, and the file is as it was."""
    path = tmp_path / "file"
    path.write_bytes(b"precious")
    refuses_all(path, "Not a directory")
    refuses_all(path / "spool", "Not a directory")

    assert b"precious" == path.read_bytes()


def test_a_spool_that_is_a_link_to_itself(tmp_path: Path) -> None:
    """The reason is told, and nothing waits or turns in circles."""
    path = tmp_path / "loop"
    path.symlink_to(path)
    where = str(path)
    refuses(lambda: spool.names(where), path, os.strerror(errno.ELOOP))
    refuses(lambda: spool.claim(where, "c1", 0.0), path, os.strerror(errno.ELOOP))
    refuses(lambda: spool.add(where, *WEB, 0.0), path, os.strerror(errno.ELOOP))


@pytest.mark.parametrize("below", ["", "spool", "a/b"])
def test_a_spool_behind_a_link_that_leads_nowhere(tmp_path: Path, below: str) -> None:
    """A disk that is not mounted is no such directory, and holds no entries."""
    (tmp_path / "lib").symlink_to(tmp_path / "unmounted")
    path = tmp_path / "lib" / below
    where = str(path)
    refuses(lambda: spool.add(where, *WEB, 0.0), path, "No such file or directory")

    assert [] == spool.names(where)
    assert ["lib"] == files(tmp_path)


def test_a_spool_of_somebody_else(directory: Path) -> None:
    """Without the right to it, every use says so."""
    directory.chmod(0)
    with as_nobody():
        refuses_all(directory, "Permission denied")
    directory.chmod(0o700)

    assert [WEB, OTHER] == kept(directory)


def test_a_spool_that_is_full(disk: Path) -> None:
    """It takes no more, and says so; what is in it is whole, and frees its place when done."""
    path = disk / "spool"
    spool.add(str(path), *WEB, 0.0)
    fill(disk)
    refuses(lambda: spool.add(str(path), *OTHER, 0.0), path, "No space left on device")
    refuses(lambda: spool.add(str(path), "x", "y", "c1", 0.0), path, "No space left on device")
    left = files(path)
    for entry in spool.claims(str(path)):
        entry.applied([])
    spool.add(str(path), *OTHER, 0.0)

    assert ["c1"] == left
    assert [OTHER] == kept(path)


def test_a_spool_that_there_is_no_place_for(disk: Path) -> None:
    """A directory that cannot be made is told of; entries are none."""
    (disk / "spool").mkdir()
    make_read_only(disk)
    path = disk / "lib" / "spool"
    refuses(lambda: spool.add(str(path), *WEB, 0.0), path, "Read-only file system")

    assert [] == spool.names(str(path))


def test_a_spool_that_is_read_only(disk: Path) -> None:
    """Its entries can be applied, and not be removed: each use says why, and they stay."""
    path = disk / "spool"
    spool.add(str(path), *WEB, 0.0)
    (path / "c2").write_bytes(b"damaged")
    make_read_only(disk)
    reason = "Read-only file system"
    refuses(lambda: spool.add(str(path), *OTHER, 0.0), path, reason)
    refuses(lambda: spool.claim(str(path), "c2", 0.0), path, reason)
    entry = spool.claim(str(path), "c1", 0.0)
    assert entry is not None
    refuses(lambda: entry.applied([]), path, reason)
    refuses(entry.reject, path, reason)
    entry.close()

    assert ["c1", "c2"] == files(path)
