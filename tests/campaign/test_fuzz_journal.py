"""Whatever bytes a journal is made of, only its own errors come out, and memory stays bounded."""

from __future__ import annotations

import contextlib
import platform
import random
import struct
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import journal.format.scan
from journal import JournalUnsupportedError, Reader, find, index_sealed, read_events
from journal.format.archive import compress, decompress, open_segment
from journal.format.codec import (
    MalformedError,
    UnsupportedError,
    decode_frame,
    decode_header,
    encode_frame,
)
from journal.format.segments import SegmentFile, archive_path
from journal.read.indexed import Found
from journal.write.repair_note import unrecorded
from tests.crash.damage.fuzz import CORPUS, available, corpus, corpus_folder, fuzz, replay
from tests.crash.damage.fuzz_targets import TARGETS, check, sample, seeds
from tests.crash.damage.mending import mended_archive, mended_header
from tests.crash.scale import report, rounds
from tests.kits.journal.building import DECODER, SCHEMA, Event, build, encode, opened, patched, puts
from tests.kits.journal.compaction import KEYS, VOCABULARY, write_sealed
from tests.kits.journal.disks import FS

MIB = 1 << 20
#: Behind an archive of one chunk: the frame that readers skip, the table, the footer.
TRAILER_BYTES = 8 + 4 + 48
SECONDS = rounds(6, 90)
#: Of the corpus, so many mutants are tried where there is no fuzzer.
MUTANTS = 400


def peak(work: Callable[[], object]) -> int:
    """The most memory that `work` had at a time, in bytes; it may raise the journal's errors."""
    tracemalloc.start()
    try:
        work()
    except (MalformedError, UnsupportedError):
        pass
    finally:
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return used


def test_the_corpus_fails_no_target() -> None:
    """Every input that ever reached something new, and each target takes one and refuses one."""
    done = replay([*corpus(), *seeds()])

    assert set(TARGETS) == {name for name, taken in done if taken}
    assert set(TARGETS) - {"note"} == {name for name, taken in done if not taken}


def test_the_corpus_is_small() -> None:
    """It is read with every run and kept in every copy of the source."""
    assert sum(map(len, corpus())) < 100 * 1024


def test_the_corpus_is_in_order() -> None:
    """Each input is in the folder of its target."""
    for path in CORPUS.rglob("*"):
        assert path.is_dir() or path.parent == corpus_folder(path.read_bytes())


def test_a_mutant_of_the_corpus_fails_no_target() -> None:
    """Bytes altered, taken out, put in and crossed: on every machine, with a fuzzer or without."""
    inputs = [*corpus(), *seeds()]
    chance = random.Random(random.getrandbits(64))  # noqa: S311 - the seed is in the report
    for _ in range(rounds(MUTANTS, 20 * MUTANTS)):
        data = bytearray(chance.choice(inputs))
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(data) + 1)
            size = chance.randint(0, 8)
            new = chance.choice((bytes(size), b"\xff" * size, chance.choice(inputs)[at:]))
            data[at : at + chance.choice((0, size))] = new[: chance.randint(0, 64)]
        _check(bytes(data))


@given(st.binary(max_size=300))
def test_arbitrary_bytes_fail_no_target(data: bytes) -> None:
    """What no journal ever wrote."""
    _check(data)


def _check(data: bytes) -> None:
    try:
        check(data)
    except Exception as error:
        error.add_note(f"the input was {data.hex()}")
        raise


# There are wheels of Atheris for this kind of machine only: see pyproject.toml.
@pytest.mark.skipif(
    not available() and (sys.platform, platform.machine()) != ("linux", "x86_64"),
    reason="there is no Atheris for this machine",
)
@pytest.mark.timeout(600)
def test_a_fuzzer_finds_nothing() -> None:
    """Guided by what of the journal an input reaches, from the corpus on."""
    fuzzed = fuzz(SECONDS)
    report(
        "journal fuzzing",
        fuzzed.inputs,
        fuzzed.inputs - len(fuzzed.failures),
        f"{fuzzed.covered:,} edges reached, {fuzzed.memory_mib} MiB at most",
    )

    assert [] == fuzzed.failures
    assert fuzzed.inputs > len(corpus())
    assert {name for name, _ in fuzzed.corpus} == set(TARGETS)


