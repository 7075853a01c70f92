"""Indexes: a question is answered as by reading everything, whatever became of the index."""

# expected == actual

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from journal import (
    Found,
    JournalCorruptError,
    JournalUnsupportedError,
    Keys,
    Reader,
    find,
    index_sealed,
    prune,
)
from journal.format.archive import CHUNK_BYTES, decompress, read_segment
from journal.format.codec import MalformedError, SegmentHeader, decode_header
from journal.format.index import Index, build_index
from journal.format.segments import SegmentFile, list_history
from journal.fs import FileSystem
from tests.kits.journal.building import (
    DECODER,
    SCHEMA,
    Cut,
    Event,
    Put,
    build,
    flipped,
    frames_of,
    patched,
    puts,
    segments,
)
from tests.kits.journal.compaction import KEYS, VOCABULARY, archived, compact, write_sealed
from tests.kits.journal.disks import FS, HookedFileSystem

LARGE = 256 * 1024
HEADER_BYTES = 108


def reader_of(directory: Path, fs: FileSystem = FS) -> Reader:
    """A reader of the journal, with a disk of its own if need be."""
    return Reader(directory, Event, schema=SCHEMA, fs=fs)


def by_reading(directory: Path, wanted: bytes, keys: Keys = KEYS) -> list[Found]:
    """The events with a key, by reading everything there is."""
    return [
        Found(sequence, event)
        for batch in reader_of(directory).batches()
        for sequence, event in enumerate(batch.events, start=batch.first_sequence)
        if wanted in keys.of(event)
    ]


def asked(directory: Path, wanted: bytes, keys: Keys = KEYS) -> list[Found]:
    """The events with a key, by the indexes."""
    return list(find(reader_of(directory), keys, wanted))


def all_keys(directory: Path) -> set[bytes]:
    """Every key of every event."""
    return {
        key
        for batch in reader_of(directory).batches()
        for event in batch.events
        for key in KEYS.of(event)
    }


def assert_answers(directory: Path, wanted: Iterable[bytes] | None = None) -> None:
    """Indexes and reading everything give the same answer to every question."""
    for key in all_keys(directory) | {b"", b"knone"} if wanted is None else wanted:
        assert by_reading(directory, key) == asked(directory, key), key


def write(directory: Path, events: list[Any], batch: int, tail: int) -> None:
    """A journal of large segments: archived, sealed, and open ones."""
    third = len(events) // 3
    compact(directory, write_sealed(directory, events[:third], batch=batch, segment_bytes=LARGE))
    write_sealed(directory, events[third : len(events) - tail], batch=batch, segment_bytes=LARGE)
    rest = events[len(events) - tail :]
    build(directory, [rest[n : n + 20] for n in range(0, tail, 20)], segment_bytes=LARGE)


def many(count: int, kinds: int) -> list[Any]:
    """Events with few keys, in changing sizes: frames begin in, at and across chunks."""
    return [
        Cut(f"key-{n % kinds}")
        if n % 11 == 0
        else Put(f"key-{n * n % kinds}", bytes([n % 5]) * (n * 37 % 900))
        for n in range(1, count + 1)
    ]


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_every_key_is_found(directory: Path, batch: int) -> None:
    """Over archived, sealed and open segments, every key gives what reading everything gives."""
    write(directory, many(3000, 60), batch, 300)
    files = list_history(FS, directory)
    assert len(archived(directory)) > 1
    assert len(segments(directory)) > 2

    assert_answers(directory)
    indexes = [file for file in files if file.index_path.exists()]
    assert files[:-1] == indexes


events = st.one_of(
    st.builds(
        Put,
        st.sampled_from(["a", "b", "ü", "", "long" * 300]),
        st.sampled_from([b"", b"\0", b"x", b"y" * 2000, b"z" * 70_000]),
    ),
    st.builds(Cut, st.text(max_size=2)),
)


