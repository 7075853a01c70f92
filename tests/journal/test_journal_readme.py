"""The specification: its example runs, and a reader written from it alone reads every journal.

The reader below imports nothing of the journal. Field positions come from the tables themselves.
"""

# expected == actual

from __future__ import annotations

import hashlib
import re
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from journal import read_events
from tests.kits.daemon.process import ended
from tests.kits.journal.building import (
    SCHEMA,
    SEGMENT_BYTES,
    Cut,
    Event,
    build,
    flipped,
    puts,
    segments,
)

ROOT = Path(__file__).parents[2]
README = (ROOT / "journal" / "README.md").read_text(encoding="utf-8")

Fields = dict[str, Any]


def fields(data: bytes, kind: str) -> Fields:
    """What the specification's table of the `kind` of field finds in `data`."""
    table = README.split(f"| offset | size | type | {kind} field | meaning |\n")[1].split("\n\n")[0]
    found: Fields = {}
    for row in table.splitlines()[1:]:
        offset, size, type_, name = [cell.strip() for cell in row.split("|")[1:5]]
        value = data[int(offset) : int(offset) + int(size)]
        assert len(value) == int(size)
        found[name] = int.from_bytes(value, "little") if type_ == "integer" else value
    return found


def read_segment(data: bytes) -> Iterator[tuple[int, int, Any]]:
    """Sequence, commit time and decoded array of each event of one segment, by the README."""
    header = fields(data, "segment")
    assert b"\x89JSEG\r\n\x1a" == header["magic"]
    assert (1, 0, 0) == (header["version"], header["reserved"], header["incompatible"])
    assert zlib.crc32(data[12:4096]) == header["crc"]
    assert len(data) == header["segment size"]
    assert header["previous sequence"] == header["first sequence"] - 1
    assert not any(header["zeros"])
    largest = min(256 * 1024, (len(data) - 4096) // 2 // 8 * 8)
    assert largest == header["largest frame"]

    seed = zlib.crc32(header["journal id"] + header["segment id"])
    sequence, digest, time = header["first sequence"], header["previous digest"], 0
    offset = 4096
    while offset + 48 <= len(data) and data[offset : offset + 4] == b"\xabFRM":
        frame = fields(data[offset : offset + 48], "frame")
        length = frame["length"]
        end = offset + (48 + length + 7) // 8 * 8
        assert end - offset <= largest
        assert zlib.crc32(data[offset + 8 : end], seed ^ offset) == frame["crc"]
        assert sequence == frame["first sequence"]
        assert 0 == frame["flags"]
        assert time <= frame["time"]
        chained = digest + data[offset + 8 : offset + 32] + data[offset + 48 : end]
        assert hashlib.blake2b(chained, digest_size=16).digest() == frame["digest"]
        body = data[offset + 48 : offset + 48 + length]
        events = msgspec.msgpack.decode(body) if frame["kind"] == 1 else []
        assert frame["count"] == len(events)
        for event in events:
            yield sequence, frame["time"], event
            sequence += 1
        digest, time, offset = frame["digest"], frame["time"], end
    assert not any(data[offset:])


def read_journal(directory: Path) -> list[tuple[int, Any]]:
    """Sequence and decoded array of each event, by the README."""
    found: list[tuple[int, Any]] = []
    journal_ids = set()
    for path in sorted(directory.iterdir()):
        if not re.fullmatch(r"\d{20}\.seg", path.name):
            continue
        data = path.read_bytes()
        header = fields(data[:4096], "segment")
        journal_ids.add(header["journal id"])
        assert int(path.name[:20]) == header["first sequence"] == len(found) + 1
        found += [(sequence, event) for sequence, _, event in read_segment(data)]
    assert 1 == len(journal_ids)
    return found


@pytest.mark.parametrize("segment_bytes", [SEGMENT_BYTES, 5 * SEGMENT_BYTES + 3])
def test_a_reader_from_the_specification_agrees(directory: Path, segment_bytes: int) -> None:
    """Who reads a journal by the specification alone finds what `read_events` finds."""
    batches: list[list[Any]] = [puts(n % 40, start=n, value_bytes=n) for n in range(1, 120)]
    batches += [[], [Cut("größe", -(2**63)), Cut("", 2**64 - 1)], puts(300, value_bytes=1), []]
    for half in (batches[:60], batches[60:]):
        build(directory, half, segment_bytes=segment_bytes)

    ours = [
        (sequence, msgspec.to_builtins(event, builtin_types=(bytes,)))
        for sequence, event in read_events(directory, Event, schema=SCHEMA)
    ]
    assert len(segments(directory)) > 1
    assert sum(map(len, batches)) == len(ours)
    assert ours == [(sequence, [*event]) for sequence, event in read_journal(directory)]


@pytest.mark.parametrize("offset", [4, 8, 20, 40, 50])
def test_a_reader_from_the_specification_finds_damage(directory: Path, offset: int) -> None:
    """The checks of the specification are enough to notice a changed frame."""
    build(directory, [puts(3), puts(3, start=4)])
    path = segments(directory)[0]
    path.write_bytes(flipped(path.read_bytes(), 4096 + offset))

    with pytest.raises(AssertionError):
        read_journal(directory)


def example() -> str:
    """The program in the README."""
    (code,) = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    return str(code)


def test_the_example_runs(tmp_path: Path) -> None:
    """The README's example runs as it stands, and again, with the events of its first run."""
    (tmp_path / "example.py").write_text(example(), encoding="utf-8")

    runs = [ended([sys.executable, "-W", "error", "example.py"], cwd=tmp_path) for _ in range(2)]

    lines = ["1 1", "2 2", "3 3", "4 1", "5 2", "6 3"]
    assert ["", ""] == [run.stderr for run in runs]
    assert ["0 events replayed, durable up to 3", *lines[:3]] == runs[0].stdout.splitlines()
    assert ["3 events replayed, durable up to 6", *lines] == runs[1].stdout.splitlines()


def test_the_diagrams_are_those_of_the_code() -> None:
    """The byte diagrams of the specification are the ones above the code that encodes them."""
    code = (ROOT / "journal" / "format" / "codec.py").read_text(encoding="utf-8")
    diagrams = [
        [
            line
            for line in text.splitlines()
            if line.startswith(("    0 ", "    3", "    8", "    +"))
        ]
        for text in (README, code)
    ]

    assert diagrams[0]
    assert diagrams[1] == diagrams[0]
