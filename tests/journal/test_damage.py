"""Whatever goes wrong with the files of a journal: what is said of it is so, and nothing gets lost.

For journals in every state that compaction and pruning leave, and all kinds of damage to them.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from coild.rules.events import SCHEMA, Event
from coild.rules.projection import Projection
from coild.vocabulary import VOCABULARY
from journal import Journal, JournalError
from journal.format.archive import read_segment
from journal.format.codec import SEGMENT_HEADER_BYTES
from journal.format.segments import list_archive, list_segments
from tests.kits.journal.building import SEGMENT_BYTES, flipped
from tests.kits.journal.damage import (
    KINDS,
    WAYS,
    Damage,
    archived,
    cut_at_a_frame,
    damages,
    emptied,
    files_of,
    live,
    pruned,
    stopped,
    stopped_twice,
)
from tests.kits.journal.disks import FS
from tests.kits.system.tool import records, run_here
from tools import compact, repair
from tools.verify import cli as verify

#: What becomes of a start, unless it is refused.
STARTED = {"good", "torn"}
MOVE = re.compile("move (.+) to another directory, then run: coild-verify")
#: Makes a journal, or does something to it.
Act = Callable[[Path], None]


class Said(NamedTuple):
    """What `coild-verify` says of a journal."""

    status: int
    faults: list[dict[str, Any]]


def ask(directory: Path, *options: str) -> Said:
    """Run `coild-verify`."""
    done = run_here(verify.main, "--journal", str(directory), "-o", "json", *options)
    return Said(done.returncode, [it for it in records(done.stdout) if it["record"] == "fault"])


def compacted(directory: Path, *options: str) -> int:
    """Run `coild-compact`; the exit status."""
    return run_here(compact.main, "--journal", str(directory), *options).returncode


def start(directory: Path) -> str:
    """What becomes of a start of the daemon with a copy: "good", "torn" or why it is refused."""
    copy = directory.with_name("started")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(directory, copy, symlinks=True)
    state = Projection()
    try:
        journal = Journal.open(
            copy,
            Event,
            schema=SCHEMA,
            replay=state.apply_all,
            restore=state.restore,
            record_of=VOCABULARY.record_of,
            segment_bytes=SEGMENT_BYTES,
            fs=FS,
        )
    except (JournalError, OSError) as error:
        return str(error)
    asyncio.run(journal.close())
    return "torn" if journal.recovered.set_aside else "good"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal of each kind, by its name."""
    directory = tmp_path_factory.mktemp("made")
    for kind in KINDS:
        kind(directory / kind.__name__)
    return directory


def damaged(made: Path, kind: Act, all_damages: Iterable[Act]) -> Path:
    """A damaged copy of a journal of that kind."""
    directory = made / "it's work" / "a journal"
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(made / kind.__name__, directory)
    for damage in all_damages:
        damage(directory)
    return directory


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_good(made: Path, kind: Act) -> None:
    """Without damage there is nothing to say, and the daemon starts."""
    directory = damaged(made, kind, [])

    assert (0, []) == ask(directory, "--deep")
    assert "good" == start(directory)


def check_what_is_said(directory: Path, *options: str) -> Said:
    """Good means that a start is, torn that it sets something aside, and so in words."""
    said = ask(directory, *options)
    became = start(directory)

    told = [fault["meaning"] for fault in said.faults]
    assert said.status or became == "good"
    assert said.status != 1 or became == "torn"
    assert became != "torn" or "torn" in {fault["fault"] for fault in said.faults}
    assert all("coild starts" not in text for text in told) or became in STARTED
    assert all("coild refuses to start" not in text for text in told) or became not in STARTED
    return said


@settings(max_examples=250)
@given(
    kind=st.sampled_from(KINDS),
    all_damages=st.lists(damages(), min_size=1, max_size=2),
    deep=st.booleans(),
)
def test_what_verify_says_of_the_start_is_so(
    made: Path, kind: Act, all_damages: Sequence[Act], *, deep: bool
) -> None:
    """Whatever goes wrong with one file or two."""
    check_what_is_said(damaged(made, kind, all_damages), *(["--deep"] if deep else []))


@pytest.mark.parametrize("kind", KINDS)
def test_what_verify_says_of_each_file_is_so(made: Path, kind: Act) -> None:
    """Each file in turn, damaged in every way: in its header, behind it, or at its end."""
    tried = 0
    for number, path in enumerate(files_of(made / kind.__name__)):
        used = len(path.read_bytes().rstrip(b"\0"))
        for how in WAYS:
            for place in (9, min(4096 + 40, used - 2), used - 1)[: 3 if how == "flip" else 1]:
                damage = Damage(how, number, number + 1, place)
                directory = damaged(made, kind, [damage.__call__])
                said = check_what_is_said(directory)
                tried += 1
                if any("coild-repair" in fault["next"] for fault in said.faults):
                    check_repair(directory)
    assert tried > 30


