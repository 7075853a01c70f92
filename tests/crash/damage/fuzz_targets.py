"""The fuzzer's targets, which get bytes with mended checksums, so that it gets behind those.

The first byte of an input says which target it is for, the second how it is mended. A target says
whether the bytes were accepted or refused; any error but the journal's own is a fault, and so is a
read of more bytes than a file could have.
"""

from __future__ import annotations

import errno
import functools
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec

from journal import JournalError, Reader, find, read_events
from journal.check.verify import verify
from journal.format.archive import decompress, open_segment
from journal.format.codec import (
    SEGMENT_HEADER_BYTES,
    MalformedError,
    SegmentHeader,
    UnsupportedError,
    decode_frame,
    decode_header,
)
from journal.format.index import Index
from journal.format.scan import scan
from journal.format.segments import SegmentFile, archive_path
from journal.format.snapshot import read_snapshot, snapshot_path
from journal.write.recovery import recover
from journal.write.repair_note import SetAside, forget, unrecorded
from tests.crash.damage.mending import (
    CHAIN,
    CHECKSUM,
    mended_archive,
    mended_file,
    mended_frames,
    mended_header,
    mended_index,
    mended_snapshot,
)
from tests.crash.damage.rot_sample import ROOT, SEGMENT_BYTES, Files, Sample, build_sample, nested
from tests.crash.simulated.disk import SimulatedDisk
from tests.kits.journal.building import DECODER, SCHEMA, Event, patched
from tests.kits.journal.compaction import KEYS, NOW, VOCABULARY, State

#: All files here are smaller: a larger read trusts a number that was not checked.
READ_BYTES_MAX = 1 << 20


class BoundedDisk(SimulatedDisk):
    """A disk that handles invalid reads like the system, and reports reads that are too large."""

    def read(self, fd: int, size: int, offset: int) -> bytes:
        """See FileSystem."""
        if size < 0 or offset < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        if size > READ_BYTES_MAX:
            raise MemoryError(f"{size} bytes of a file of {self.size(fd)}")
        return super().read(fd, size, offset)


@functools.cache
def sample() -> Sample:
    """A journal with everything in it, the same in every process."""
    with mock.patch("secrets.token_bytes", random.Random(1).randbytes):  # noqa: S311
        return build_sample()


def check(data: bytes) -> tuple[str, bool]:
    """Feed `data` to its target; the target's name, and whether it was accepted.

    Raises whatever a target should not.
    """
    name, mend = addressed(data)
    try:
        TARGETS[name](data[2:], mend)
    except (JournalError, MalformedError, UnsupportedError):
        return name, False
    return name, True


def addressed(data: bytes) -> tuple[str, int]:
    """The target of an input, and how its bytes are mended."""
    names = list(TARGETS)
    return names[data[0] % len(names)] if data else names[0], data[1] if len(data) > 1 else 0


def _header(data: bytes, mend: int) -> None:
    """A header page, and a segment of zeros behind it."""
    if mend & CHECKSUM:
        data = mended_header(data.ljust(SEGMENT_HEADER_BYTES, b"\0"))
    header = decode_header(data, SCHEMA)
    scan(data.ljust(SEGMENT_BYTES, b"\0"), header, DECODER, [].extend)


def _frames(data: bytes, mend: int) -> None:
    """Bytes behind a good header: two readers must agree on them."""
    whole = sample()
    good = whole.files[whole.last]
    header, _ = whole.segments[whole.last]
    segment = patched(good[:SEGMENT_HEADER_BYTES], SEGMENT_HEADER_BYTES, data)
    segment = segment[:SEGMENT_BYTES].ljust(SEGMENT_BYTES, b"\0")
    if mend & CHECKSUM:
        segment = mended_frames(segment, header, mend)
    events: list[Any] = []
    found = scan(segment, header, DECODER, events.extend, verify_chain=bool(mend & CHAIN))
    assert header.first_sequence + len(events) == found.next_sequence
    end, sequence = _walked(segment, header)
    # One that does not look at the chain gets farther.
    assert found.offset <= end, "a frame is taken that does not validate"
    assert mend & CHAIN or sequence == found.next_sequence, "two readers see different frames"


def _walked(segment: bytes, header: SegmentHeader) -> tuple[int, int]:
    """Where the frames end, read one by one, and the sequence that comes next."""
    offset, sequence = SEGMENT_HEADER_BYTES, header.first_sequence
    while True:
        try:
            frame = decode_frame(memoryview(segment), offset, header)
        except (MalformedError, UnsupportedError):
            return offset, sequence
        if frame.first_sequence != sequence:
            return offset, sequence
        offset, sequence = frame.end, sequence + frame.count


def _archive(data: bytes, mend: int) -> None:
    """An archive file, read whole and in part."""
    if mend & CHECKSUM:
        data = mended_archive(data)
    file = SegmentFile(1, archive_path(ROOT, 1))
    with open_segment(BoundedDisk.holding({"archive": {file.path.name: data}}), file) as reader:
        part = reader.read(100, 50)
        reader.read(1 << 40, max(0, reader.size - 10))
        segment = decompress(data)
        assert segment[50:150] == part, "two readers see different bytes"
        assert len(segment) == reader.size


