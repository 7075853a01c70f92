"""`coild-history` over journals that are pruned, damaged, incomplete or read-only."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from coild.audit.times import format_utc
from coild.rules.events import (
    SCHEMA,
)
from journal import OsFileSystem, Policy, plan_pruning, prune
from tests.kits.journal.disks import FS
from tests.kits.journal.history import (
    EPOCH,
    allocated,
    ask,
    beginning,
    compact,
    cycles,
    index,
    released,
    write,
)
from tools.history.cli import main
from tools.verify.cli import main as verify


def test_pruned_history_is_told_and_what_is_known_still_answered(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A release without its allocation is a row, and so is whoever has held since before."""
    old, kept = allocated(0, "old", 0), allocated(0, "kept", 2)
    late = allocated(9999, "late", 3)
    events = [*beginning(), old, kept, *cycles(60), released(9998, old), late]
    events += cycles(20, start=200)
    write(directory, events)
    compact(directory)
    archived = sorted((directory / "archive").glob("*.seg.zst"))
    pruning = plan_pruning(
        FS, directory, SCHEMA, Policy(keep_bytes=sum(map(_size, archived[8:]))), EPOCH
    )
    assert pruning is not None
    prune(FS, directory, pruning.through)
    capsys.readouterr()
    (of_old,) = ask(directory, "10.64.0.0")
    said = capsys.readouterr().err

    assert said.startswith(f"coild-history: history before sequence {pruning.through + 1} was")
    assert (None, None, "old") == (
        of_old["allocated-at"],
        of_old["allocated-seq"],
        of_old["container-id"],
    )
    assert of_old["released-seq"] == events.index(released(9998, old)) + 1
    for question in (["10.64.0.2"], ["--container", "kept"]):
        (of_kept,) = ask(directory, *question)
        assert ("kept", None, None) == (
            of_kept["container-id"],
            of_kept["allocated-seq"],
            of_kept["released-seq"],
        )
    first, second, *rest = ask(directory)
    assert [of_kept, of_old] == [first, second]
    assert rest[-1]["container-id"] == "c219"
    assert ["late"] == [row["container-id"] for row in ask(directory, "10.64.0.3")]
    assert main(["--journal", str(directory), "10.64.0.2", "--at", format_utc(EPOCH)]) == 1
    assert "is not known: history before sequence" in capsys.readouterr().err


def _size(path: Path) -> int:
    return path.stat().st_size


def _break_index(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize("archived", [False, True])
@pytest.mark.parametrize("damage", [Path.unlink, _break_index, lambda path: path.write_bytes(b"")])
def test_an_index_is_never_needed(
    directory: Path, damage: Callable[[Path], None], *, archived: bool
) -> None:
    """Missing, damaged or empty: the answer is the same, and the index is made again."""
    write(directory, [*beginning(), *cycles(60)])
    expected = ask(directory, "10.64.0.1")
    if archived:
        compact(directory)
    else:
        index(directory)
    indexes = sorted(directory.glob("**/*.idx"))
    good = [path.read_bytes() for path in indexes]
    for path in indexes:
        damage(path)

    assert len(indexes) > 5
    assert expected == ask(directory, "10.64.0.1")
    # One of which only other parts are damaged is not noticed, and does no harm.
    if damage is Path.unlink:
        assert good == [path.read_bytes() for path in indexes]


def test_a_copy_that_cannot_be_written_to_is_read(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its indexes, too, which cannot be made there; nothing is left behind."""
    write(directory, [*beginning(), *cycles(60)])
    compact(directory)
    expected = ask(directory, "10.64.0.1")
    for path in directory.glob("**/*.idx"):
        path.unlink()
    before = sorted(directory.glob("**/*"))

    def refuse(_self: OsFileSystem, path: Path) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    # Whoever runs the tests as root may write whatever the modes say: so the call fails, too.
    monkeypatch.setattr(OsFileSystem, "create", refuse)
    for place in (directory, directory / "archive"):
        place.chmod(0o555)
    try:
        assert expected == ask(directory, "10.64.0.1")
        assert before == sorted(directory.glob("**/*"))
    finally:
        for place in (directory, directory / "archive"):
            place.chmod(0o755)


@pytest.mark.parametrize("question", [["10.64.0.1"], ["--container", "c40"], []])
def test_damage_is_told_where_verify_tells_it(
    directory: Path, capsys: pytest.CaptureFixture[str], question: list[str]
) -> None:
    """Offset and last good event of a damaged sealed segment, by index or without."""
    write(directory, [*beginning(), *cycles(60)])
    victim = sorted(directory.glob("*.seg"))[3]
    data = bytearray(victim.read_bytes())
    data[7000] ^= 1
    victim.write_bytes(data)
    for path in directory.glob("*.idx"):
        path.unlink()
    capsys.readouterr()

    assert verify(["--journal", str(directory), "-o", "json"]) == 2
    fault = msgspec.json.decode(capsys.readouterr().out.splitlines()[0])
    assert main(["--journal", str(directory), *question]) == 1
    said = capsys.readouterr().err
    assert 0 < fault["offset"]
    assert f"{victim} at offset {fault['offset']}: " in said
    assert f"the last good sequence is {fault['last-sequence']};" in said


@pytest.mark.parametrize("question", [["10.64.0.1"], [], ["--container", "c30"]])
def test_an_archive_file_that_is_missing_or_altered_is_named(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], question: list[str]
) -> None:
    """One line with the file and what to run, and exit 1; never a wrong answer."""
    write(directory, [*beginning(), *cycles(60)])
    compact(directory)
    archived = sorted((directory / "archive").glob("*.seg.zst"))
    missing = tmp_path / "missing"
    shutil.copytree(directory, missing)
    (missing / "archive" / archived[3].name).unlink()
    altered = tmp_path / "altered"
    shutil.copytree(directory, altered)
    victim = altered / "archive" / archived[3].name
    victim.write_bytes(b"\0" * _size(victim))
    for place, name in ((missing, archived[4].name), (altered, archived[3].name)):
        capsys.readouterr()

        assert main(["--journal", str(place), *question]) == 1
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert name in said
        assert "run: coild-verify --journal" in said
