"""`coild-verify` names the file that is missing, or that is none, and not the one behind it."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from coild.rules.events import HistoryPruned
from journal.format.archive import decompress
from journal.format.segments import archive_path, segment_path
from tests.kits.journal.building import segments
from tests.kits.journal.disks import HookedFileSystem
from tests.kits.journal.verify import NOW, Made, age, facts, opened_plain
from tests.kits.system.tool import records
from tools.verify.cli import main

#: The first sequence of each segment of `Made`, and of what would follow.
FIRSTS = [1, 4, 6, 8, 10]


def place(made: Made, first: int) -> Path:
    """Where a segment is: those up to the snapshot are archived."""
    archived = first <= made.through
    return (archive_path if archived else segment_path)(made.directory, first)


def verified(directory: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[Any], Any]:
    """The exit status, the faults, and the summary."""
    capsys.readouterr()
    status = main(["--journal", str(directory), "-o", "json"])
    *faults, summary = records(capsys.readouterr().out)
    return status, faults, summary


@pytest.mark.parametrize(("lost", "last_good"), [([0], 0), ([1], 3), ([2], 5), ([0, 1], 0)])
def test_a_missing_segment_is_named(
    made: Made, capsys: pytest.CaptureFixture[str], lost: list[int], last_good: int
) -> None:
    """By the path where it should be, with what it took along; only what was read is counted."""
    for number in lost:
        place(made, FIRSTS[number]).unlink()
    first, behind = FIRSTS[lost[0]], FIRSTS[lost[-1] + 1]
    status, (fault,), summary = verified(made.directory, capsys)

    assert (2, "missing") == (status, fault["fault"])
    assert (str(place(made, first)), last_good) == (fault["file"], fault["last-sequence"])
    assert (first, behind - 1) == (fault["first-missing"], fault["last-missing"])
    assert f"the events {first} to {behind - 1} are nowhere" in fault["reason"]
    assert "does not say that they were pruned" in fault["meaning"]
    assert f"restore {fault['file']} from a backup" in fault["next"]
    assert f"run: coild-verify --journal {made.directory}" in fault["next"]
    assert 9 - (behind - first) == summary["events"]
    assert (4 - len(lost), made.heads[-1]) == (summary["segments"], summary["head"])


def test_people_read_which_segment_is_missing(
    made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the first line, without an offset into a file that is not there."""
    place(made, 4).unlink()
    main(["--journal", str(made.directory)])
    shown = capsys.readouterr()

    assert f"missing segment: {place(made, 4)}: this segment is missing: " in shown.err
    assert "the last good sequence is 3" in shown.err
    assert str(place(made, 6)) not in shown.err
    assert shown.out.startswith("7 events in 3 segments, ")


