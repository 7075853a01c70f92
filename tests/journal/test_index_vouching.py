"""An index counts as far as the chained journal vouches for it; a forged one hides nothing.

Those here are forged with the right checksums and digests: only that no event has their digest.
"""

# expected == actual

from __future__ import annotations

import contextlib
import hashlib
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coild.rules.events import SCHEMA as COILD_SCHEMA
from coild.rules.events import Event as CoildEvent
from coild.rules.events import SegmentsIndexed
from coild.vocabulary import KEYS as COILD_KEYS
from journal import Found, Reader, find, index_sealed, prepare, retire
from journal.format.archive import compress, read_segment
from journal.format.codec import SegmentHeader, decode_header
from journal.format.index import build_index
from journal.format.scan import list_decoder
from journal.format.segments import SegmentFile, list_history
from journal.fs import FileSystem
from journal.read.vocabulary import Vocabulary
from tests.kits.daemon.process import Daemon, wait_for
from tests.kits.journal.building import DECODER, SCHEMA, Cut, Event, Put, opened
from tests.kits.journal.compaction import KEYS, NOW, VOUCHED_KEYS, State, index_record, write_sealed
from tests.kits.journal.disks import FS, HookedFileSystem
from tests.kits.journal.history import ask, beginning, cycles, write

#: Four chunks.
SEGMENT_BYTES = 256 * 1024
ROUNDS = 4
_HEADER = struct.Struct("<8sIHBBIIII16s16sQQQ16sI")
_CHUNK, _BUCKET, _RECORD = struct.Struct("<QQQ"), struct.Struct("<I16s"), struct.Struct("<Q16s")


VOCABULARY = Vocabulary(schema=SCHEMA, event_type=Event, keys=VOUCHED_KEYS)


def record(directory: Path, made: Mapping[int, bytes]) -> None:
    """Have the journal vouch for indexes."""
    with opened(directory, segment_bytes=SEGMENT_BYTES, clock=lambda: NOW) as journal:
        journal.write([index_record(made)])


def events_of(number: int) -> list[Any]:
    """What happens in a round: keys that are seen once, in one round, and in all of them."""
    return [
        Cut("everywhere", n) if n % 50 == 0 else Put(f"{number}-{n % 90}", bytes([n % 7]) * 600)
        for n in range(1, 701)
    ] + [Put(f"once-{number}", b"")]


