"""A snapshot counts only if the journal has the record of just its state."""

# expected == actual

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from coild.rules.events import SCHEMA, Event, SnapshotTaken
from coild.rules.projection import Projection
from coild.vocabulary import VOCABULARY, record_of
from journal import prepare
from journal.format.scan import list_decoder
from journal.format.snapshot import encode_snapshot, list_snapshots, read_snapshot
from journal.write.recovery import recover
from tests.kits.journal.building import SEGMENT_BYTES, opened
from tests.kits.journal.disks import FS
from tests.kits.journal.history import write, writing
from tests.kits.journal.verify import NOW, Made, facts
from tools.verify import cli as verify


def start(directory: Path) -> tuple[Projection, list[str]]:
    """The state that a start makes, and why it did not use snapshots."""
    state = Projection()
    found = recover(
        FS,
        directory,
        schema=SCHEMA,
        segment_bytes=SEGMENT_BYTES,
        now=NOW,
        decoder=list_decoder(Event),
        deliver=state.apply_all,
        restore=state.restore,
        record_of=record_of,
    )
    FS.close(found.fd)
    return state, [reason for _, reason in found.rejected]


def forge(directory: Path) -> None:
    """Take a holder out of the newest snapshot, with checksums that fit."""
    file = list_snapshots(FS, directory)[0]
    snapshot = read_snapshot(FS, file.path, SCHEMA)
    state = Projection()
    state.restore(snapshot)
    state.holdings.popitem()
    file.path.write_bytes(encode_snapshot(msgspec.structs.replace(snapshot, state=state.dump())))


def test_a_forged_snapshot_is_not_used_and_verify_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever makes its checksums anew does not make the record in the chain anew."""
    made = Made(tmp_path / "journal")
    expected, rejected = start(made.directory)
    forge(made.directory)
    state, reasons = start(made.directory)
    status = verify.main(["--journal", str(made.directory)])

    assert [] == rejected
    assert expected.dump() == state.dump()
    assert "it was altered" in reasons[0]
    assert 2 == status
    assert "its state has digest" in capsys.readouterr().err


def test_a_forged_snapshot_is_no_beginning_of_the_next(tmp_path: Path) -> None:
    """A compaction makes the state from events that the chain proves."""
    made = Made(tmp_path / "journal")
    with writing(made.directory) as journal:
        through = journal.log.seal()
        expected = prepare(FS, made.directory, through, VOCABULARY, Projection(), now=NOW).digest
    for file in list_snapshots(FS, made.directory)[:-1]:
        file.path.unlink()
    forge(made.directory)
    done = prepare(FS, made.directory, through, VOCABULARY, Projection(), now=NOW)

    assert expected == done.digest
    assert 0 == done.before


def test_a_snapshot_without_a_record_is_stepped_over(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A crash leaves one between its making and its record: the state is the same, no alarm."""
    with opened(directory, schema=SCHEMA, clock=lambda: NOW) as journal:
        for event in facts():
            journal.append([event])
        through = journal.log.seal()
        # The mark of a silence, in a segment that has no event yet.
        journal.append([])
        done = prepare(FS, directory, through, VOCABULARY, Projection(), now=NOW)
    state, reasons = start(directory)
    unrecorded = verify.main(["--journal", str(directory)])
    said = capsys.readouterr().err
    write(directory, [SnapshotTaken(NOW, through, bytes.fromhex(done.digest), 1)])
    _, recorded = start(directory)

    assert done.digest == state.digest()
    assert "the journal has no record of it" in reasons[0]
    assert 0 == unrecorded
    assert "the journal has no record of it, so nothing uses it" in said
    assert [] == recorded
    assert 0 == verify.main(["--journal", str(directory)])


def test_the_first_record_binds(tmp_path: Path) -> None:
    """A record that somebody appends for another state later does not vouch for it."""
    made = Made(tmp_path / "journal")
    forge(made.directory)
    sequence = list_snapshots(FS, made.directory)[0].sequence
    forged = read_snapshot(FS, list_snapshots(FS, made.directory)[0].path, SCHEMA)
    with writing(made.directory) as journal:
        journal.append([SnapshotTaken(NOW, sequence, bytes.fromhex(forged.digest), 1)])
    _, reasons = start(made.directory)

    assert "it was altered" in reasons[0]
