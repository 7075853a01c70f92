"""Snapshots: the state that was put in comes out, or the snapshot is refused."""

# expected == actual

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from journal import Reader, Snapshot
from journal.format.codec import MalformedError, UnsupportedError
from journal.format.snapshot import encode_snapshot, list_snapshots, read_snapshot, snapshot_path
from tests.kits.journal.building import SCHEMA, Cut, Event, flipped, patched, puts
from tests.kits.journal.compaction import State, compact, snapshots, state_of, write_sealed
from tests.kits.journal.disks import FS

HEADER_BYTES = 120


def snapshot(**changes: Any) -> Snapshot:
    """A snapshot, unless said otherwise of the state after event 7."""
    fields: dict[str, Any] = {
        "journal_id": bytes(range(16)),
        "schema": SCHEMA,
        "sequence": 7,
        "time": 10**18,
        "chain_digest": bytes(range(16, 32)),
        "created": 10**18 + 1,
        "state": b"the state",
    }
    return Snapshot(**(fields | changes))


def written(directory: Path, data: bytes, sequence: int = 7) -> Path:
    """A snapshot file with those bytes."""
    path = snapshot_path(directory, sequence)
    path.write_bytes(data)
    return path


def resealed(data: bytes) -> bytes:
    """`data` with a checksum that fits the header."""
    return patched(data, 8, zlib.crc32(data[12:HEADER_BYTES]).to_bytes(4, "little"))


@given(
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.binary(min_size=16, max_size=16),
    st.binary(max_size=2000),
)
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_read(
    tmp_path: Path, sequence: int, time: int, digest: bytes, state: bytes
) -> None:
    """Every field comes back as it was."""
    taken = snapshot(sequence=sequence, time=time, chain_digest=digest, state=state)
    path = written(tmp_path, encode_snapshot(taken), sequence)

    assert taken == read_snapshot(FS, path, SCHEMA)


def test_any_flipped_bit_is_noticed(tmp_path: Path) -> None:
    """No bit of header or state can change unnoticed."""
    data = encode_snapshot(snapshot())

    for offset in range(len(data)):
        for bit in range(8):
            path = written(tmp_path, flipped(data, offset, 1 << bit))
            with pytest.raises((MalformedError, UnsupportedError)):
                read_snapshot(FS, path, SCHEMA)


def test_another_length_is_noticed(tmp_path: Path) -> None:
    """A snapshot that was cut or extended is refused."""
    data = encode_snapshot(snapshot())

    for changed in (*(data[:size] for size in range(len(data))), data + b"\0"):
        with pytest.raises(MalformedError):
            read_snapshot(FS, written(tmp_path, changed), SCHEMA)


def test_what_is_newer_is_unsupported(tmp_path: Path) -> None:
    """A newer version, schema or feature is told from damage; an older schema is read."""
    data = encode_snapshot(snapshot())
    for changed, words in (
        (patched(data, 12, b"\2\0"), "version 2"),
        (resealed(patched(data, 20, b"\4\0\0\0")), "features 0x4"),
        (encode_snapshot(snapshot(schema=SCHEMA + 1)), f"schema {SCHEMA + 1}"),
    ):
        with pytest.raises(UnsupportedError, match=words):
            read_snapshot(FS, written(tmp_path, changed), SCHEMA)

    compatible = written(tmp_path, resealed(patched(data, 16, b"\1\0\0\0")))
    assert snapshot() == read_snapshot(FS, compatible, SCHEMA)
    assert SCHEMA == read_snapshot(FS, compatible, SCHEMA + 1).schema


def test_a_wrong_name_is_refused(tmp_path: Path) -> None:
    """A snapshot that was renamed does not pass for one of another sequence."""
    with pytest.raises(MalformedError, match="its name says otherwise"):
        read_snapshot(FS, written(tmp_path, encode_snapshot(snapshot()), 8), SCHEMA)


def test_only_snapshots_are_listed(tmp_path: Path) -> None:
    """The newest comes first; other names are not snapshots."""
    for sequence in (3, 20, 100):
        written(tmp_path, b"", sequence)
    for name in ("snapshot.tmp", "7.snap", f"{7:020d}.snap.old", f"{7:020d}.seg"):
        (tmp_path / name).touch()

    assert [100, 20, 3] == [file.sequence for file in list_snapshots(FS, tmp_path)]


def test_a_snapshot_and_the_tail_are_the_full_replay(directory: Path) -> None:
    """Restoring any snapshot up to a sequence, and applying what follows, gives the same state."""
    events: list[Any] = []
    ends = [0]
    for number in range(3):
        more = [*puts(250, start=number * 200), *(Cut(f"key-{n}") for n in range(0, 400, 7))]
        events += more
        ends.append(write_sealed(directory, more))
        compact(directory, ends[-1])
    reader = Reader(directory, Event, schema=SCHEMA)
    # Two are kept: for what is before them, the replay begins with the first event.
    begins = {0: 0, 1: 0, 2: ends[2], 3: ends[3]}
    assert [ends[3], ends[2]] == [int(path.stem) for path in snapshots(directory)]

    for number, end in enumerate(ends):
        for until in (end, end + 1, end + 100):
            state = State()
            start, rejected = reader.restore(state.restore, until)
            replayed = [
                event
                for batch in reader.batches(start + 1)
                for event in batch.events[: max(0, until - batch.first_sequence + 1)]
            ]
            state.apply_all(replayed)
            assert (begins[number], ()) == (start, rejected)
            assert state_of(events[:until]).digest == state.digest