class Made(NamedTuple):
    """A journal of archived and sealed segments, all on record; its sealed files, and the keys."""

    directory: Path
    sealed: list[SegmentFile]
    answers: dict[bytes, list[Found]]

    @property
    def indexes(self) -> list[bytes]:
        """The indexes as they are now."""
        return [file.index_path.read_bytes() for file in self.sealed]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A journal that was compacted twice, and indexed as segments were sealed."""
    directory = tmp_path_factory.mktemp("made") / "journal"
    for number in range(ROUNDS):
        through = write_sealed(directory, events_of(number), segment_bytes=SEGMENT_BYTES)
        record(directory, index_sealed(FS, directory, VOCABULARY))
        if number % 2:
            prepare(FS, directory, through, VOCABULARY, State(), now=NOW)
            retire(FS, directory, SCHEMA)
    files = list_history(FS, directory)
    assert 4 < len(files)
    assert 2 < len([file for file in files if file.archived])
    answers: dict[bytes, list[Found]] = {b"knone": []}
    for batch in Reader(directory, Event, schema=SCHEMA).batches():
        for sequence, event in enumerate(batch.events, start=batch.first_sequence):
            for key in KEYS.of(event):
                answers.setdefault(key, []).append(Found(sequence, event))
    return Made(directory, files[:-1], answers)


def asked(directory: Path, wanted: bytes, fs: FileSystem = FS) -> list[Found]:
    """The events with a key, by the indexes."""
    return list(find(Reader(directory, Event, schema=SCHEMA, fs=fs), VOUCHED_KEYS, wanted))


def assert_answers(made: Made, *wanted: bytes) -> None:
    """The answers are those of reading everything."""
    for key in wanted or (b"keverywhere", b"konce-0", b"k3-89", b"knone"):
        assert made.answers[key] == asked(made.directory, key), key


@contextlib.contextmanager
def restored(made: Made) -> Iterator[list[bytes]]:
    """The good indexes, which are put back at the end."""
    good = made.indexes
    try:
        yield good
    finally:
        for file, data in zip(made.sealed, good, strict=True):
            file.index_path.write_bytes(data)


class Parts(msgspec.Struct):
    """An index taken apart, to be put together again with whatever was changed in it."""

    head: list[Any]
    chunks: list[list[int]]
    buckets: list[list[int]]
    records: list[tuple[int, bytes]]

    @classmethod
    def of(cls, data: bytes) -> Parts:
        """The parts of a whole index."""
        head = list(_HEADER.unpack_from(data))
        at = _HEADER.size
        chunks = [list(_CHUNK.unpack_from(data, at + n * _CHUNK.size)) for n in range(head[7])]
        at += head[7] * _CHUNK.size
        count = 1 << head[4]
        ends = [_BUCKET.unpack_from(data, at + n * _BUCKET.size)[0] for n in range(count)]
        at += count * _BUCKET.size
        records = [_RECORD.unpack_from(data, at + n * _RECORD.size) for n in range(head[15])]
        at += head[15] * _RECORD.size
        entries = [entry for (entry,) in struct.iter_unpack("<I", data[at:])]
        buckets = [entries[a:b] for a, b in zip([0, *ends], ends, strict=False)]
        return cls(head, chunks, buckets, records)

    def joined(self) -> bytes:
        """An index with checksums and digests that fit."""
        tables = b"".join(_CHUNK.pack(*chunk) for chunk in self.chunks)
        rest = b""
        for bucket in self.buckets:
            entries = struct.pack(f"<{len(bucket)}I", *bucket)
            rest += entries
            digest = hashlib.blake2b(entries, digest_size=16).digest()
            tables += _BUCKET.pack(len(rest) // 4, digest)
        tables += b"".join(_RECORD.pack(*each) for each in self.records)
        self.head[8], self.head[15] = len(rest) // 4, len(self.records)
        head = bytearray(_HEADER.pack(*self.head))
        head[8:12] = zlib.crc32(tables, zlib.crc32(head[12:])).to_bytes(4, "little")
        return bytes(head) + tables + rest


def header_of(file: SegmentFile) -> SegmentHeader:
    """The header of a segment, wherever it is."""
    return decode_header(read_segment(FS, file), SCHEMA)


def without(file: SegmentFile, hidden: frozenset[bytes]) -> bytes:
    """An index that was rebuilt from the segment, as if some keys were not in it."""
    blind = VOUCHED_KEYS._replace(of=lambda event: set(KEYS.of(event)) - hidden)
    return build_index(read_segment(FS, file), header_of(file), DECODER, blind)


Forgery = Callable[[bytes, bytes, st.DataObject], bytes]


def _entries_left_out(data: bytes, _: bytes, choose: st.DataObject) -> bytes:
    parts = Parts.of(data)
    bits = choose.draw(st.integers(0, (1 << 30) - 1))
    parts.buckets = [
        [entry for n, entry in enumerate(bucket) if bits >> n % 30 & 1] for bucket in parts.buckets
    ]
    return parts.joined()


def _entries_moved(data: bytes, _: bytes, choose: st.DataObject) -> bytes:
    parts = Parts.of(data)
    step = choose.draw(st.integers(1, 3))
    parts.buckets = [[entry ^ step for entry in bucket] for bucket in parts.buckets]
    return parts.joined()


def _chunks_moved(data: bytes, _: bytes, choose: st.DataObject) -> bytes:
    parts = Parts.of(data)
    number = choose.draw(st.integers(0, len(parts.chunks) - 1))
    other = choose.draw(st.integers(0, len(parts.chunks) - 1))
    parts.chunks[number] = list(parts.chunks[other])
    return parts.joined()


def _end_moved(data: bytes, _: bytes, choose: st.DataObject) -> bytes:
    parts = Parts.of(data)
    # To where a chunk begins: what is left ends where a frame does.
    parts.head[13] = choose.draw(st.sampled_from(parts.chunks))[0]
    return parts.joined()


def _of_another_segment(data: bytes, other: bytes, _: st.DataObject) -> bytes:
    parts, mine = Parts.of(other), Parts.of(data)
    # The names and the end are those that are asked for.
    parts.head[9:15] = mine.head[9:15]
    parts.chunks = (parts.chunks * 4)[: len(mine.chunks)]
    return parts.joined()


def _truncated(data: bytes, _: bytes, choose: st.DataObject) -> bytes:
    parts = Parts.of(data)
    kept = choose.draw(st.integers(0, len(parts.buckets)))
    parts.buckets = [bucket if n < kept else [] for n, bucket in enumerate(parts.buckets)]
    return parts.joined()


def _entries_alone(data: bytes, _: bytes, choose: st.DataObject) -> bytes:
    """Beneath tables that the journal vouches for."""
    start = len(data) - 4 * Parts.of(data).head[8]
    at = choose.draw(st.integers(start, len(data) - 1))
    return data[:start] + data[at:] + data[start:at]


FORGERIES: list[Forgery] = [
    _entries_alone,
    _entries_left_out,
    _entries_moved,
    _chunks_moved,
    _end_moved,
    _of_another_segment,
    _truncated,
]


def test_the_parts_make_the_whole(made: Made) -> None:
    """Taken apart and put together, an index is what it was: these forgeries are whole."""
    for data in made.indexes:
        assert data == Parts.of(data).joined()


@given(choose=st.data(), which=st.integers(1, (1 << ROUNDS * 2) - 1), vouching=st.booleans())
@settings(max_examples=40)
def test_a_forged_index_hides_nothing(
    made: Made, choose: st.DataObject, which: int, *, vouching: bool
) -> None:
    """Whatever is done to indexes, with the right checksums: the answers are those without any.

    If `vouching`, those that count no more say of each other that they do.
    """
    with restored(made) as good:
        forged = list(good)
        for n, data in enumerate(good):
            if which >> n & 1:
                forge = choose.draw(st.sampled_from(FORGERIES))
                forged[n] = forge(data, good[choose.draw(st.integers(0, len(good) - 1))], choose)
        if vouching:
            _say_of_each_other(made, good, forged)
        for file, data in zip(made.sealed, forged, strict=True):
            file.index_path.write_bytes(data)
        assert_answers(made, choose.draw(st.sampled_from(sorted(made.answers))))
        assert_answers(made)


def _say_of_each_other(made: Made, good: list[bytes], forged: list[bytes]) -> None:
    """Each forged index says that the earlier ones are as the journal vouches for them."""
    told: list[tuple[int, bytes]] = []
    for n, file in enumerate(made.sealed):
        if forged[n] == good[n]:
            continue
        parts = Parts.of(forged[n])
        parts.records += told
        forged[n] = parts.joined()
        told.append((file.first_sequence, digest_of(forged[n])))


def digest_of(data: bytes) -> bytes:
    """By which a journal vouches for an index."""
    tables = data[12 : len(data) - 4 * _HEADER.unpack_from(data)[8]]
    return hashlib.blake2b(tables, digest_size=16).digest()


@pytest.mark.parametrize("hidden", [b"konce-0", b"keverywhere", b"k1-7"])
def test_an_index_rebuilt_from_a_subset_hides_nothing(made: Made, hidden: bytes) -> None:
    """Nor one that is what its segment would have, were it not for some containers."""
    with restored(made) as good:
        for file in made.sealed:
            file.index_path.write_bytes(without(file, frozenset({hidden})))
        assert good != made.indexes

        assert_answers(made, hidden)


def test_several_keys_at_once(made: Made) -> None:
    """What has any of them is found once, in order; none is nothing."""
    wanted = [b"k3-89", b"konce-0", b"v\3", b"knone", b"k0-3"]
    expected = sorted({found.sequence for key in wanted for found in made.answers.get(key, [])})
    reader = Reader(made.directory, Event, schema=SCHEMA)

    assert expected == [found.sequence for found in find(reader, VOUCHED_KEYS, wanted)]
    assert [] == list(find(reader, VOUCHED_KEYS, []))


def read_much_of(made: Made, wanted: bytes) -> set[str]:
    """The sealed segments of which a question reads more than half."""
    fs = HookedFileSystem()
    assert made.answers[wanted] == asked(made.directory, wanted, fs)
    return {
        file.path.name
        for file in made.sealed
        if fs.bytes_read[file.path.name] > file.path.stat().st_size / 2
    }


def test_what_is_vouched_for_is_believed(made: Made) -> None:
    """Of a long journal, the newest segment and the indexes are all that a negative needs."""
    assert set() == read_much_of(made, b"knone")
    with restored(made):
        made.sealed[1].index_path.write_bytes(without(made.sealed[1], frozenset()))
        assert set() == read_much_of(made, b"knone")
        made.sealed[1].index_path.write_bytes(without(made.sealed[1], frozenset({b"k0-1"})))
        assert {made.sealed[1].path.name} == read_much_of(made, b"knone")
        # It was made again.
        assert set() == read_much_of(made, b"knone")


def test_without_a_record_segments_are_read(made: Made, directory: Path) -> None:
    """A journal that vouches for no index, as older ones, is answered from by reading it."""
    for number in range(2):
        write_sealed(directory, events_of(number), segment_bytes=SEGMENT_BYTES)
        index_sealed(FS, directory, VOCABULARY)
    files = list_history(FS, directory)[:-1]
    unvouched = Made(directory, files, {b"knone": []})

    assert {file.path.name for file in files} == read_much_of(unvouched, b"knone")
    record(directory, index_sealed(FS, directory, VOCABULARY))
    assert set() == read_much_of(unvouched, b"knone")
    assert {} == index_sealed(FS, directory, VOCABULARY)


def test_no_record_is_made_of_what_was_found_there(made: Made, directory: Path) -> None:
    """A compaction vouches for what it made from the segments: a forged index is not laundered."""
    through = write_sealed(directory, events_of(0), segment_bytes=SEGMENT_BYTES)
    index_sealed(FS, directory, VOCABULARY)
    files = list_history(FS, directory)[:-1]
    good = [file.index_path.read_bytes() for file in files]
    for file in files:
        file.index_path.write_bytes(without(file, frozenset({b"konce-0"})))
    done = prepare(FS, directory, through, VOCABULARY, State(), now=NOW)
    archive = directory / "archive"

    firsts = [file.first_sequence for file in files]
    expected = dict(zip(firsts, map(digest_of, good), strict=True))
    assert expected == done.indexes
    assert good == [(archive / file.index_path.name).read_bytes() for file in files]


def test_no_record_is_made_of_an_altered_segment(directory: Path) -> None:
    """Nor of a segment of which the digests do not fit: who restores it would not be answered."""
    through = write_sealed(directory, events_of(0), segment_bytes=SEGMENT_BYTES)
    prepare(FS, directory, through, VOCABULARY, State(), now=NOW)
    retire(FS, directory, SCHEMA)
    altered, *whole = list_history(FS, directory)[:-1]
    _alter(altered)

    made = index_sealed(FS, directory, VOCABULARY, archived=True)
    assert [file.first_sequence for file in whole] == list(made)


def _alter(file: SegmentFile) -> None:
    """Change an event in an archived segment, with the checksum that fits, but not the digest."""
    data = bytearray(read_segment(FS, file))
    header = decode_header(bytes(data), SCHEMA)
    (length,) = struct.unpack_from("<I", data, 4096 + 8)
    at = data.index(b"0-1", 4096)
    data[at : at + 3] = b"9-9"
    end = (4096 + 48 + length + 7) & -8
    crc = zlib.crc32(data[4096 + 8 : end], header.seed ^ 4096)
    data[4096 + 4 : 4096 + 8] = crc.to_bytes(4, "little")
    file.path.write_bytes(compress(bytes(data)))


def test_the_daemon_vouches_for_indexes(tmp_path: Path) -> None:
    """Of segments that it finds or has sealed, and in a compaction: a forged one hides nobody."""
    journal = tmp_path / "data" / "journal"
    journal.parent.mkdir()
    write(journal, beginning() + cycles(40))
    expected = ask(journal, "--container", "c7")
    sealed = [file.first_sequence for file in list_history(FS, journal)[:-1]]
    with Daemon(tmp_path / "data", "--after-reboot=keep", "--compact-after=0") as daemon:
        wait_for(lambda: recorded(daemon), "the sealed segments are on record")
        assert sealed == recorded(daemon)
        _hide_containers(journal)
        assert expected == ask(journal, "--container", "c7")
        _hide_containers(journal)
        assert 200 == daemon.client.post("/compact").status_code
        assert len(sealed) + 1 == len(recorded(daemon))
        _hide_containers(journal)
        assert expected == ask(journal, "--container", "c7")
    assert 1 == len(expected)


def recorded(daemon: Daemon) -> list[int]:
    """The first sequences of the segments for whose indexes the daemon's journal vouches."""
    found = [event for _, event in daemon.events() if isinstance(event, SegmentsIndexed)]
    return [first for event in found for first in event.indexes]


def _hide_containers(directory: Path) -> None:
    """Put indexes in place that are those of the segments, but for the containers."""
    blind = COILD_KEYS._replace(
        of=lambda event: [key for key in COILD_KEYS.of(event) if key[:1] != b"c"]
    )
    decoder = list_decoder(CoildEvent)
    for file in list_history(FS, directory)[:-1]:
        data = read_segment(FS, file)
        header = decode_header(data, COILD_SCHEMA)
        file.index_path.write_bytes(build_index(data, header, decoder, blind))
