"""`coild-verify`: its exit statuses, and what it says for each."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coild.rules.events import (
    SCHEMA,
    AddressAllocated,
    HistoryPruned,
    SnapshotTaken,
)
from coild.rules.projection import Projection
from coild.vocabulary import VOCABULARY
from journal import prepare, prune, retire
from journal.format.archive import read_segment
from journal.format.codec import SEGMENT_HEADER_BYTES, decode_header
from journal.format.index import build_index
from journal.format.scan import list_decoder
from journal.format.segments import list_history
from journal.format.snapshot import encode_snapshot, read_snapshot
from tests.kits.daemon.process import Daemon
from tests.kits.journal.building import Put, flipped, forged, frames_of, patched, segments
from tests.kits.journal.disks import FS
from tests.kits.journal.history import write
from tests.kits.journal.verify import BLOCK, NOW, Made, facts, opened_plain
from tests.kits.system.tool import records
from tools.verify.cli import main


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A journal of five frames of one event."""
    path = tmp_path / "journal"
    write(path, facts(3), clock=lambda: NOW)
    return path


def segment_of(directory: Path) -> tuple[Path, bytes]:
    """The only segment, and its bytes."""
    (path,) = segments(directory)
    return path, path.read_bytes()


def test_a_whole_journal_is_good(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A journal without damage gives 0 and its head on stdout."""
    _, data = segment_of(directory)
    _, frames = frames_of(data)

    assert main(["--journal", str(directory)]) == 0
    assert capsys.readouterr().out == (f"5 events in 1 segments, head 5:{frames[4].digest.hex()}\n")


@pytest.mark.parametrize("deep", [[], ["--deep"]])
def test_a_compacted_journal_is_good(
    made: Made, capsys: pytest.CaptureFixture[str], deep: list[str]
) -> None:
    """Archive, snapshot and indexes are as they should be, and nothing is said about them."""
    status = main(["--journal", str(made.directory), *deep])
    shown = capsys.readouterr()

    assert (0, "", f"9 events in 4 segments, head {made.heads[-1]}\n") == (
        status,
        shown.err,
        shown.out,
    )


def test_a_torn_tail_gives_1(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The remains of an unfinished write give 1, with file, offset and what will become of it."""
    path, data = segment_of(directory)
    _, frames = frames_of(data)
    last = frames[4]
    path.write_bytes(patched(data, last.offset + 20, bytes(frames[-1].end - last.offset - 20)))

    assert main(["--journal", str(directory)]) == 1
    shown = capsys.readouterr()
    assert shown.out.startswith("4 events in 1 segments, head 4:")
    assert f"torn tail: {path} at offset {last.offset}" in shown.err
    assert "next start of coild" in shown.err


def test_damage_gives_2(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A flipped byte gives 2, with file, offset, last good sequence and what to do."""
    path, data = segment_of(directory)
    _, frames = frames_of(data)
    path.write_bytes(flipped(data, frames[2].offset + 60))

    assert main(["--journal", str(directory)]) == 2
    shown = capsys.readouterr()
    assert f"{path} at offset {frames[2].offset}" in shown.err
    assert "the last good sequence is 2" in shown.err
    assert f"run: coild-repair --truncate-tail --journal {directory}" in shown.err
    assert shown.out.endswith(f"head 2:{frames[1].digest.hex()}\n")


def test_json_has_a_record_of_each_fault_and_one_of_all(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scripts get the same as people do."""
    path, data = segment_of(directory)
    _, frames = frames_of(data)
    path.write_bytes(flipped(data, frames[2].offset + 60))
    main(["--journal", str(directory), "-o", "json"])
    fault, summary = records(capsys.readouterr().out)

    assert ("fault", "segment", str(path), frames[2].offset, 2) == tuple(
        fault[key] for key in ("record", "fault", "file", "offset", "last-sequence")
    )
    assert "coild-repair --truncate-tail" in fault["next"]
    assert fault["meaning"]
    assert ("summary", "corrupt", f"2:{frames[1].digest.hex()}") == (
        summary["record"],
        summary["result"],
        summary["head"],
    )


def test_an_alteration_with_fitting_checksums_gives_2(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A frame that was rewritten, checksum and all, breaks the chain of digests."""
    path, data = segment_of(directory)
    _, frames = frames_of(data)
    other = AddressAllocated(NOW, BLOCK, 0, "cX", "default", "web-0", "default")
    path.write_bytes(forged(data, frames[2], [other], previous_digest=frames[1].digest))

    assert main(["--journal", str(directory)]) == 2
    assert "chain of digests" in capsys.readouterr().err


def test_a_newer_format_gives_3(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A newer format gives 3, and is not called corrupt."""
    path, data = segment_of(directory)
    path.write_bytes(patched(data, 12, b"\x63\x00"))

    assert main(["--journal", str(directory)]) == 3
    shown = capsys.readouterr().err
    assert "format version 99" in shown
    assert "corrupt" not in shown


def test_events_of_another_program_give_3(tmp_path: Path) -> None:
    """Intact frames of events that are not coild's are unsupported."""
    write(tmp_path / "journal", [Put("key", b"value")], clock=lambda: NOW)

    assert main(["--journal", str(tmp_path / "journal")]) == 3


@pytest.mark.parametrize("made_directory", [False, True])
def test_no_journal_gives_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], *, made_directory: bool
) -> None:
    """A directory that is missing or empty gives 3, named."""
    path = tmp_path / "nothing"
    if made_directory:
        path.mkdir()

    assert main(["--journal", str(path)]) == 3
    assert str(path) in capsys.readouterr().err


def test_a_live_journal_is_checked_without_its_lock(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside a running daemon it finds what has been answered, and disturbs nothing."""
    daemon.allocate("c1")
    events = len(daemon.events())

    assert main(["--data-dir", str(daemon.data_dir), "--deep"]) == 0
    assert capsys.readouterr().out.startswith(f"{events} events in 1 segments, head {events}:")
    assert daemon.release("c1").status_code == 200


def test_the_head_of_a_live_journal_is_an_anchor_from_then_on(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--head` prints what `--anchor` finds again, whatever came after."""
    daemon.allocate("c1")
    journal = str(daemon.data_dir / "journal")
    status = main(["--journal", journal, "--head"])
    head = capsys.readouterr().out.strip()
    daemon.allocate("c2")

    assert status == 0
    assert head.startswith(f"{len(daemon.events()) - 1}:")
    assert main(["--journal", journal, "--anchor", head]) == 0


def test_the_header_page_is_checked(directory: Path) -> None:
    """Every byte of the header page counts, its zeros too."""
    path, data = segment_of(directory)
    path.write_bytes(flipped(data, SEGMENT_HEADER_BYTES - 1))

    assert main(["--journal", str(directory)]) == 2


@pytest.fixture(scope="module")
def compacted(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A compacted journal that its tests put back."""
    return Made(tmp_path_factory.mktemp("compacted") / "journal")


@settings(max_examples=150)
@given(data=st.data())
def test_any_altered_byte_is_found(compacted: Made, data: st.DataObject) -> None:
    """Whatever byte of segment, archive, snapshot or index is altered: it is told, by its file."""
    path = data.draw(st.sampled_from(compacted.files))
    before = path.read_bytes()
    live_tail = path == segments(compacted.directory)[-1]
    used = len(before.rstrip(b"\0")) if path.suffix == ".seg" else len(before)
    offset = data.draw(st.integers(0, used - 1))
    path.write_bytes(flipped(before, offset, data.draw(st.integers(1, 255))))
    try:
        with pytest.MonkeyPatch.context() as patch:
            said: list[str] = []
            patch.setattr("tools.verify.cli.notice", lambda *lines: said.extend(lines))
            status = main(["--journal", str(compacted.directory)])
    finally:
        path.write_bytes(before)

    assert any(str(path) in text for text in said)
    # The last frame that no mark vouches for looks like a torn write; a version may be a newer one.
    expected = {0} if path.suffix == ".idx" else {2, 3} | ({1} if live_tail else set())
    assert status in expected


@pytest.mark.parametrize(
    ("suffix", "word"),
    [(".zst", "restore"), (".snap", "coild-compact"), (".seg", "restore")],
)
def test_a_fault_says_what_to_do_next(
    made: Made, capsys: pytest.CaptureFixture[str], suffix: str, word: str
) -> None:
    """Each kind of file has a remedy of its own."""
    path = next(path for path in made.files if path.suffix == suffix)
    path.write_bytes(flipped(path.read_bytes(), 60))

    assert main(["--journal", str(made.directory)]) == 2
    assert word in capsys.readouterr().err.partition("what to do: ")[2]


def test_a_bad_copy_beside_a_good_one_is_found(
    made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    """A segment that is archived and not yet removed counts as whole, its bad copy is told."""
    first = made.directory / f"{1:020d}.seg"
    archived = made.directory / "archive" / f"{1:020d}.seg.zst"
    from journal.format.archive import decompress  # noqa: PLC0415 - this test alone

    first.write_bytes(decompress(archived.read_bytes()))
    both = main(["--journal", str(made.directory)])
    first.write_bytes(flipped(first.read_bytes(), SEGMENT_HEADER_BYTES + 60))
    capsys.readouterr()

    assert both == 0
    assert main(["--journal", str(made.directory)]) == 2
    shown = capsys.readouterr()
    assert f"bad copy: {first}" in shown.err
    assert f"head {made.heads[-1]}" in shown.out


def test_a_bad_index_is_a_notice(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    """An index proves nothing, so a bad one is made again, and the journal is good."""
    index = next(path for path in made.files if path.suffix == ".idx")
    index.write_bytes(index.read_bytes() + b"\0")

    assert main(["--journal", str(made.directory)]) == 0
    assert f"{index}: " in (said := capsys.readouterr().err)
    assert "will be made again" in said


def test_an_index_that_hides_events_is_bad(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever makes its checksums anew cannot hide a container: it is compared with the segment."""
    index = next(path for path in made.files if path.suffix == ".idx")
    (file,) = (each for each in list_history(FS, made.directory) if each.index_path == index)
    segment = read_segment(FS, file)
    keys = VOCABULARY.keys
    blind = keys._replace(of=lambda event: list(keys.of(event))[1:])
    decoder = list_decoder(VOCABULARY.event_type)
    index.write_bytes(build_index(segment, decode_header(segment, SCHEMA), decoder, blind))

    status = main(["--journal", str(made.directory), "--deep"])
    said = capsys.readouterr().err
    index.unlink()

    assert status == 2
    assert f"bad index: {index}: it does not list what its segment holds" in said
    assert f"remove {index}" in said
    assert main(["--journal", str(made.directory)]) == 0


def test_a_snapshot_that_the_journal_contradicts_is_bad(
    made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    """A snapshot that was rewritten, digest and all, is not what the journal recorded."""
    (path,) = made.directory.glob("*.snap")
    snapshot = read_snapshot(FS, path, SCHEMA)
    empty = msgspec.structs.replace(snapshot, state=Projection().dump())
    path.write_bytes(encode_snapshot(empty))

    assert main(["--journal", str(made.directory)]) == 2
    assert f"bad snapshot: {path}" in capsys.readouterr().err


@pytest.mark.parametrize("field", ["chain_digest", "journal_id"])
def test_a_snapshot_of_another_journal_is_bad(
    made: Made, capsys: pytest.CaptureFixture[str], field: str
) -> None:
    """A whole snapshot that the chain of segments does not lead to is told."""
    (path,) = made.directory.glob("*.snap")
    other = msgspec.structs.replace(read_snapshot(FS, path, SCHEMA), **{field: bytes(16)})
    path.write_bytes(encode_snapshot(other))

    assert main(["--journal", str(made.directory)]) == 2
    assert f"bad snapshot: {path}" in capsys.readouterr().err


def test_a_missing_archive_file_gives_2(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    """A gap in the chain of segments is damage, told with what is nowhere."""
    (_, second) = sorted((made.directory / "archive").glob("*.zst"))
    second.unlink()

    assert main(["--journal", str(made.directory)]) == 2
    assert "the events 4 to 5 are nowhere" in capsys.readouterr().err


def pruned(made: Made) -> None:
    """Remove the archive, without a record of it."""
    prune(FS, made.directory, made.through)


def test_a_beginning_that_is_gone_without_a_record_is_told(
    made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a snapshot the state is whole, but history that nobody ordered to go is lost."""
    pruned(made)

    assert main(["--journal", str(made.directory), "--deep"]) == 2
    shown = capsys.readouterr()
    assert f"the events 1 to {made.through} are nowhere" in shown.err
    assert "the state is whole, its history is not" in shown.err
    assert f"4 events in 2 segments, head {made.heads[-1]}" in shown.out


def test_a_beginning_that_is_gone_without_a_snapshot_gives_2(
    made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody can tell the state then."""
    pruned(made)
    (path,) = made.directory.glob("*.snap")
    path.unlink()

    assert main(["--journal", str(made.directory)]) == 2
    assert "no snapshot covers them" in capsys.readouterr().err


def test_pruned_history_is_good(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the journal says was pruned, is not missed."""
    path = tmp_path / "journal"
    with opened_plain(path) as journal:
        journal.append(facts())
        through = journal.log.seal()
        done = prepare(FS, path, through, VOCABULARY, Projection(), now=NOW)
        journal.append([SnapshotTaken(NOW + 49, through, bytes.fromhex(done.digest), 1)])
        retire(FS, path, SCHEMA)
        journal.append([HistoryPruned(NOW + 50, through, 1, 1, "delete")])
        prune(FS, path, through)

    assert main(["--journal", str(path), "--deep"]) == 0
    assert "" == capsys.readouterr().err


def test_every_head_is_an_anchor(made: Made) -> None:
    """The head behind each frame, a mark too, and between segments, is found."""
    statuses = {main(["--journal", str(made.directory), "--anchor", at]) for at in made.heads}

    assert statuses == {0}


@pytest.mark.parametrize(
    ("anchor", "status"),
    [
        (lambda made: made.heads[2][:-1] + ("0" if made.heads[2][-1] != "0" else "1"), 2),
        (lambda made: made.heads[2].replace("3:", "4:"), 2),
        (lambda _made: f"1000:{'0' * 32}", 2),
        (lambda _made: "7", 3),
        (lambda made: made.heads[0][:-1], 3),
        (lambda made: made.heads[2].upper(), 0),
    ],
)
def test_an_anchor_that_is_not_there(
    made: Made, anchor: Callable[[Made], str], status: int
) -> None:
    """Another digest, or one of another sequence, is not in the journal; half a head is none."""
    assert main(["--journal", str(made.directory), "--anchor", anchor(made)]) == status


def test_an_anchor_from_before_what_was_pruned_gives_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It cannot be told any more; the end of what was pruned still can."""
    path = tmp_path / "journal"
    heads = []
    with opened_plain(path) as journal:
        for fact in facts():
            journal.append([fact])
            heads.append(f"{journal.log.next_sequence - 1}:{journal.log.digest.hex()}")
        through = journal.log.seal()
        done = prepare(FS, path, through, VOCABULARY, Projection(), now=NOW)
        retire(FS, path, SCHEMA)
        journal.append([SnapshotTaken(NOW, through, bytes.fromhex(done.digest), 1)])
        journal.append([HistoryPruned(NOW + 50, through, 1, 1, "delete")])
        prune(FS, path, through)
    there = [main(["--journal", str(path), "--anchor", head]) for head in heads]

    assert [*([3] * (len(heads) - 1)), 0] == there
    assert "were pruned" in capsys.readouterr().err


def test_deep_finds_events_that_contradict_each_other(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whole frames can tell nonsense: one address, two holders."""
    twice = AddressAllocated(NOW + 9, BLOCK, 0, "cX", "default", "web-0", "default")
    shutil.rmtree(directory)
    write(directory, [*facts(3), twice], clock=lambda: NOW)
    shallow = main(["--journal", str(directory)])

    assert shallow == 0
    assert main(["--journal", str(directory), "--deep"]) == 2
    assert "event 6 breaks an invariant" in capsys.readouterr().err


def test_a_read_only_copy_can_be_checked(made: Made, tmp_path: Path) -> None:
    """It writes nothing, not even what is missing."""
    copy = tmp_path / "copy"
    shutil.copytree(made.directory, copy)
    for index in copy.rglob("*.idx"):
        index.unlink()
    before = sorted(path.name for path in copy.rglob("*"))
    for path in (copy / "archive", copy):
        path.chmod(0o500)
    try:
        status = main(["--journal", str(copy), "--deep"])
        after = sorted(path.name for path in copy.rglob("*"))
    finally:
        for path in (copy, copy / "archive"):
            path.chmod(0o700)

    assert status == 0
    assert before == after


def test_a_bad_flag_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A usage error gives 2."""
    with pytest.raises(SystemExit) as caught:
        main(["--nonsense"])

    assert caught.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
