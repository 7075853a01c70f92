"""A view: a journal that stands still to be read, whatever becomes of its files."""

# expected == actual

from __future__ import annotations

import itertools
import resource
from pathlib import Path

import pytest

from journal import Reader, View, prune
from tests.kits.journal.building import SCHEMA, Event, build, puts
from tests.kits.journal.compaction import compact, write_sealed
from tests.kits.journal.disks import FS, HookedFileSystem


def read(view: View) -> list[int]:
    """The sequences of the events in a view."""
    reader = Reader(view.directory, Event, schema=SCHEMA, fs=view)
    return [
        batch.first_sequence + number
        for batch in reader.batches()
        for number in range(len(batch.events))
    ]


@pytest.mark.parametrize("limit", [1024, 10])
def test_it_holds_what_a_prune_takes(
    directory: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """Compacted and pruned, all of it is read as before; of too many files, the oldest are held."""
    through = write_sealed(directory, puts(900))
    compact(directory, through)
    build(directory, [puts(3, start=901), []])
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    disk = HookedFileSystem()
    with View.of(disk, directory) as view:
        held = disk.count("open") - disk.count("close")
        archived = list((directory / "archive").glob("*.zst"))
        assert held == min(limit // 2, len(archived) + 2)
        if limit > len(archived):
            prune(FS, directory, through)
        else:
            min(archived).unlink()
        assert list(range(1, 904)) == read(view)
    assert disk.count("open") == disk.count("close")


def test_a_directory_that_never_rests(tmp_path: Path) -> None:
    """Files that come faster than they are looked for end the search with an error."""
    build(tmp_path, [puts(3), []])
    disk = HookedFileSystem()
    names = (tmp_path / f"{number:020d}.snap" for number in itertools.count(1))
    disk.before(["list_directory"], lambda: next(names).touch())

    with pytest.raises(FileNotFoundError, match="all the time"), View.of(disk, tmp_path):
        pass
    assert disk.count("open") == disk.count("close")