def _snapshot(data: bytes, mend: int) -> None:
    """A snapshot under the name that it says."""
    if mend & CHECKSUM:
        data = mended_snapshot(data, mend)
    sequence = int.from_bytes(data[48:56], "little")
    path = snapshot_path(ROOT, sequence)
    State().restore(None)
    assert read_snapshot(BoundedDisk.holding({path.name: data}), path, SCHEMA).sequence == sequence


def _index(data: bytes, mend: int) -> None:
    """An index beside its segment, by itself and for a question."""
    whole = sample()
    first = min(whole.segments)
    header, _ = whole.segments[first]
    if mend & CHECKSUM:
        data = mended_index(data, header)
    name = f"{first.removesuffix('.seg')}.idx"
    disk = BoundedDisk.holding(nested(whole.files | {name: data}))
    list(find(Reader(ROOT, Event, schema=SCHEMA, fs=disk), KEYS, b"kshared"))
    index = Index(lambda size, offset: data[offset : offset + size], header, KEYS)
    index.check()
    index.find(b"kshared")


def _note(data: bytes, _mend: int) -> None:
    """The note of repairs that are to be recorded."""
    unrecorded(BoundedDisk.holding(nested(sample().files | {"repairs.json": data})), ROOT, 1)


def _journal(data: bytes, mend: int) -> None:
    """A journal with some edits: all that read it, and a second start that changes nothing."""
    edited = nested(edits(sample().files, data, mend))
    for read in (_verified, _events, _found):
        try:
            read(BoundedDisk.holding(edited))
        except JournalError:
            continue
    disk = BoundedDisk.holding(edited)
    first = _opened(disk)
    forget(disk, ROOT)
    assert first == _opened(disk), "the second start is another one"


def _opened(disk: BoundedDisk) -> tuple[str, int, bytes]:
    state = State()
    recovered = recover(
        disk,
        ROOT,
        schema=SCHEMA,
        segment_bytes=SEGMENT_BYTES,
        now=NOW,
        decoder=DECODER,
        deliver=state.apply_all,
        restore=state.restore,
    )
    return state.digest, recovered.tail.next_sequence, recovered.tail.digest


def _verified(disk: BoundedDisk) -> None:
    verify(disk, ROOT, VOCABULARY)


def _events(disk: BoundedDisk) -> None:
    list(read_events(ROOT, Event, schema=SCHEMA, fs=disk))


def _found(disk: BoundedDisk) -> None:
    list(find(Reader(ROOT, Event, schema=SCHEMA, fs=disk), KEYS, b"kshared"))


def edits(files: Files, data: bytes, mend: int) -> Files:
    """`files` with edits: each is a file's number, a verb, an offset, a length and bytes."""
    changed = dict(files)
    at = 0
    while at + 5 <= len(data):
        number, verb, offset, size = struct.unpack_from("<BBHB", data, at)
        new = data[at + 5 : at + 5 + size]
        at += 5 + len(new)
        name = sorted(files)[number % len(files)]
        other = sorted(files)[offset % len(files)]
        old = changed.get(name, b"")
        match verb % 6:
            case 0 | 1 if offset < len(old):
                changed[name] = patched(old, offset, new)[: len(old)]
            case 2:
                changed[name] = old[:offset]
            case 3:
                changed.pop(name, None)
            case 4:
                changed[name] = changed.get(other, b"")
            case 5:
                changed[name] = old + new
            case _:
                pass
    if mend & CHECKSUM:
        for name, old in changed.items():
            changed[name] = mended_file(name, old, mend)
    return changed


#: Bytes and how they are mended, to what is done with them. An input has a target's number: new
#: ones go to the end.
TARGETS: dict[str, Callable[[bytes, int], None]] = {
    "header": _header,
    "frames": _frames,
    "archive": _archive,
    "snapshot": _snapshot,
    "index": _index,
    "note": _note,
    "journal": _journal,
}


def seeds() -> list[bytes]:
    """What a fuzzer begins with: the parts of a good journal, and edits of one."""
    files = sample().files
    found = [
        b"\6\0" + bytes([number, number % 6, 0, 16, 4]) + b"edit" for number in range(len(files))
    ]
    found += [bytes([number, 0]) for number in range(len(TARGETS))]
    for name, data in files.items():
        suffix = Path(name).suffix
        if suffix == ".seg":
            found += [b"\0\1" + data[:112]]
            found += [
                b"\1" + bytes([mend]) + data[SEGMENT_HEADER_BYTES:].rstrip(b"\0") for mend in (3, 7)
            ]
        number = {".zst": b"\2", ".snap": b"\3", ".idx": b"\4"}.get(suffix)
        if number is not None:
            found += [number + bytes([mend]) + data for mend in (0, 3)]
    aside = SetAside(file="a", offset=1, size=1, kept="k", reason="", before="")
    note = msgspec.json.encode({"last-sequence": 1, "set-aside": [aside]})
    return [*found, b"\5\0" + note]