@pytest.mark.parametrize("error", [IndexError, RecursionError, MemoryError, OSError])
def test_another_error_is_a_fault(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    """The targets let nothing pass but the journal's own errors."""

    def fail(*_arguments: Any) -> None:
        raise error

    monkeypatch.setattr(journal.format.scan, "_decode", fail)

    with pytest.raises(error):
        replay(seeds())


def test_two_readers_that_differ_are_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan that takes a frame no checksum vouches for is told by the one that reads it alone."""
    monkeypatch.setattr("tests.crash.damage.fuzz_targets.decode_frame", _nothing_validates)

    with pytest.raises(AssertionError):
        replay(seeds())


def _nothing_validates(*_arguments: Any) -> None:
    raise MalformedError("no frame starts here")


def test_a_header_that_claims_much_takes_little() -> None:
    """Sizes and sequences of a header are numbers until bytes are there for them."""
    page = bytearray(sample().files[sample().last][:4096])
    struct.pack_into("<I", page, 28, 0xFFFFFFFF)
    struct.pack_into("<QQQ", page, 64, 2**64 - 1, 2**64 - 1, 2**64 - 2)
    data = mended_header(bytes(page)) + bytes(4096)

    def read() -> None:
        header = decode_header(data, SCHEMA)
        journal.format.scan.scan(data, header, DECODER, [].extend)

    assert peak(read) < MIB


@pytest.mark.parametrize("chunks", [1, 2**10, 2**32 - 1])
def test_a_trailer_that_claims_terabytes_takes_little(chunks: int) -> None:
    """Neither a table nor a segment is made room for before the file is known to have it."""
    data = bytearray(compress(bytes(64 * 1024)))
    struct.pack_into("<IIQ", data, len(data) - 32, 2**32 - 1, chunks, 2**42)

    for claim in (bytes(data), mended_archive(bytes(data))):
        assert peak(lambda claim=claim: decompress(claim)) < MIB  # type: ignore[misc]


def test_a_chunk_that_grows_without_end_takes_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a chunk no more is decompressed than the trailer says that there is, and one byte."""
    good = compress(bytes(64 * 1024))
    with monkeypatch.context() as patch:
        patch.setattr("journal.format.archive.CHUNK_BYTES", 256 * MIB)
        bomb = compress(bytes(256 * MIB))
    # One chunk each, so their trailers have one size.
    data = mended_archive(bomb[:-TRAILER_BYTES] + good[-TRAILER_BYTES:])
    file = SegmentFile(1, archive_path(tmp_path, 1))
    file.path.parent.mkdir()
    file.path.write_bytes(data)

    assert len(data) < MIB
    assert peak(lambda: decompress(data)) < MIB
    with open_segment(FS, file) as segment:
        assert peak(lambda: segment.read(100, 0)) < MIB
    with pytest.raises(MalformedError, match="its size is wrong"):
        decompress(data)


def test_an_index_that_claims_much_takes_little(directory: Path) -> None:
    """No table is made room for that the file does not have, and the answer is right."""
    write_sealed(directory, puts(20), segment_bytes=2 * MIB)
    index_sealed(FS, directory, VOCABULARY)
    (path,) = directory.glob("*.idx")
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, 24, 2 * MIB)
    path.write_bytes(data)
    reader = Reader(directory, Event, schema=SCHEMA)
    found: list[Found] = []

    assert peak(lambda: found.extend(find(reader, KEYS, b"kkey-7"))) < 16 * MIB
    assert [Found(7, puts(20)[6])] == found


@pytest.mark.parametrize(
    "body",
    [
        b"\xdd\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x00",
    ],
    ids=["list", "text", "bytes", "map", "extension"],
)
def test_an_event_that_claims_gigabytes_takes_little(body: bytes) -> None:
    """A declared length is believed as far as there are bytes."""
    whole = sample()
    header, frames = whole.segments[whole.last]
    event = b"\x94" + encode("put") + encode("key") + encode(b"") + body
    frame, _ = encode_frame(
        [event],
        seed=header.seed,
        offset=4096,
        first_sequence=header.first_sequence,
        time=frames[0].time,
        previous_digest=header.previous_digest,
    )
    segment = patched(whole.files[whole.last][:4096] + bytes(4096), 4096, frame)
    assert decode_frame(memoryview(segment), 4096, header).count == 1

    with pytest.raises(UnsupportedError):
        journal.format.scan.scan(segment, header, DECODER, [].extend)

    assert peak(lambda: journal.format.scan.scan(segment, header, DECODER, [].extend)) < MIB


def test_an_event_without_end_is_not_ours(directory: Path) -> None:
    """One nested deeper than the decoder goes is refused like one of another vocabulary."""
    deep = b"\x91" * (4 * sys.getrecursionlimit()) + b"\xc0"
    with opened(directory) as writer:
        event = b"\x94" + encode("put") + encode("key") + encode(b"") + deep
        writer.log.append([event])

    # Some versions of Python go deeper than the largest event here is deep.
    for read in (
        lambda: build(directory, []),
        lambda: list(read_events(directory, Event, schema=SCHEMA)),
    ):
        with contextlib.suppress(JournalUnsupportedError):
            read()


def test_a_note_without_end_is_no_note(tmp_path: Path) -> None:
    """Recovery goes on without it, as without any note that somebody changed."""
    depth = 4 * sys.getrecursionlimit()
    (tmp_path / "repairs.json").write_bytes(b'{"a":' + b"[" * depth + b"]" * depth + b"}")

    assert not any(unrecorded(FS, tmp_path))