def test_what_can_be_cut_off_behind_a_gap_is_said(
    made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    """A gap behind the snapshot can be ended by order; one that the snapshot covers need not be."""
    with opened_plain(made.directory.with_name("other")) as journal:
        for fact in facts(2):
            journal.append([fact])
            journal.log.seal()
    other = made.directory.with_name("other")
    segments(other)[1].unlink()
    _, (behind,), _ = verified(other, capsys)
    place(made, 4).unlink()
    _, (covered,), _ = verified(made.directory, capsys)

    assert f"coild-repair --truncate-tail --journal {other}" in behind["next"]
    assert "coild refuses to start" in behind["meaning"]
    assert "coild-repair" not in covered["next"]
    assert "coild starts" in covered["meaning"]


@pytest.mark.parametrize("through", [3, 5])
def test_an_order_to_prune_is_told_from_a_loss(
    directory: Path, capsys: pytest.CaptureFixture[str], through: int
) -> None:
    """What goes beyond the order is missing; a gap in what was to go is said to be one."""
    with opened_plain(directory) as journal:
        made = Made(directory, journal)
        journal.append([HistoryPruned(NOW + 60, through, 1, 1, "delete")])
    place(made, 4).unlink()
    status, (gap,), _ = verified(directory, capsys)
    place(made, 1).unlink()
    later, faults, _ = verified(directory, capsys)

    assert (2, str(place(made, 4))) == (status, gap["file"])
    assert ("the journal says that its events up to 5 were pruned" in gap["meaning"]) == (
        through == 5
    )
    if through == 5:
        assert (0, []) == (later, faults)
    else:
        (rest,) = faults
        assert (2, str(place(made, 4)), 3) == (later, rest["file"], rest["last-sequence"])
        assert "says only that its events up to 3 were pruned" in rest["meaning"]


def test_the_newest_segment_is_missed(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    """The one that is being written is never archived: so it must be there."""
    for first in (6, 8):
        place(made, first).unlink()
    status, (fault,), summary = verified(made.directory, capsys)

    assert (2, "missing", str(place(made, 6))) == (status, fault["fault"], fault["file"])
    assert (6, None) == (fault["first-missing"], fault["last-missing"])
    assert 5 == summary["events"]


def test_a_snapshot_of_events_that_are_gone_misses_them(
    made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    """The segments between the end and the snapshot are missing; the snapshot is not to blame."""
    archived = place(made, 1)
    segment_path(made.directory, 1).write_bytes(decompress(archived.read_bytes()))
    for first in FIRSTS[:4]:
        place(made, first).unlink()
    status, (fault,), summary = verified(made.directory, capsys)

    assert (2, "missing", str(place(made, 4))) == (status, fault["fault"], fault["file"])
    assert (4, 5) == (fault["first-missing"], fault["last-missing"])
    assert (3, 1) == (summary["events"], summary["snapshots"])


def a_directory(path: Path) -> None:
    """Put a directory under a file's name."""
    path.unlink()
    path.mkdir()


def a_dangling_link(path: Path) -> None:
    """Put a link that leads nowhere under a file's name."""
    path.unlink()
    path.symlink_to(path.with_name("nowhere"))


def a_loop(path: Path) -> None:
    """Put a link to itself under a file's name."""
    path.unlink()
    path.symlink_to(path)


NO_FILE: dict[Callable[[Path], None], str] = {
    a_directory: "it is a directory",
    a_dangling_link: "it is a link that leads nowhere",
    a_loop: "it cannot be read: Too many levels",
}


@pytest.mark.parametrize("replace", NO_FILE)
@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("deep", [[], ["--deep"]])
def test_what_is_no_file_is_named(
    made: Made,
    capsys: pytest.CaptureFixture[str],
    replace: Callable[[Path], None],
    number: int,
    deep: list[str],
) -> None:
    """Under the name of any segment it is damage, and the rest is still looked at."""
    path = place(made, FIRSTS[number])
    replace(path)
    status = main(["--journal", str(made.directory), *deep])
    shown = capsys.readouterr()

    assert 2 == status
    assert f"bad segment: {path} at offset 0: {NO_FILE[replace]}" in shown.err
    assert f"restore {path} from a backup" in shown.err
    lost = FIRSTS[number + 1] - FIRSTS[number]
    assert shown.out.startswith(f"{9 - lost} events in 3 segments")


@pytest.mark.parametrize("replace", NO_FILE)
def test_a_snapshot_or_an_index_that_is_no_file_is_named(
    made: Made, capsys: pytest.CaptureFixture[str], replace: Callable[[Path], None]
) -> None:
    """A snapshot is bad then; an index is a notice."""
    (snapshot,) = made.directory.glob("*.snap")
    (index, *_) = made.directory.rglob("*.idx")
    replace(index)
    alone = main(["--journal", str(made.directory)])
    said = capsys.readouterr().err
    replace(snapshot)
    status = main(["--journal", str(made.directory)])
    shown = capsys.readouterr().err

    # A link to nowhere is no index at all, and nobody misses one.
    assert (0, replace is not a_dangling_link) == (alone, f"{index}: " in said)
    assert 2 == status
    assert f"bad snapshot: {snapshot} at offset 0: {NO_FILE[replace]}" in shown
    assert f"remove it, then run: coild-compact --journal {made.directory}" in shown


@pytest.mark.parametrize("number", [0, 1, 3, None])
def test_a_file_that_cannot_be_read_gives_3(
    made: Made,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: int | None,
) -> None:
    """Nothing is known to be wrong with it, but nothing is known to be right either."""
    (snapshot,) = made.directory.glob("*.snap")
    path = snapshot if number is None else place(made, FIRSTS[number])
    # Root does not feel permissions.
    fs = HookedFileSystem()
    fs.fail("open", errno.EACCES, name=path.name, forever=True)
    monkeypatch.setattr("tools.verify.cli.OsFileSystem", lambda: fs)

    assert 3 == main(["--journal", str(made.directory)])
    assert f"unreadable: {path}: it cannot be read: Permission denied" in capsys.readouterr().err


@pytest.mark.parametrize("tool", [["--head"], []])
def test_the_newest_segment_can_be_a_directory(
    made: Made, capsys: pytest.CaptureFixture[str], tool: list[str]
) -> None:
    """`--head` names it, too."""
    path = segments(made.directory)[-1]
    a_directory(path)

    assert main(["--journal", str(made.directory), *tool]) in {2, 3}
    assert re.search(f"{path}.*directory", capsys.readouterr().err)


@pytest.mark.parametrize(
    "lost", [set(numbers) for size in (1, 2, 3) for numbers in combinations(range(4), size)]
)
def test_any_segments_missing_are_told(
    made: Made, capsys: pytest.CaptureFixture[str], lost: set[int]
) -> None:
    """Each run of them by its first file; only the newest behind a live one is not missed."""
    for number in lost:
        place(made, FIRSTS[number]).unlink()
    age(made.directory)
    runs = {number for number in lost if number - 1 not in lost}
    runs.discard(3)
    status, faults, summary = verified(made.directory, capsys)

    told = {at["file"] for at in faults if at["fault"] == "missing"}
    others = {at["reason"] for at in faults if at["fault"] != "missing"}

    assert {str(place(made, FIRSTS[number])) for number in runs} == told
    assert ({"the events that follow it are nowhere"} if lost == {0, 1, 2} else set()) == others
    assert (2 if runs else 0) == status
    assert sum(FIRSTS[n + 1] - FIRSTS[n] for n in range(4) if n not in lost) == (
        summary["events"] + summary["unvouched-events"]
    )