def check_repair(directory: Path) -> None:
    """Where `coild-verify` advises to cut off the tail, that is done, and a start is possible."""
    done = run_here(repair.main, "--truncate-tail", "--yes", "--journal", str(directory))

    assert not done.returncode, done.stderr
    assert start(directory) in STARTED


def contents(directory: Path) -> dict[int, set[bytes]]:
    """What the copies of each segment hold, by the first sequence of their names."""
    found: dict[int, set[bytes]] = {}
    for file in [*list_segments(FS, directory), *list_archive(FS, directory)]:
        with contextlib.suppress(ValueError, OSError):
            found.setdefault(file.first_sequence, set()).add(read_segment(FS, file))
    return found


@settings(max_examples=100)
@given(
    kind=st.sampled_from(KINDS),
    all_damages=st.lists(damages(), min_size=1, max_size=2),
)
def test_a_compaction_keeps_the_good_copy(
    made: Path, kind: Act, all_damages: Sequence[Act]
) -> None:
    """What any copy of a segment still held before it, one holds after it, if it fails or not."""
    directory = damaged(made, kind, all_damages)
    true = {first: data for first, (data,) in contents(made / kind.__name__).items()}
    newest = max(true)
    before = contents(directory)
    compacted(directory)
    after = contents(directory)

    kept = [first for first in true if first != newest and true[first] in before.get(first, set())]
    assert [] == [first for first in kept if true[first] not in after.get(first, set())]


@pytest.mark.parametrize("kind", [stopped, stopped_twice])
@pytest.mark.parametrize("number", [0, 1])
def test_the_short_copy_is_to_blame(made: Path, kind: Act, number: int) -> None:
    """Of two copies, the one that ends before the next segment begins is bad, and it alone.

    What verify says to do makes it good again; a compaction in between takes away neither.
    """
    directory = damaged(made, kind, [])
    path = sorted(directory.glob("*.seg"))[number]
    whole = path.read_bytes()
    archive = directory / "archive" / f"{path.name}.zst"
    archived = archive.read_bytes()
    cut_at_a_frame(path, 2)
    _, (fault,) = ask(directory)
    refused = compacted(directory)

    assert ("copy", str(path)) == (fault["fault"], fault["file"])
    assert "does not end where the next segment begins" in fault["reason"]
    assert f"zstd -d -f {shlex.quote(str(archive))} " in fault["next"]
    assert (1, archived, True) == (refused, archive.read_bytes(), path.exists())

    path.write_bytes(whole)

    assert 0 == compacted(directory)
    assert (0, []) == ask(directory)


def test_the_files_that_damage_is_done_to(made: Path) -> None:
    """Segments, archived ones and snapshots are all among them."""
    suffixes = {path.suffix for kind in KINDS for path in files_of(made / kind.__name__)}

    assert {".seg", ".zst", ".snap"} == suffixes


def obey(directory: Path, fault: dict[str, Any], backup: Path) -> bool:
    """Do what `coild-verify` says, as a shell would; whether it could be done."""
    path, advice = Path(fault["file"]), fault["next"]
    _, said, command = advice.partition("run: ")
    argv = shlex.split(command.partition(";")[0])
    if advice.startswith("restore "):
        whole = backup / path.relative_to(directory)
        if not whole.exists():
            return False  # something else has the name of a segment: only people can judge that
        remove(path)
        shutil.copy(whole, path)
        return True
    if advice.startswith("remove it"):
        remove(path)
    if not said:
        return False
    if argv[0] == "zstd":
        if not shutil.which("zstd"):
            return False
        done = subprocess.run(argv, capture_output=True, check=False)
        return not done.returncode
    tool = {"coild-compact": compact, "coild-repair": repair, "coild-verify": verify}[argv[0]]
    ran = run_here(tool.main, *argv[1:], *["--yes"] * (tool is repair))
    return not ran.returncode


def remove(path: Path) -> None:
    """Remove what is under this name."""
    if path.is_dir():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


@settings(max_examples=100)
@given(kind=st.sampled_from(KINDS), damage=damages())
def test_what_verify_says_to_do_helps(made: Path, kind: Act, damage: Act) -> None:
    """Of a journal with one fault, in a directory that a shell has to be told of with quotes."""
    directory = damaged(made, kind, [damage])
    said = ask(directory)
    if len(said.faults) != 1 or not obey(directory, said.faults[0], made / kind.__name__):
        return
    after = ask(directory)

    assert (0, []) == (after.status, after.faults)
    assert "good" == start(directory)


def without_the_first_live_segment(directory: Path) -> None:
    """Remove the segment behind the newest snapshot."""
    min(directory.glob("*.seg")).unlink()


def a_stray_archive_file(directory: Path) -> None:
    """Copy the oldest segment of the archive to a name behind all others."""
    path = min((directory / "archive").glob("*.zst"))
    shutil.copy(path, path.with_name(f"{90000:020d}.seg.zst"))