@given(
    st.lists(st.lists(st.lists(events, max_size=12), max_size=8), min_size=1, max_size=4),
    st.sets(st.integers(0, 4)),
)
@settings(max_examples=60)
def test_random_journals(rounds: list[list[list[Any]]], compacted: set[int]) -> None:
    """Whatever was written, and whenever it was compacted, no answer changes."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name) / "journal"
        written: list[Any] = []
        for number, batches in enumerate(rounds):
            whole = [event for batch in batches for event in batch]
            # The largest frame of such a segment has 126 KiB.
            through = write_sealed(directory, whole, batch=1, segment_bytes=LARGE)
            build(directory, batches_of_one(batches), segment_bytes=LARGE)
            written += whole + whole
            if number in compacted and through:
                compact(directory, through)
        everything = by_reading(directory, b"", Keys(lambda _: (b"",), 1))

        assert written == [found.event for found in everything]
        assert_answers(directory)


def batches_of_one(batches: list[list[Any]]) -> list[list[Any]]:
    """Each event as a frame, and a mark after each batch."""
    return [[event] for batch in batches for event in batch] + [[] for batch in batches[:1]]


def sealed(directory: Path, count: int = 1500) -> list[SegmentFile]:
    """Make a journal of sealed large segments with their indexes; the segments."""
    write_sealed(directory, many(count, 40), segment_bytes=LARGE)
    index_sealed(FS, directory, VOCABULARY)
    files = list_history(FS, directory)[:-1]
    assert len(files) > 1
    return files


def test_an_index_reads_less(directory: Path) -> None:
    """A rare key is found by reading a chunk of one segment, not the journal."""
    some = many(1500, 40)
    rare = Put("rare", b"r")
    write_sealed(directory, [*some, rare, *some, *some], segment_bytes=LARGE)
    index_sealed(FS, directory, VOCABULARY)

    fs = HookedFileSystem()
    found = list(find(reader_of(directory, fs), KEYS, b"krare"))
    size = sum(path.stat().st_size for path in segments(directory)[:-1])

    assert [Found(1501, rare)] == found
    # All of the open segment is read, and little besides.
    assert LARGE < fs.bytes_read.total() < LARGE + size / 4


@pytest.mark.parametrize("batch", [1, 10])
def test_chunks_are_where_frames_begin(directory: Path, batch: int) -> None:
    """The table names for each chunk the first frame that begins in it or later."""
    write_sealed(directory, many(1500, 40), batch=batch, segment_bytes=LARGE)
    index_sealed(FS, directory, VOCABULARY)
    for file in list_history(FS, directory)[:-1]:
        data = file.path.read_bytes()
        header, frames = frames_of(data)
        index = Index(reading(file.index_path.read_bytes()), header, KEYS)
        index.check()

        assert file.index_path.stat().st_size == index.file_bytes
        last = frames[-1]
        assert (last.end, last.time, last.digest) == (
            index.end,
            index.last_time,
            index.last_digest,
        )
        assert last.first_sequence + last.count - 1 == index.last_sequence
        for number, chunk in enumerate(index.chunks):
            later = [frame for frame in frames if frame.offset >= number * CHUNK_BYTES]
            if later:
                assert (later[0].offset, later[0].first_sequence) == chunk[:2]
        assert all(a <= b for a, b in pairwise(index.chunks))


def reading(data: bytes) -> Callable[[int, int], bytes]:
    """Read from memory."""
    return lambda size, offset: data[offset : offset + size]


def header_of(file: SegmentFile) -> SegmentHeader:
    """The header of a segment, wherever it is."""
    return decode_header(read_segment(FS, file), SCHEMA)


def test_any_flipped_bit_is_noticed(tmp_path: Path) -> None:
    """No bit of an index can change unnoticed by whoever reads all of it."""
    file = sealed(tmp_path / "journal")[0]
    good, header = file.index_path.read_bytes(), header_of(file)

    for offset in range(len(good)):
        with pytest.raises(MalformedError):
            Index(reading(flipped(good, offset, 1 << offset % 8)), header, KEYS).check()
    for size in range(0, len(good), 7):
        with pytest.raises(MalformedError):
            Index(reading(good[:size]), header, KEYS).check()


DAMAGE: dict[str, Callable[[bytes], bytes | None]] = {
    "missing": lambda _: None,
    "empty": lambda _: b"",
    "rubbish": lambda data: b"rubbish" * 100,
    "cut": lambda data: data[:-40],
    "header": lambda data: flipped(data, 30),
    "tables": lambda data: flipped(data, HEADER_BYTES + 5),
    "entries": lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
    "version": lambda data: patched(data, 12, b"\1\0"),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("compacted", [False, True])
def test_a_bad_index_is_made_again(directory: Path, damage: str, *, compacted: bool) -> None:
    """Whatever became of an index, the answers are right, and the index is as it was after."""
    files = sealed(directory)
    if compacted:
        compact(directory, len(many(1500, 40)))
        files = list_history(FS, directory)[:-1]
        assert all(file.archived for file in files)
    good = [file.index_path.read_bytes() for file in files]
    for file, data in zip(files, good, strict=True):
        bad = DAMAGE[damage](data)
        if bad is None:
            file.index_path.unlink()
        else:
            file.index_path.write_bytes(bad)

    assert_answers(directory)
    assert good == [file.index_path.read_bytes() for file in files]


def test_the_index_of_another_segment_is_made_again(tmp_path: Path) -> None:
    """An index belongs to one segment by its id: another's is not used."""
    directory, other = tmp_path / "journal", tmp_path / "other"
    files, others = sealed(directory), sealed(other)
    good = [file.index_path.read_bytes() for file in files]
    files[0].index_path.write_bytes(good[1])
    files[1].index_path.write_bytes(others[1].index_path.read_bytes())

    assert_answers(directory)
    assert good == [file.index_path.read_bytes() for file in files]


