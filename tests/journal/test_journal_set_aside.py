"""Repairs that the journal has to tell of: noted before they are made, recorded once."""

from __future__ import annotations

from pathlib import Path

import pytest

from journal.format.segments import NOTE_NAME
from journal.fs import FileSystem
from journal.write.recovery import Recovered, recover
from journal.write.repair_note import SetAside, fingerprint, forget, unrecorded, write_note
from journal.write.segment_writer import Log
from journal.write.spare import Spare
from tests.kits.journal.building import (
    DECODER,
    SCHEMA,
    SEGMENT_BYTES,
    Put,
    build,
    encode,
    frames_of,
    patched,
    puts,
    segments,
)
from tests.kits.journal.disks import FS

GOOD = puts(3)
TORN = b"half a frame"


@pytest.fixture
def torn(directory: Path) -> Path:
    """A journal of three events with a torn tail."""
    build(directory, [GOOD])
    (path,) = segments(directory)
    data = path.read_bytes()
    _, frames = frames_of(data)
    path.write_bytes(patched(data, frames[-1].end, TORN))
    return directory


def recovered(directory: Path, fs: FileSystem = FS) -> tuple[Recovered, list[Put]]:
    """What recovery finds, and the events."""
    events: list[Put] = []
    found = recover(
        fs,
        directory,
        schema=SCHEMA,
        segment_bytes=SEGMENT_BYTES,
        now=len(list(directory.glob("*.torn-*"))),
        decoder=DECODER,
        deliver=events.extend,
    )
    return found, events


def recover_and_record(directory: Path, fs: FileSystem = FS) -> None:
    """Start as a program does: recover, record what was set aside, forget the note."""
    found, _ = recovered(directory, fs)
    log = Log(fs, found, Spare(fs, directory, SEGMENT_BYTES), SCHEMA, lambda: 1)
    for aside in found.set_aside:
        log.append([encode(Put(aside.kept, b""))])
    forget(fs, directory)
    log.close()


def test_a_torn_tail_is_told_of_until_it_is_recorded(torn: Path) -> None:
    """Each start says it again, then none does."""
    (segment,) = segments(torn)
    data = segment.read_bytes()
    first, _ = recovered(torn)
    FS.close(first.fd)
    second, _ = recovered(torn)
    FS.close(second.fd)
    recover_and_record(torn)
    last, events = recovered(torn)
    FS.close(last.fd)
    (aside,) = first.set_aside

    assert (segment.name, len(TORN), fingerprint(data)) == (aside.file, aside.size, aside.before)
    assert first.set_aside == second.set_aside
    assert not last.set_aside
    assert [*GOOD, Put(aside.kept, b"")] == events
    assert TORN == (torn / aside.kept).read_bytes()


def test_a_note_of_nothing_is_dropped(directory: Path) -> None:
    """A repair that came no further than its note changed nothing, and nothing is recorded."""
    build(directory, [GOOD])
    (path,) = segments(directory)
    entry = SetAside(path.name, 0, 1, "kept", "reason", fingerprint(path.read_bytes()))
    write_note(FS, directory, len(GOOD), [entry])
    found, events = recovered(directory)
    FS.close(found.fd)

    assert not found.set_aside
    assert GOOD == events
    assert not (directory / NOTE_NAME).exists()


def test_what_follows_in_the_journal_was_recorded(directory: Path) -> None:
    """The first events behind the note's last are its records: only the rest is missing."""
    build(directory, [GOOD])
    entries = [SetAside(f"gone-{number}", 0, 1, "kept", "", "") for number in range(3)]
    write_note(FS, directory, len(GOOD) - 2, entries, [b"one", b"two"])

    def left(last: int | None = None) -> tuple[int, int]:
        return tuple(map(len, unrecorded(FS, directory, last)))  # type: ignore[return-value]

    assert (3, 2) == left() == left(len(GOOD) - 2)
    assert (1, 2) == left(len(GOOD))
    assert (0, 1) == left(len(GOOD) + 2)
    assert (0, 0) == left(100)


def test_what_is_to_be_appended_again_needs_that_something_went(directory: Path) -> None:
    """As long as no file was changed, the events are where they were."""
    build(directory, [GOOD])
    (path,) = segments(directory)
    entry = SetAside(path.name, 0, 1, "kept", "reason", fingerprint(path.read_bytes()))
    write_note(FS, directory, 0, [entry], [b"again"])
    before = unrecorded(FS, directory)
    path.write_bytes(b"")
    after = unrecorded(FS, directory)

    assert not any(before)
    assert ((entry,), (b"again",)) == after


@pytest.mark.parametrize("note", [b"", b"{", b"[]", b'{"last-sequence": -1}', b"\xff" * 100])
def test_a_note_that_says_nothing_is_no_hindrance(directory: Path, note: bytes) -> None:
    """It was whole when it got its name: whatever it is now, the journal opens without it."""
    build(directory, [GOOD])
    (directory / NOTE_NAME).write_bytes(note)
    found, events = recovered(directory)
    FS.close(found.fd)

    assert GOOD == events
    assert not found.set_aside
    assert not (directory / NOTE_NAME).exists()


def test_a_note_that_nobody_would_read_is_not_written(
    torn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be recorded is not repaired, and all is as it was."""
    before = {path.name: path.read_bytes() for path in torn.iterdir() if path.suffix == ".seg"}
    monkeypatch.setattr("journal.write.repair_note.NOTE_BYTES_MAX", 100)
    with pytest.raises(OSError, match="the note of repairs would have") as raised:
        recovered(torn)
    monkeypatch.undo()

    assert str(torn / NOTE_NAME) == raised.value.filename
    assert before == {path.name: path.read_bytes() for path in torn.glob("*.seg*")}
    assert GOOD == recovered(torn)[1]
