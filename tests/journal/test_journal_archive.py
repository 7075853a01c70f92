"""The archive: a segment comes back byte for byte, or not at all."""

# expected == actual

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from journal import JournalCorruptError, JournalUnsupportedError, Reader
from journal.format import archive
from journal.format.archive import CHUNK_BYTES, compress, decompress, open_segment
from journal.format.codec import MalformedError, UnsupportedError
from journal.format.segments import ARCHIVE_NAME, SegmentFile, archive_path
from tests.crash.simulated.disk import SimulatedDisk
from tests.kits.journal.building import SCHEMA, Event, flipped, patched, puts, read_back, segments
from tests.kits.journal.compaction import archived, compact, write_sealed
from tests.kits.journal.disks import FS

#: Lengths around the chunk's.
SIZES = [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 17]
FOOTER_BYTES = 48


def noise(size: int) -> bytes:
    """Bytes half of which compress."""
    return random.Random(size).randbytes(size // 2) + bytes(size - size // 2)  # noqa: S311


def as_archive(directory: Path, data: bytes) -> SegmentFile:
    """An archive file of those bytes, its content whatever it is."""
    path = archive_path(directory, 1)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return SegmentFile(1, path)


@given(st.binary(max_size=3000), st.integers(0, 2 * CHUNK_BYTES))
@settings(max_examples=50)
def test_any_bytes_come_back(data: bytes, zeros: int) -> None:
    """What is compressed comes back, whatever it is."""
    segment = data + bytes(zeros) + data

    assert segment == decompress(compress(segment))


@pytest.mark.parametrize("size", SIZES)
def test_any_length_comes_back(size: int) -> None:
    """Chunk boundaries make no difference."""
    assert noise(size) == decompress(compress(noise(size)))


@pytest.mark.skipif(shutil.which("zstd") is None, reason="there is no zstd command")
@pytest.mark.parametrize("size", SIZES[1:])
def test_the_zstd_command_restores_a_segment(tmp_path: Path, size: int) -> None:
    """An archive file is an ordinary zstd file to every other tool."""
    path = tmp_path / "segment.zst"
    path.write_bytes(compress(noise(size)))
    run = subprocess.run(["zstd", "-d", "-c", path], capture_output=True, check=True, timeout=60)
    subprocess.run(["zstd", "-q", "-t", path], check=True, timeout=60)

    assert noise(size) == run.stdout


def test_any_flipped_bit_is_noticed() -> None:
    """No bit of an archive file can change unnoticed."""
    data = compress(noise(800))

    for offset in range(len(data)):
        for bit in range(8):
            with pytest.raises((MalformedError, UnsupportedError)):
                decompress(flipped(data, offset, 1 << bit))


def test_any_flipped_bit_of_a_larger_file_is_noticed() -> None:
    """Nor of one with several chunks."""
    data = compress(noise(3 * CHUNK_BYTES))
    choice = random.Random(1)  # noqa: S311

    for offset in [*choice.sample(range(len(data)), 200), *range(len(data) - 80, len(data))]:
        with pytest.raises((MalformedError, UnsupportedError)):
            decompress(flipped(data, offset, 1 << choice.randrange(8)))


def test_any_truncation_is_noticed() -> None:
    """A file that was cut is refused, wherever; so is one that grew."""
    data = compress(noise(2000))

    for size in range(len(data)):
        with pytest.raises(MalformedError):
            decompress(data[:size])
    for more in (b"\0", b"rubbish", data):
        with pytest.raises(MalformedError):
            decompress(data + more[:50])


def test_chunks_that_changed_places_are_noticed() -> None:
    """Two whole chunks of the same compressed size cannot be exchanged."""
    halves = [bytes([n]) * CHUNK_BYTES for n in (1, 2)]
    there, back = (compress(b"".join(order)) for order in (halves, halves[::-1]))
    assert len(there) == len(back)
    exchanged = back[: -FOOTER_BYTES - 16] + there[-FOOTER_BYTES - 16 :]

    with pytest.raises(MalformedError, match="do not match their digest"):
        decompress(exchanged)


def test_a_newer_version_is_unsupported() -> None:
    """What a newer program wrote is not damaged, and is not read."""
    data = compress(b"x")

    with pytest.raises(UnsupportedError, match="version 2"):
        decompress(patched(data, len(data) - FOOTER_BYTES + 12, b"\2\0"))


@given(st.integers(0, 3 * CHUNK_BYTES + 40), st.integers(0, 2 * CHUNK_BYTES))
@settings(max_examples=60)
def test_any_part_can_be_read(offset: int, size: int) -> None:
    """A part of an archived segment is the same part of the segment."""
    data = noise(3 * CHUNK_BYTES + 17)
    path = archive_path(Path("/"), 1)
    disk = SimulatedDisk.holding({path.parent.name: {path.name: compress(data)}})
    with open_segment(disk, SegmentFile(1, path)) as segment:
        assert len(data) == segment.size
        assert data[offset : offset + size] == segment.read(size, offset)


def test_reading_a_part_notices_its_damage(tmp_path: Path) -> None:
    """A damaged chunk cannot be read; those beside it can."""
    data = noise(4 * CHUNK_BYTES)
    compressed = compress(data)
    file = as_archive(tmp_path, flipped(compressed, 1000))

    with open_segment(FS, file) as segment:
        with pytest.raises(MalformedError, match="chunk 0"):
            segment.read(1, 0)
        assert data[CHUNK_BYTES : 2 * CHUNK_BYTES] == segment.read(CHUNK_BYTES, CHUNK_BYTES)


def journal(directory: Path) -> list[Path]:
    """Make a journal with several archived segments; those."""
    compact(directory, write_sealed(directory, puts(900)))
    assert len(archived(directory)) > 2
    return archived(directory)


def test_an_archived_journal_reads_as_before(directory: Path) -> None:
    """`read_events` reads the archive and what is live as one; so it does what `zstd -d` gives."""
    files = journal(directory)

    assert puts(900) == read_back(directory)
    for path in files:
        (directory / path.stem).write_bytes(decompress(path.read_bytes()))
        path.unlink()
    assert len(files) + 1 == len(segments(directory))
    assert puts(900) == read_back(directory)


def test_a_missing_archive_file_is_a_gap(directory: Path) -> None:
    """Reading past a file that is missing raises, and says which events are nowhere."""
    first, missing = journal(directory)[:2]
    missing.unlink()
    nowhere = int(missing.name[:20])

    found: list[Any] = []
    with pytest.raises(JournalCorruptError, match=f"events {nowhere} to") as raised:
        found.extend(
            event
            for batch in Reader(directory, Event, schema=SCHEMA).batches()
            for event in batch.events
        )
    assert nowhere - 1 == raised.value.last_sequence == len(found)
    assert first.exists()


def test_an_altered_archive_file_is_named(directory: Path) -> None:
    """Reading a damaged file raises with its path; a newer one is unsupported."""
    path = journal(directory)[1]
    good = path.read_bytes()

    path.write_bytes(flipped(good, 100))
    with pytest.raises(JournalCorruptError) as corrupt:
        read_back(directory)
    path.write_bytes(patched(good, len(good) - FOOTER_BYTES + 12, b"\2\0"))
    with pytest.raises(JournalUnsupportedError) as unsupported:
        read_back(directory)
    assert [path, path] == [corrupt.value.file, unsupported.value.file]


def test_a_renamed_archive_file_is_noticed(directory: Path) -> None:
    """A whole archive file under another's name does not pass for it."""
    first, second = journal(directory)[:2]
    second.write_bytes(first.read_bytes())

    with pytest.raises(JournalCorruptError, match="is named for sequence"):
        read_back(directory)


def test_an_archive_of_another_journal_is_noticed(tmp_path: Path) -> None:
    """The chain of digests ties an archive file to its neighbours."""
    directory, other = tmp_path / "journal", tmp_path / "other"
    journal(other)
    files = journal(directory)
    files[1].write_bytes((other / ARCHIVE_NAME / files[1].name).read_bytes())

    with pytest.raises(JournalCorruptError, match="another journal"):
        read_back(directory)


def test_a_chunk_is_never_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads one frame decompresses a chunk: one of 32 MiB was never written."""
    monkeypatch.setattr(archive, "CHUNK_BYTES", 32 << 20)
    data = compress(bytes(33 << 20))

    with pytest.raises(MalformedError):
        decompress(data)
