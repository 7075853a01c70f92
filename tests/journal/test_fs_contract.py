"""What every `FileSystem` must do: the operating system's and the simulated one, call by call."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from journal.fs import FileSystem, OsFileSystem
from tests.crash.simulated.disk import SimulatedDisk


class Place(NamedTuple):
    """A file system and an empty directory on it."""

    fs: FileSystem
    directory: Path

    def made(self, name: str, content: bytes = b"") -> Path:
        """A file with that content."""
        path = self.directory / name
        fd = self.fs.create(path)
        self.fs.write(fd, content, 0)
        self.fs.close(fd)
        return path

    def content(self, name: str) -> bytes:
        """All of a file."""
        fd = self.fs.open(self.directory / name)
        try:
            return self.fs.read(fd, self.fs.size(fd) + 1, 0)
        finally:
            self.fs.close(fd)

    def names(self) -> list[str]:
        """What is in the directory."""
        return sorted(self.fs.list_directory(self.directory))


@pytest.fixture(params=["operating system", "simulated"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Each file system in turn."""
    if request.param == "simulated":
        disk = SimulatedDisk()
        disk.make_directory(Path("/place"))
        return Place(disk, Path("/place"))
    return Place(OsFileSystem(), tmp_path)


@pytest.fixture
def opened(place: Place) -> Iterator[Callable[[str], int]]:
    """Opens files, and closes them at the end."""
    fds: list[int] = []

    def open_(name: str) -> int:
        fds.append(place.fs.open(place.directory / name, write=True, create=True))
        return fds[-1]

    yield open_
    for fd in fds:
        place.fs.close(fd)


def test_a_new_directory_is_empty(place: Place) -> None:
    """A directory that was made is there, and nothing is in it."""
    place.fs.make_directory(place.directory / "new")

    assert ["new"] == place.names()
    assert [] == place.fs.list_directory(place.directory / "new")


def test_a_directory_that_is_there_stays(place: Place) -> None:
    """To make a directory again changes nothing in it."""
    place.fs.make_directory(place.directory / "new")
    place.made("new/file", b"content")
    place.fs.make_directory(place.directory / "new")

    assert ["file"] == place.fs.list_directory(place.directory / "new")


def test_a_file_is_not_made_a_directory(place: Place) -> None:
    """To make a directory where a file is leaves the file."""
    place.made("file", b"content")
    place.fs.make_directory(place.directory / "file")

    assert b"content" == place.content("file")


@pytest.mark.parametrize("error", [FileNotFoundError, NotADirectoryError])
def test_a_parent_must_be_a_directory(place: Place, error: type[OSError]) -> None:
    """Nothing is made in a directory that is missing, or below a file."""
    parent = place.directory / "missing" if error is FileNotFoundError else place.made("file")
    for call in (
        place.fs.make_directory,
        place.fs.create,
        place.fs.open,
        lambda path: place.fs.open(path, create=True),
        place.fs.list_directory,
        place.fs.sync_directory,
        place.fs.remove,
        lambda path: place.fs.rename(path, path),
        lambda path: place.fs.rename(place.made("other"), path),
    ):
        with pytest.raises(error):
            call(parent / "name")


def test_what_is_missing_is_not_found(place: Place) -> None:
    """Only `create` makes a file that is not there."""
    missing = place.directory / "missing"
    for call in (
        place.fs.open,
        lambda path: place.fs.open(path, write=True),
        place.fs.list_directory,
        place.fs.sync_directory,
        place.fs.remove,
        lambda path: place.fs.rename(path, place.directory / "other"),
    ):
        with pytest.raises(FileNotFoundError, match="missing"):
            call(missing)


def test_a_file_is_no_directory(place: Place) -> None:
    """A file has no names in it, and none to flush."""
    path = place.made("file")
    for call in (place.fs.list_directory, place.fs.sync_directory):
        with pytest.raises(NotADirectoryError):
            call(path)


def test_a_directory_is_no_file(place: Place) -> None:
    """A directory is neither opened nor removed like a file, nor does a file take its name."""
    path = place.directory / "new"
    place.fs.make_directory(path)
    for call in (
        place.fs.create,
        place.fs.open,
        lambda path: place.fs.open(path, write=True),
        lambda path: place.fs.open(path, create=True),
        place.fs.remove,
        lambda path: place.fs.rename(place.made("file"), path),
    ):
        with pytest.raises(IsADirectoryError):
            call(path)


