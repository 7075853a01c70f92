"""Whatever goes wrong with the files of a journal: what is said of it is so, and nothing gets lost.

For journals in every state that compaction and pruning leave, and all kinds of damage to them.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coild.rules.events import SCHEMA, Event
from coild.rules.projection import Projection
from journal import Journal, JournalError
from journal.format.archive import read_segment
from journal.format.codec import SEGMENT_HEADER_BYTES
from journal.format.segments import list_archive, list_segments
from tests.kits.journal.building import SEGMENT_BYTES, flipped
from tests.kits.journal.damage import (
    KINDS,
    cut_at_a_frame,
    damages,
    emptied,
    files_of,
    stopped,
    stopped_twice,
)
from tests.kits.journal.disks import FS
from tools import compact, repair
from tools.verify import cli as verify

#: Makes a journal, or does something to it.
Act = Callable[[Path], None]


class Said(NamedTuple):
    """What `coild-verify` says of a journal."""

    status: int
    faults: list[dict[str, Any]]


def ask(directory: Path, *options: str) -> Said:
    """Run `coild-verify`."""
    stdout = io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(io.StringIO()):
        status = verify.main(["--journal", str(directory), "-o", "json", *options])
    records = [msgspec.json.decode(line) for line in stdout.getvalue().splitlines()]
    return Said(status, [record for record in records if record["record"] == "fault"])


def compacted(directory: Path, *options: str) -> int:
    """Run `coild-compact`; the exit status."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return compact.main(["--journal", str(directory), *options])


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


def damaged(made: Path, kind: Act, all_damages: Sequence[Act]) -> Path:
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


@settings(max_examples=250)
@given(
    kind=st.sampled_from(KINDS),
    all_damages=st.lists(damages(), min_size=1, max_size=2),
    deep=st.booleans(),
)
def test_what_verify_says_of_the_start_is_so(
    made: Path, kind: Act, all_damages: Sequence[Act], *, deep: bool
) -> None:
    """Good means that the daemon starts, torn that it sets something aside, and so in words."""
    directory = damaged(made, kind, all_damages)
    said = ask(directory, *(["--deep"] if deep else []))
    became = start(directory)

    told = [fault["meaning"] for fault in said.faults]
    assert said.status or became == "good"
    assert said.status != 1 or became == "torn"
    assert became != "torn" or said.status
    assert all("coild starts" not in text for text in told) or became in {"good", "torn"}
    assert all("coild refuses to start" not in text for text in told) or became not in {
        "good",
        "torn",
    }


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
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return not tool.main(argv[1:] + ["--yes"] * (tool is repair))


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
