"""`coild-verify`: its exit statuses, and what it says for each."""

from __future__ import annotations

from pathlib import Path

import pytest

from journal.codec import SEGMENT_HEADER_BYTES
from tests.daemon_kit import Daemon
from tests.journal_kit import (
    build,
    flipped,
    forged,
    frames_of,
    patched,
    puts,
    segments,
)
from tools import verify
from tools.verify import main


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A journal of five frames of one event; it is checked without knowing its events."""
    # The kit's journals have a vocabulary of their own, with a higher number than coild's.
    monkeypatch.setattr(verify, "SCHEMA", 1000)
    path = tmp_path / "journal"
    build(path, [[event] for event in puts(5)])
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
    assert capsys.readouterr().out == (
        f"5 events in 1 segments, head 5:{frames[-1].digest.hex()}\n"
    )


def test_a_torn_tail_gives_1(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The remains of an unfinished write give 1, with file, offset and what will become of it."""
    path, data = segment_of(directory)
    _, frames = frames_of(data)
    last = frames[-1]
    path.write_bytes(patched(data, last.offset + 20, bytes(last.end - last.offset - 20)))

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
    shown = capsys.readouterr().err
    assert f"{path} at offset {frames[2].offset}" in shown
    assert "the last good sequence is 2" in shown
    assert "restore" in shown


def test_an_alteration_with_fitting_checksums_gives_2(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A frame that was rewritten, checksum and all, breaks the chain of digests."""
    path, data = segment_of(directory)
    _, frames = frames_of(data)
    frame = frames[2]
    path.write_bytes(forged(data, frame, puts(1, start=9), previous_digest=frames[1].digest))

    assert main(["--journal", str(directory)]) == 2
    shown = capsys.readouterr().err
    assert "chain of digests" in shown


def test_a_newer_format_gives_3(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A newer format gives 3, and is not called corrupt."""
    path, data = segment_of(directory)
    path.write_bytes(patched(data, 12, b"\x63\x00"))

    assert main(["--journal", str(directory)]) == 3
    shown = capsys.readouterr().err
    assert "format version 99" in shown
    assert "corrupt" not in shown


@pytest.mark.parametrize("made", [False, True])
def test_no_journal_gives_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], *, made: bool
) -> None:
    """A directory that is missing or empty gives 3, named."""
    path = tmp_path / "nothing"
    if made:
        path.mkdir()

    assert main(["--journal", str(path)]) == 3
    assert str(path) in capsys.readouterr().err


def test_a_live_journal_is_checked_without_its_lock(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside a running daemon it finds what has been answered, and disturbs nothing."""
    daemon.allocate("c1")
    status = main(["--data-dir", str(daemon.data_dir)])
    events = len(daemon.events())

    assert status in {0, 1}  # a mark may be under way
    assert capsys.readouterr().out.startswith(f"{events} events in 1 segments, head {events}:")
    assert daemon.release("c1").status_code == 200


def test_the_header_page_is_checked(directory: Path) -> None:
    """Every byte of the header page counts, its zeros too."""
    path, data = segment_of(directory)
    path.write_bytes(flipped(data, SEGMENT_HEADER_BYTES - 1))

    assert main(["--journal", str(directory)]) == 2
