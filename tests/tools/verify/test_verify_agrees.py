"""`coild-verify` and a start agree about every damage of every kind of journal."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from coild.rules.events import SCHEMA, Event, HistoryPruned, SnapshotTaken
from coild.rules.projection import Projection
from coild.vocabulary import VOCABULARY
from journal import JournalError, prepare, prune, retire
from journal.format.scan import list_decoder
from journal.write.recovery import Recovered, recover
from tests.kits.journal.building import (
    SEGMENT_BYTES,
    flipped,
    frames_of,
    opened,
)
from tests.kits.journal.compaction import put_tree, tree
from tests.kits.journal.disks import FS
from tests.kits.journal.verify import NOW, age, facts, records
from tools import compact, repair
from tools.verify import cli as verify

EVENTS = facts(30)


class Kind(NamedTuple):
    """How far a journal's compactions went."""

    compacted: int = 0
    #: Prepared once more, and not retired.
    prepared: bool = False
    pruned: int = 0


KINDS = {
    "live": Kind(),
    "prepared": Kind(prepared=True),
    "compacted": Kind(compacted=1),
    "compacted twice": Kind(compacted=2),
    "prepared again": Kind(compacted=1, prepared=True),
    "pruned": Kind(compacted=2, pruned=6),
    "all pruned": Kind(compacted=1, pruned=100),
}


def make(directory: Path, kind: Kind) -> None:
    """A journal with segments of four events; some archived, some pruned, some in both places."""
    with opened(directory, schema=SCHEMA, clock=lambda: NOW) as journal:
        events = iter(EVENTS)

        def segment(count: int = 4) -> int:
            for _ in range(count):
                journal.append([next(events)])
            return journal.log.seal()

        for _ in range(kind.compacted):
            through = [segment() for _ in range(3)][-1]
            done = prepare(FS, directory, through, VOCABULARY, Projection(), now=NOW)
            journal.append([SnapshotTaken(NOW, through, bytes.fromhex(done.digest), 1)])
            retire(FS, directory, SCHEMA)
        if kind.pruned:
            pruned = min(kind.pruned, journal.log.next_sequence - 2)
            journal.append([HistoryPruned(NOW, pruned, 1, 1, "--delete")])
            prune(FS, directory, pruned)
        through = [segment(2) for _ in range(2)][-1]
        if kind.prepared:
            prepare(FS, directory, through, VOCABULARY, Projection(), now=NOW)
        segment(1)
        journal.append([next(events)])
        journal.append([])


def zeroed_end(data: bytes) -> bytes:
    """A segment without its last frame with events, zeros in their place: whole, but short."""
    _, frames = frames_of(data)
    keep = max((frame.offset for frame in frames[1:] if frame.count), default=frames[0].end)
    return data[:keep].ljust(len(data), b"\0")


def damages(directory: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Every damage to every file, as a name and what does it."""
    files = [
        path for path in sorted(directory.rglob("*")) if path.suffix in {".seg", ".zst", ".snap"}
    ]
    for path in files:
        data = path.read_bytes()
        name = path.name
        yield f"{name} dropped", path.unlink
        yield f"{name} a directory", lambda path=path: (path.unlink(), path.mkdir())  # type: ignore[misc]
        yield f"{name} a dangling link", lambda path=path: (path.unlink(), path.symlink_to("no"))  # type: ignore[misc]
        for what, altered in {
            "emptied": b"",
            "cut": data[: len(data) // 2],
            "altered at its beginning": flipped(data, 9),
            "altered": flipped(data, min(len(data) - 1, 4096 + 40)),
            "altered at its end": flipped(data, len(data) - 1),
        }.items():
            yield f"{name} {what}", lambda path=path, altered=altered: path.write_bytes(altered)  # type: ignore[misc]
        if path.suffix == ".seg" and len(frames_of(data)[1]) > 1:
            yield (
                f"{name} zeroed from its last frame on",
                lambda path=path, data=data: path.write_bytes(zeroed_end(data)),  # type: ignore[misc]
            )
        for other in files:
            if other.suffix == path.suffix and other != path:
                yield (
                    f"{name} replaced by {other.name}",
                    lambda path=path, other=other: shutil.copy(other, path),  # type: ignore[misc]
                )


def start(directory: Path) -> Recovered | None:
    """What a start finds; None if it refuses."""
    state = Projection()
    try:
        found = recover(
            FS,
            directory,
            schema=SCHEMA,
            segment_bytes=SEGMENT_BYTES,
            now=NOW,
            decoder=list_decoder(Event),
            deliver=state.apply_all,
            restore=state.restore,
            record_of=VOCABULARY.record_of,
        )
    except (JournalError, OSError):
        return None
    FS.close(found.fd)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_verify_says_what_a_start_will_do(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Good is what opens, torn is what is set aside, what is refused is a fault; advice works."""
    made = tmp_path / "made"
    make(made, KINDS[kind])
    count = 0
    for number, (name, _) in enumerate(damages(made)):
        directory = tmp_path / f"{number}"
        put_tree(directory, tree(made))
        same, do = list(damages(directory))[number]
        assert name == same
        do()
        age(directory)
        status = verify.main(["--journal", str(directory), "-o", "json"])
        faults = [it for it in records(capsys.readouterr().out) if "fault" in it]
        copy = tmp_path / "copy"
        shutil.copytree(directory, copy, symlinks=True)
        found = start(copy)
        shutil.rmtree(copy)
        count += 1

        if status == 0:
            assert found is not None, name
        if found is None:
            assert status >= 2, name
        elif found.set_aside:
            assert status in {1, 2}, name
            assert any(fault["fault"] == "torn" for fault in faults), name
        elif not found.rejected:
            assert status != 1, name
        for fault in faults:
            _check_advice(directory, name, fault)
            capsys.readouterr()
        shutil.rmtree(directory)
    assert count > 30


def _check_advice(directory: Path, name: str, fault: dict[str, str]) -> None:
    """What the advice says to run works, and then the journal opens."""
    journal = ["--journal", str(directory)]
    said = "coild starts" in fault["meaning"]
    copy = directory.with_name("advised")
    shutil.copytree(directory, copy, symlinks=True)
    assert not said or start(copy) is not None, (name, fault)
    shutil.rmtree(copy)
    if "coild-repair" in fault["next"]:
        shutil.copytree(directory, copy, symlinks=True)
        journal = ["--journal", str(copy)]
        assert repair.main(["--truncate-tail", "--yes", *journal]) == 0, (name, fault)
        assert start(copy) is not None, (name, fault)
        shutil.rmtree(copy)


@pytest.mark.parametrize("kind", ["prepared", "prepared again"])
def test_a_short_live_copy_replaces_no_good_one(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where a segment ends before its successor begins, the archive's copy stays, and is good."""
    directory = tmp_path / "journal"
    make(directory, KINDS[kind])
    live = min(directory.glob("*.seg"))
    archived = directory / "archive" / f"{live.name}.zst"
    good = archived.read_bytes()
    live.write_bytes(zeroed_end(live.read_bytes()))
    status = verify.main(["--journal", str(directory), "-o", "json"])
    (fault,) = (it for it in records(capsys.readouterr().out) if "fault" in it)
    compacted = compact.main(["--journal", str(directory)])

    assert status == 2
    assert str(live) == fault["file"]
    assert good == archived.read_bytes()
    assert live.exists() or compacted == 0