def test_other_keys_make_other_indexes(directory: Path) -> None:
    """An index that was made with keys of another version is made again."""
    sealed(directory)
    lengths = Keys(lambda event: (b"%d" % len(event.key),), version=2)

    for wanted in (b"5", b"6", b"7"):
        assert by_reading(directory, wanted, lengths) == asked(directory, wanted, lengths)
    assert by_reading(directory, b"6", lengths)
    assert_answers(directory)


def test_a_key_with_the_hash_of_another(directory: Path) -> None:
    """What an index leads to is compared: keys that share a hash are told apart."""
    # These two have one CRC-32.
    same = (b"plumless", b"buckeroo")
    keys = Keys(lambda event: (event.key.encode(),), version=3)
    events_ = [Put(key.decode(), b"%d" % n) for n in range(600) for key in same]
    write_sealed(directory, events_, segment_bytes=LARGE // 8)

    for wanted in same:
        assert 600 == len(asked(directory, wanted, keys))
        assert by_reading(directory, wanted, keys) == asked(directory, wanted, keys)


def test_a_stale_index_that_ends_early_is_made_again(directory: Path) -> None:
    """An index that ends before its segment does is of an older copy: it is not believed."""
    file = sealed(directory)[0]
    data, header = file.path.read_bytes(), header_of(file)
    good = file.index_path.read_bytes()
    frame = frames_of(data)[1][20]
    older = data[: frame.offset] + bytes(len(data) - frame.offset)
    file.index_path.write_bytes(build_index(older, header, DECODER, KEYS))

    assert_answers(directory)
    assert good == file.index_path.read_bytes()


def diverged(tmp_path: Path) -> tuple[Path, Path]:
    """A journal and a copy that went on with other events, as many: the segment is the same one."""
    directory, other = tmp_path / "journal", tmp_path / "other"
    build(directory, [[event] for event in many(200, 40)], segment_bytes=LARGE)
    shutil.copytree(directory, other)
    for place in (directory, other):
        events = [Put(f"{place.name}-{n}", bytes(200)) for n in range(200)]
        write_sealed(place, events, segment_bytes=LARGE)
        build(place, [puts(1), []], segment_bytes=LARGE)
        index_sealed(FS, place, VOCABULARY)
    (file,), (its,) = (list_history(FS, place)[:-1] for place in (directory, other))
    assert header_of(file) == header_of(its)
    return file.path, its.path


def test_the_index_of_another_copy_of_the_segment_is_made_again(tmp_path: Path) -> None:
    """An index of the same segment and length, but of other events, is not believed."""
    path, other = diverged(tmp_path)
    index = path.with_suffix(".idx")
    good = index.read_bytes()
    shutil.copy(other.with_suffix(".idx"), index)

    assert_answers(path.parent)
    assert good == index.read_bytes()


def test_another_copy_of_a_segment_is_an_error(tmp_path: Path) -> None:
    """A segment that its successor does not continue is told, as by reading everything."""
    path, other = diverged(tmp_path)
    shutil.copy(other, path)
    path.with_suffix(".idx").unlink()
    for answer in (asked, by_reading):
        with pytest.raises(JournalCorruptError, match="does not continue the chain of digests"):
            answer(path.parent, b"kjournal-1")


@pytest.mark.parametrize("start", [1, 2, 499, 500, 501, 1200, 1500, 1501])
def test_beginning_anywhere(directory: Path, start: int) -> None:
    """What is before the start is not found, be it in a segment, between two or in the newest."""
    write(directory, many(1500, 10), 7, 300)
    expected = [found for found in by_reading(directory, b"kkey-1") if found.sequence >= start]

    assert expected == list(find(reader_of(directory), KEYS, b"kkey-1", start=start))


def test_beginning_with_what_is_nowhere(directory: Path) -> None:
    """A start before the oldest event is an error; no start at all is that event."""
    files = sealed(directory)
    compact(directory, 1500)
    prune(FS, directory, files[1].first_sequence - 1)
    expected = by_reading(directory, b"kkey-1")

    assert expected == asked(directory, b"kkey-1")
    with pytest.raises(JournalCorruptError, match=f"the events 2 to {files[1][0] - 1} are nowhere"):
        list(find(reader_of(directory), KEYS, b"kkey-1", start=2))


def test_without_room_for_an_index_the_answer_is_right(directory: Path) -> None:
    """A directory that cannot be written to, a copy of someone's, can still be asked."""
    for file in sealed(directory):
        file.index_path.unlink()
    fs = HookedFileSystem()
    fs.fail("create", 30, forever=True)

    found = list(find(reader_of(directory, fs), KEYS, b"kkey-1"))
    assert by_reading(directory, b"kkey-1") == found
    assert [] == list(directory.glob("*.idx*"))


def test_damage_is_reported_not_hidden(directory: Path) -> None:
    """A damaged segment is an error to a question that leads there, with its path."""
    file = sealed(directory)[1]
    data = file.path.read_bytes()
    frame = frames_of(data)[1][3]
    file.path.write_bytes(flipped(data, frame.offset + 60))

    with pytest.raises(JournalCorruptError) as raised:
        asked(directory, min(last_keys_of(data[: frame.end])))
    assert file.path == raised.value.file


def last_keys_of(data: bytes) -> set[bytes]:
    """Every key of the last frame of a segment."""
    return {
        key
        for frame in frames_of(data)[1][-1:]
        for event in DECODER.decode(data[frame.offset + 48 : frame.offset + 48 + frame.body_bytes])
        for key in KEYS.of(event)
    }


@pytest.mark.parametrize("number", [0, 1])
def test_a_missing_file_is_an_error(directory: Path, number: int) -> None:
    """An archived segment that is gone is told, also if the key asked for was not in it."""
    files = sealed(directory, 4000)
    compact(directory, 4000)
    list_history(FS, directory)[number + 1].path.unlink()
    nowhere = files[number + 1].first_sequence

    with pytest.raises(JournalCorruptError, match=f"the events {nowhere} to") as raised:
        asked(directory, b"knone")
    assert nowhere - 1 == raised.value.last_sequence


def test_a_newer_schema_is_unsupported(directory: Path) -> None:
    """A program that does not know the vocabulary does not guess."""
    file = sealed(directory)[0]
    reader = Reader(directory, Event, schema=SCHEMA - 1)

    with pytest.raises(JournalUnsupportedError) as raised:
        list(find(reader, KEYS, b"knone"))
    assert file.path == raised.value.file


def test_a_compaction_between_two_segments(directory: Path) -> None:
    """What moves into the archive while a question is answered is found there."""
    sealed(directory)
    expected = by_reading(directory, b"kkey-1")
    answers = find(reader_of(directory), KEYS, b"kkey-1")
    first = next(answers)
    compact(directory, 1500)

    assert expected == [first, *answers]
    assert [] == [path for path in segments(directory) if not path.stat().st_size]
    assert decompress(archived(directory)[0].read_bytes())


def test_what_is_appended_meanwhile_is_found_or_not(directory: Path) -> None:
    """A roll-over while a question is answered neither loses nor repeats an event."""
    sealed(directory)
    expected = by_reading(directory, b"kkey-1")
    answers = find(reader_of(directory), KEYS, b"kkey-1")
    found = [next(answers)]
    write_sealed(directory, many(600, 40), segment_bytes=LARGE)
    found += answers

    assert expected == found[: len(expected)]
    assert found == asked(directory, b"kkey-1")[: len(found)]


def test_an_empty_journal_has_no_answers(directory: Path) -> None:
    """A journal without events answers every question with nothing."""
    build(directory, [])

    assert [] == asked(directory, b"knone")
    build(directory, [puts(1)])
    assert [Found(1, puts(1)[0])] == asked(directory, b"kkey-1")