@settings(max_examples=40)
@given(
    kind=st.sampled_from(KINDS),
    all_damages=st.lists(damages(), min_size=1, max_size=2),
)
@example(kind=live, all_damages=[Damage("swap", 3, 1, 0), Damage("directory", 3, 0, 0)])
@example(kind=live, all_damages=[Damage("directory", 3, 0, 0), Damage("empty", 4, 0, 0)])
@example(kind=live, all_damages=[Damage("twin", 2, 0, 20)])
@example(kind=live, all_damages=[Damage("remove", 0, 0, 0), Damage("twin", 2, 0, 90000)])
@example(kind=archived, all_damages=[a_stray_archive_file])
@example(kind=pruned, all_damages=[without_the_first_live_segment])
@example(kind=emptied, all_damages=[without_the_first_live_segment])
@example(kind=archived, all_damages=[Damage("flip", 0, 0, 60), Damage("flip", 38, 0, 4200)])
def test_what_verify_says_to_do_ends_well(
    made: Path, kind: Act, all_damages: Sequence[Act]
) -> None:
    """Done again and again, it makes the journal good, or says that a backup is needed."""
    directory = damaged(made, kind, all_damages)
    for _ in range(12):
        faults = ask(directory).faults
        if not any(mended(directory, fault) for fault in faults):
            break
    faults = ask(directory).faults

    assert faults or start(directory) == "good"
    assert not faults or any("from a backup" in fault["next"] for fault in faults)


@pytest.mark.parametrize("kind", [archived, pruned, emptied])
def test_without_the_first_live_segment_a_repair_goes_on_from_the_snapshot(
    made: Path, kind: Act
) -> None:
    """Its record went with that segment, and is journalled again."""
    directory = damaged(made, kind, [without_the_first_live_segment])
    told = " ".join(fault["next"] for fault in ask(directory).faults)
    check_repair(directory)

    assert "run: coild-repair --truncate-tail" in told
    assert (0, []) == ask(directory, "--deep")
    assert "good" == start(directory)


def mended(directory: Path, fault: dict[str, Any]) -> bool:
    """Do what `coild-verify` says, if that needs no backup; whether there was anything to do."""
    if move := MOVE.search(fault["next"]):
        remove(Path(move[1]))
        return True
    if "coild-repair" in fault["next"]:
        check_repair(directory)
        left = {(other["file"], other["reason"]) for other in ask(directory).faults}
        assert (fault["file"], fault["reason"]) not in left
        return True
    return "restore" not in fault["next"] and obey(directory, fault, directory)


def test_a_short_copy_beside_a_damaged_one_is_not_said_to_be_good(made: Path) -> None:
    """Then events are lost, and no copy is to be removed because of the other."""
    directory = damaged(made, stopped_twice, [])
    path = min(directory.glob("*.seg"))
    archive = directory / "archive" / f"{path.name}.zst"
    cut_at_a_frame(path, 2)
    archive.write_bytes(flipped(archive.read_bytes(), 60))
    faults = {fault["file"]: fault["fault"] for fault in ask(directory).faults}

    assert "segment" == faults[str(archive)]
    assert "copy" not in faults.values()


def test_damage_that_may_hide_an_order_to_prune_is_said_to(made: Path) -> None:
    """Where what was pruned looks lost because the record of the order is damaged."""
    directory = damaged(made, emptied, [])
    newest = max(directory.glob("*.seg"))
    cut_at_a_frame(newest, 0)
    damaged_too = max(path for path in directory.glob("*.seg") if path != newest)
    damaged_too.write_bytes(flipped(damaged_too.read_bytes(), SEGMENT_HEADER_BYTES + 60))
    (missing, segment) = sorted(ask(directory).faults, key=lambda fault: fault["fault"])

    assert ("missing", "segment") == (missing["fault"], segment["fault"])
    assert "the order may be in what is damaged or missing" in missing["meaning"]


def test_without_its_snapshot_pruned_history_does_not_start(made: Path) -> None:
    """The snapshot is named that has the state after what is gone, and the start is refused."""
    directory = damaged(made, emptied, [])
    newest = max(directory.glob("*.snap"))
    for path in directory.glob("*.snap"):
        path.unlink()
    status, (fault,) = ask(directory)

    assert (2, "snapshot", str(newest)) == (status, fault["fault"], fault["file"])
    assert "coild refuses to start" in fault["meaning"]
    assert "good" != start(directory)


def test_the_segment_that_follows_a_snapshot_is_missed(made: Path) -> None:
    """Also when the one before it was not removed yet: what was in it, nobody can tell."""
    directory = damaged(made, stopped_twice, [])
    newest = max(directory.glob("*.seg"))
    newest.unlink()
    status, (fault,) = ask(directory)

    assert (2, "missing", str(newest)) == (status, fault["fault"], fault["file"])
    assert "good" != start(directory)