@pytest.mark.parametrize("kind", ["fifo", "socket", "device"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    """A FIFO would wait for its other end, a terminal for keys: neither is opened or made empty."""
    fs = OsFileSystem()
    path = tmp_path / "file"
    with contextlib.ExitStack() as stack:
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "socket":
            stack.enter_context(socket.socket(socket.AF_UNIX)).bind(str(path))
        else:
            path = Path(os.devnull)
        opened = len(list(Path("/proc/self/fd").iterdir()))
        for call in (
            fs.open,
            lambda path: fs.open(path, write=True),
            lambda path: fs.open(path, write=True, create=True),
            fs.create,
        ):
            with pytest.raises(OSError, match=r"not a regular file|No such device") as caught:
                call(path)

            assert str(path) == str(caught.value.filename)
            assert opened == len(list(Path("/proc/self/fd").iterdir()))


def test_create_makes_a_file_empty(place: Place) -> None:
    """`create` takes the content of a file that is there, for who has it open too."""
    place.made("file", b"content")
    other = place.fs.open(place.directory / "file")
    fd = place.fs.create(place.directory / "file")

    assert 0 == place.fs.size(fd)
    assert (0, b"") == (place.fs.size(other), place.fs.read(other, 10, 0))
    assert ["file"] == place.names()
    place.fs.close(other)
    place.fs.close(fd)


def test_open_leaves_the_content(place: Place) -> None:
    """`open` with `create` makes a file only where there is none."""
    place.made("file", b"content")
    for name in ("file", "other"):
        place.fs.close(place.fs.open(place.directory / name, write=True, create=True))

    assert [b"content", b""] == [place.content("file"), place.content("other")]


@pytest.mark.parametrize("create", [False, True])
def test_what_is_open_for_reading_is_not_written(place: Place, *, create: bool) -> None:
    """A descriptor without `write` is for reading."""
    place.made("file", b"content")
    fd = place.fs.open(place.directory / "file", create=create)
    with pytest.raises(OSError, match="Bad file descriptor"):
        place.fs.write(fd, b"other", 0)

    assert b"content" == place.fs.read(fd, 10, 0)
    place.fs.close(fd)


def test_a_closed_descriptor_is_gone(place: Place) -> None:
    """A descriptor is no good after `close`."""
    fd = place.fs.create(place.directory / "file")
    place.fs.close(fd)
    for call in (
        place.fs.close,
        place.fs.size,
        place.fs.sync,
        place.fs.sync_data,
        place.fs.lock,
        lambda fd: place.fs.read(fd, 1, 0),
        lambda fd: place.fs.write(fd, b"x", 0),
    ):
        with pytest.raises(OSError, match="Bad file descriptor") as caught:
            call(fd)
        assert errno.EBADF == caught.value.errno


@pytest.mark.parametrize(
    ("size", "offset", "expected"),
    [
        (7, 0, b"content"),
        (3, 0, b"con"),
        (3, 2, b"nte"),
        (99, 5, b"nt"),
        (1, 7, b""),
        (9, 99, b""),
        (0, 0, b""),
    ],
)
def test_a_read_ends_with_the_file(place: Place, size: int, offset: int, expected: bytes) -> None:
    """`read` gives what was asked for, and less only at the end."""
    place.made("file", b"content")
    fd = place.fs.open(place.directory / "file")

    assert expected == place.fs.read(fd, size, offset)
    place.fs.close(fd)


@pytest.mark.parametrize(
    ("data", "offset", "expected"),
    [
        (b"CON", 0, b"CONtent"),
        (b"TE", 3, b"conTEnt"),
        (b"more", 7, b"contentmore"),
        (b"NT and more", 5, b"conteNT and more"),
        (b"end", 9, b"content\0\0end"),
        (b"", 0, b"content"),
        (b"", 99, b"content"),
    ],
)
def test_a_write_changes_only_its_place(
    place: Place, data: bytes, offset: int, expected: bytes
) -> None:
    """`write` replaces, extends, and leaves zeros where nothing was written."""
    place.made("file", b"content")
    fd = place.fs.open(place.directory / "file", write=True)
    place.fs.write(fd, memoryview(data), offset)

    assert (len(expected), expected) == (place.fs.size(fd), place.fs.read(fd, 99, 0))
    place.fs.close(fd)


def test_what_was_written_stays_when_the_source_changes(place: Place) -> None:
    """`write` takes the bytes as they are at that time."""
    data = bytearray(b"content")
    place.made("file", b"")
    fd = place.fs.open(place.directory / "file", write=True)
    place.fs.write(fd, memoryview(data), 0)
    data[:] = b"changed"

    assert b"content" == place.fs.read(fd, 99, 0)
    place.fs.close(fd)


def test_two_descriptors_see_one_file(place: Place, opened: Callable[[str], int]) -> None:
    """What is written by one descriptor is read by another at once."""
    one, other = opened("file"), opened("file")
    place.fs.write(one, b"content", 0)

    assert b"content" == place.fs.read(other, 99, 0)


def test_flushes_change_nothing_that_is_seen(place: Place) -> None:
    """Flushes are for the disk alone."""
    fd = place.fs.create(place.directory / "file")
    place.fs.write(fd, b"content", 0)
    place.fs.sync(fd)
    place.fs.sync_data(fd)
    place.fs.sync_directory(place.directory)
    place.fs.close(fd)

    assert b"content" == place.content("file")


def test_rename_moves_a_file(place: Place, opened: Callable[[str], int]) -> None:
    """A file is there by its new name only, and who has it open keeps it."""
    place.made("file", b"content")
    fd = opened("file")
    place.fs.rename(place.directory / "file", place.directory / "other")
    place.fs.write(fd, b"C", 0)

    assert ["other"] == place.names()
    assert b"Content" == place.content("other")


def test_rename_replaces_a_file(place: Place, opened: Callable[[str], int]) -> None:
    """The file that had the name is gone, but for who has it open."""
    place.made("file", b"content")
    place.made("other", b"replaced")
    fd = opened("other")
    place.fs.rename(place.directory / "file", place.directory / "other")

    assert ["other"] == place.names()
    assert (b"content", b"replaced") == (place.content("other"), place.fs.read(fd, 99, 0))


def test_rename_to_itself_changes_nothing(place: Place) -> None:
    """A file may be given the name that it has."""
    path = place.made("file", b"content")
    place.fs.rename(path, path)

    assert b"content" == place.content("file")


def test_a_directory_is_moved_to_no_file(place: Place) -> None:
    """A directory takes no file's name, and not that of a directory with something in it."""
    for name in ("one", "other"):
        place.fs.make_directory(place.directory / name)
        place.made(f"{name}/file", name.encode())
    place.made("file")
    with pytest.raises(NotADirectoryError):
        place.fs.rename(place.directory / "one", place.directory / "file")
    # POSIX leaves the choice; XFS says that it exists.
    with pytest.raises(OSError, match=r"Directory not empty|File exists"):
        place.fs.rename(place.directory / "one", place.directory / "other")
    place.fs.rename(place.directory / "one", place.directory / "new")

    assert ["file", "new", "other"] == place.names()
    assert b"one" == place.content("new/file")


def test_a_file_has_one_name_until_it_is_removed(
    place: Place, opened: Callable[[str], int]
) -> None:
    """A rename changes it, a removal takes it."""
    place.made("file", b"content")
    fd = opened("file")
    counts = [place.fs.names(fd)]
    place.fs.rename(place.directory / "file", place.directory / "other")
    counts.append(place.fs.names(fd))
    place.fs.remove(place.directory / "other")

    assert [1, 1, 0] == [*counts, place.fs.names(fd)]


def test_a_removed_file_lives_on_while_it_is_open(
    place: Place, opened: Callable[[str], int]
) -> None:
    """Its name is gone at once; its content is there for who has it open, and for nobody else."""
    place.made("file", b"content")
    fd = opened("file")
    place.fs.remove(place.directory / "file")
    place.fs.write(fd, b"C", 0)
    place.fs.sync(fd)

    assert [] == place.names()
    assert b"Content" == place.fs.read(fd, 99, 0)
    place.made("file", b"new")
    assert (b"new", b"Content") == (place.content("file"), place.fs.read(fd, 99, 0))


def test_a_lock_is_of_one_descriptor(place: Place, opened: Callable[[str], int]) -> None:
    """A second descriptor of the same file gets no lock, one of another file does."""
    one, other, elsewhere = opened("file"), opened("file"), opened("elsewhere")

    assert [True, False, True] == [place.fs.lock(fd) for fd in (one, other, elsewhere)]
    assert place.fs.lock(one)
    assert not place.fs.lock(other)


def test_a_lock_ends_with_its_descriptor(place: Place, opened: Callable[[str], int]) -> None:
    """`close` gives the lock back; to close another descriptor does not."""
    other = opened("file")
    one = place.fs.open(place.directory / "file", write=True)
    another = place.fs.open(place.directory / "file")

    assert place.fs.lock(one)
    place.fs.close(another)
    assert not place.fs.lock(other)
    place.fs.close(one)
    assert place.fs.lock(other)


def test_a_lock_is_of_the_file_and_not_of_its_name(
    place: Place, opened: Callable[[str], int]
) -> None:
    """A lock goes where the file goes: its name is another's to lock."""
    one = opened("file")
    assert place.fs.lock(one)
    place.fs.rename(place.directory / "file", place.directory / "moved")
    moved, new = opened("moved"), opened("file")

    assert [False, True] == [place.fs.lock(moved), place.fs.lock(new)]


def test_a_flush_reaches_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is to be durable is asked of the kernel, with the descriptor of that very file."""
    flushed: list[tuple[str, int]] = []

    def recorder(name: str) -> Callable[[int], None]:
        real = getattr(os, name)

        def flush(fd: int) -> None:
            flushed.append((name, os.fstat(fd).st_ino))
            real(fd)

        return flush

    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, recorder(name))
    fs = OsFileSystem()
    fd = fs.create(tmp_path / "file")
    fs.write(fd, b"content", 0)
    fs.sync_data(fd)
    fs.sync(fd)
    fs.close(fd)
    fs.sync_directory(tmp_path)
    file, directory = ((tmp_path / "file").stat().st_ino, tmp_path.stat().st_ino)

    assert [("fdatasync", file), ("fsync", file), ("fsync", directory)] == flushed


@pytest.mark.parametrize("call", ["create", "open"])
@pytest.mark.parametrize("kind", ["symbolic", "hard"])
def test_a_link_leads_no_writer_to_another_file(tmp_path: Path, call: str, kind: str) -> None:
    """What is written never gets into a file that a link in the directory points to."""
    target, path = tmp_path / "precious", tmp_path / "file"
    target.write_bytes(b"precious")
    if kind == "symbolic":
        path.symlink_to(target)
    else:
        path.hardlink_to(target)
    fs = OsFileSystem()
    if call == "create":
        fs.close(fs.create(path))
    elif kind == "symbolic":
        for create in (False, True):
            with pytest.raises(OSError, match="symbolic links"):
                fs.open(path, write=True, create=create)

    assert b"precious" == target.read_bytes()


def test_an_identity_is_that_of_the_open_file(place: Place) -> None:
    """A name has the identity and length of what is open until something else gets the name."""
    path = place.made("file", b"abc")
    fd = place.fs.open(path)
    directory = place.fs.open_directory(place.directory)

    assert (place.fs.identity(fd), place.fs.size(fd)) == place.fs.look_up(path)
    assert place.fs.identity(directory) == place.fs.look_up(place.directory)[0]
    place.fs.rename(place.made("other"), path)
    assert place.fs.identity(fd) != place.fs.look_up(path)[0]
    place.fs.remove(path)
    with pytest.raises(FileNotFoundError):
        place.fs.look_up(path)
    place.fs.close(fd)
    place.fs.close(directory)


def test_a_directory_is_locked_by_one(place: Place) -> None:
    """The lock of a directory is taken by one descriptor, until that is closed."""
    first, second = (place.fs.open_directory(place.directory) for _ in range(2))

    assert (True, False) == (place.fs.lock(first), place.fs.lock(second))
    place.fs.close(first)
    assert place.fs.lock(second)
    place.fs.close(second)
