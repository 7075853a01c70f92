"""Events for tests of the journal, and journals built call by call."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from journal import Journal, JournalBusyError, JournalFailedError, Recovered, Snapshot, read_events
from journal.format.codec import (
    FRAME_MAGIC,
    SEGMENT_HEADER_BYTES,
    Frame,
    MalformedError,
    SegmentHeader,
    decode_frame,
    decode_header,
    encode_frame,
)
from journal.format.segments import LOCK_NAME, publish, segment_path, zero_fill
from journal.fs import FileSystem
from journal.write.recovery import recover
from journal.write.repair_note import forget
from journal.write.segment_writer import Log
from journal.write.spare import Spare
from tests.kits.journal.disks import FS

SCHEMA = 3
SEGMENT_BYTES = 16 * 1024


class Put(msgspec.Struct, frozen=True, array_like=True, tag="put", gc=False):
    """A value was put under a key."""

    key: str
    value: bytes = b""


class Cut(msgspec.Struct, frozen=True, array_like=True, tag="cut", gc=False):
    """A key was removed."""

    key: str
    reason: int = 0


Event = Put | Cut
DECODER: msgspec.msgpack.Decoder[list[Any]] = msgspec.msgpack.Decoder(list[Event])
encode = msgspec.msgpack.Encoder().encode


class Opened(NamedTuple):
    """A journal that was recovered and can be appended to, without threads."""

    log: Log
    recovered: Recovered
    events: list[Any]

    def append(self, events: Sequence[Any]) -> None:
        """Write one frame; no events: a mark."""
        self.log.append([encode(event) for event in events])

    def write(self, events: Iterable[Any]) -> None:
        """Write a frame for each event, and a mark."""
        for event in events:
            self.append([event])
        self.append([])


@contextmanager
def opened(
    directory: Path,
    *,
    fs: FileSystem | None = None,
    segment_bytes: int = SEGMENT_BYTES,
    schema: int = SCHEMA,
    clock: Callable[[], int] = time.time_ns,
    restore: Callable[[Snapshot | None], None] | None = None,
) -> Iterator[Opened]:
    """Recover the journal in `directory`, made if necessary, and close it afterwards.

    With `restore`, it begins with a snapshot if it has one, and its events are not decoded.
    """
    fs = fs or FS
    fs.make_directory(directory)
    events: list[Any] = []
    recovered = recover(
        fs,
        directory,
        schema=schema,
        segment_bytes=segment_bytes,
        now=clock(),
        decoder=None if restore else DECODER,
        deliver=None if restore else events.extend,
        restore=restore,
    )
    # As a program does that has recorded what was set aside.
    forget(fs, directory)
    spare = Spare(fs, directory, segment_bytes)
    log = Log(fs, recovered, spare, schema, clock)
    try:
        yield Opened(log, recovered, events)
    finally:
        log.close()
        spare.close()


def build(directory: Path, batches: Sequence[Sequence[Any]], **options: Any) -> None:
    """Write each batch as one frame; an empty one is a mark."""
    with opened(directory, **options) as journal:
        for batch in batches:
            journal.append(batch)


@asynccontextmanager
async def running(
    directory: Path,
    *,
    fs: FileSystem | None = None,
    segment_bytes: int = SEGMENT_BYTES,
    clock: Callable[[], int] = time.time_ns,
    on_failure: Callable[[JournalFailedError], None] | None = None,
) -> AsyncIterator[Journal]:
    """Open the journal in `directory`, start its threads, and close it afterwards."""
    journal = Journal.open(
        directory,
        Event,
        schema=SCHEMA,
        replay=lambda _events: None,
        segment_bytes=segment_bytes,
        fs=fs or FS,
        clock=clock,
    )
    journal.start(on_failure)
    try:
        yield journal
    finally:
        await journal.close()


async def take(journal: Journal, event: Any, *, essential: bool = False) -> int:
    """Append `event` as soon as there is room for it, and return its sequence."""
    while True:
        try:
            return journal.append(event, essential=essential)
        except JournalBusyError:
            await journal.room()


def puts(count: int, *, start: int = 1, value_bytes: int = 20) -> list[Any]:
    """Events that differ by their number."""
    return [
        Put(f"key-{n}", bytes([n % 255 + 1]) * value_bytes) for n in range(start, start + count)
    ]


def read_back(directory: Path) -> list[Any]:
    """All events of `directory`, after checking that their sequences are gapless from 1."""
    pairs = list(read_events(directory, Event, schema=SCHEMA))
    assert list(range(1, len(pairs) + 1)) == [sequence for sequence, _ in pairs]
    return [event for _, event in pairs]


def image(directory: Path) -> dict[str, bytes]:
    """Every name in `directory` with its bytes, the lock left out."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != LOCK_NAME}


def restore(directory: Path, files: dict[str, bytes]) -> None:
    """Make `directory` hold exactly `files`."""
    directory.mkdir(exist_ok=True)
    for path in directory.iterdir():
        path.unlink()
    for name, data in files.items():
        (directory / name).write_bytes(data)


def segments(directory: Path) -> list[Path]:
    """The segments of `directory`, oldest first."""
    return sorted(directory.glob("*.seg"))


def frames(segment: bytes, header: SegmentHeader) -> list[Frame]:
    """The frames of a segment up to the first place without a valid one."""
    found: list[Frame] = []
    offset = SEGMENT_HEADER_BYTES
    view = memoryview(segment)
    while True:
        try:
            frame = decode_frame(view, offset, header)
        except MalformedError:
            return found
        found.append(frame)
        offset = frame.end


def frames_of(data: bytes) -> tuple[SegmentHeader, list[Frame]]:
    """The header and the frames of one segment's bytes, of any vocabulary."""
    header = decode_header(data, 2**32 - 1)
    return header, frames(data, header)


def patched(data: bytes, offset: int, new: bytes) -> bytes:
    """`data` with `new` at `offset`."""
    return data[:offset] + new + data[offset + len(new) :]


def flipped(data: bytes, offset: int, mask: int = 0xFF) -> bytes:
    """`data` with the bits of `mask` inverted in the byte at `offset`."""
    return patched(data, offset, bytes([data[offset] ^ mask]))


def forged(data: bytes, frame: Frame, events: Sequence[Any], **changes: Any) -> bytes:
    """`data` with `frame` replaced: other events or header fields, and a checksum that fits.

    The digest is chained to `previous_digest`, zeros unless said otherwise.
    """
    header, _ = frames_of(data)
    fields: dict[str, Any] = {
        "seed": header.seed,
        "offset": frame.offset,
        "first_sequence": frame.first_sequence,
        "time": frame.time,
        "previous_digest": bytes(16),
    }
    new, _digest = encode_frame([encode(event) for event in events], **(fields | changes))
    assert new.startswith(FRAME_MAGIC)
    assert len(new) == frame.end - frame.offset, "a forged frame must take the place of the old one"
    return patched(data, frame.offset, new)


def publish_segment(directory: Path, header: SegmentHeader) -> Path:
    """Write an empty segment with that header."""
    temporary = directory / "made.tmp"
    fd = FS.create(temporary)
    zero_fill(FS, fd, 0, header.segment_bytes)
    path = publish(FS, fd, temporary, header)
    FS.close(fd)
    assert segment_path(directory, header.first_sequence) == path
    return path
