"""The file that says where the daemon listens, whichever thread writes it."""

# expected == actual

from __future__ import annotations

from pathlib import Path

import pytest

from coild.process.address_file import AddressFile


def test_what_could_not_be_written_is_written_by_a_retry(tmp_path: Path) -> None:
    """A directory that is missing at first has the file as soon as it is there."""
    path = tmp_path / "data" / "http"
    file = AddressFile(path)
    file.publish("127.0.0.1:1")
    path.parent.mkdir()
    file.retry()

    assert path.read_text() == "127.0.0.1:1\n"


def test_a_retry_that_comes_after_the_end_writes_nothing(tmp_path: Path) -> None:
    """A thread that is late leaves no file of a daemon that does not listen any more."""
    path = tmp_path / "data" / "http"
    file = AddressFile(path)
    file.publish("127.0.0.1:1")
    path.parent.mkdir()
    file.remove()
    file.retry()

    assert [] == list(path.parent.iterdir())


@pytest.mark.parametrize("published", [True, False])
def test_the_file_of_another_daemon_is_left(tmp_path: Path, *, published: bool) -> None:
    """A daemon whose directory was moved away does not remove what the next one wrote there."""
    path = tmp_path / "data" / "http"
    path.parent.mkdir()
    file = AddressFile(path)
    if published:
        file.publish("127.0.0.1:1")
    path.parent.rename(tmp_path / "moved")
    path.parent.mkdir()
    AddressFile(path).publish("127.0.0.1:2")
    file.remove()

    assert path.read_text() == "127.0.0.1:2\n"


def test_the_file_goes_with_its_daemon(tmp_path: Path) -> None:
    """So a script does not ask who is not there any more."""
    file = AddressFile(tmp_path / "http")
    file.publish("127.0.0.1:1")
    file.remove()

    assert [] == list(tmp_path.iterdir())
