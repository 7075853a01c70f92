"""What the tests of the journal share: events, journals built call by call, and a bad disk.

The disks here run on the real file system. `FastFileSystem` leaves out the flushes, for tests that
make thousands of images; `FaultyFileSystem` fails or blocks the calls that a test names.
"""

from __future__ import annotations

import asyncio
import fnmatch
import functools
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec

import msgspec

from journal import Journal, JournalBusyError, JournalFailedError, Recovered, read_events
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
from journal.fs import FileSystem, OsFileSystem
from journal.write.recovery import recover
from journal.write.repair_note import forget
from journal.write.segment_writer import Log
from journal.write.spare import Spare

_P = ParamSpec("_P")

SCHEMA = 3
SEGMENT_BYTES = 16 * 1024
#: No test waits longer for a thread; it fails then.
TIMEOUT_SECONDS = 20.0


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


class FastFileSystem(OsFileSystem):
    """The real one without its flushes: for what would survive a crash of the process."""

    def sync_directory(self, path: Path) -> None:
        """Leave it to the kernel."""

    def sync(self, fd: int) -> None:
        """Leave it to the kernel."""

    def sync_data(self, fd: int) -> None:
        """Leave it to the kernel."""


class Gate:
    """Where a blocked call stands: `entered` tells that it came, `release` lets it go on."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.release = threading.Event()

    async def wait_entered(self) -> None:
        """Wait for the call to come, while the loop goes on."""
        came = await asyncio.to_thread(self.entered.wait, TIMEOUT_SECONDS)
        assert came, "the blocked call never came"


class _Fault(NamedTuple):
    call: str
    name: str
    nth: int
    forever: bool
    error: int | None
    gate: Gate | None


class FaultyFileSystem(FastFileSystem):
    """A disk whose calls are recorded, and fail or block when a test wants them to.

    A call is named like the method; `name` is a pattern for the file's name at that time.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self._names: dict[int, str] = {}
        self._faults: dict[int, _Fault] = {}
        self._seen: dict[int, int] = {}
        self._lock = threading.Lock()

    def fail(
        self, call: str, error: int, *, name: str = "*", nth: int = 1, forever: bool = False
    ) -> None:
        """Fail the `nth` such call from now on, and with `forever` all after it."""
        self._add(_Fault(call, name, nth, forever, error, None))

    def block(self, call: str, *, name: str = "*", nth: int = 1) -> Gate:
        """Block the `nth` such call from now on until the gate is released."""
        gate = Gate()
        self._add(_Fault(call, name, nth, forever=False, error=None, gate=gate))
        return gate

    def heal(self) -> None:
        """Let every call work from now on."""
        with self._lock:
            self._faults.clear()

    def count(self, call: str, name: str = "*") -> int:
        """How many such calls there were, the failed ones included."""
        with self._lock:
            return sum(c == call and fnmatch.fnmatch(n, name) for c, n in self.calls)

    def create(self, path: Path) -> int:
        """See FileSystem."""
        self._enter("create", path.name)
        return self._named(super().create(path), path)

    def open(self, path: Path, *, write: bool = False, create: bool = False) -> int:
        """See FileSystem."""
        self._enter("open", path.name)
        return self._named(super().open(path, write=write, create=create), path)

    def close(self, fd: int) -> None:
        """See FileSystem."""
        self._names.pop(fd, None)
        super().close(fd)

    def read(self, fd: int, size: int, offset: int) -> bytes:
        """See FileSystem."""
        self._enter("read", self._names[fd])
        return super().read(fd, size, offset)

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        """See FileSystem."""
        self._enter("write", self._names[fd])
        super().write(fd, data, offset)

    def sync(self, fd: int) -> None:
        """See FileSystem."""
        self._enter("sync", self._names[fd])

    def sync_data(self, fd: int) -> None:
        """See FileSystem."""
        self._enter("sync_data", self._names[fd])

    def sync_directory(self, path: Path) -> None:
        """See FileSystem."""
        self._enter("sync_directory", path.name)

    def rename(self, source: Path, target: Path) -> None:
        """See FileSystem."""
        self._enter("rename", source.name)
        super().rename(source, target)
        for fd, name in list(self._names.items()):
            if name == source.name:
                self._names[fd] = target.name

    def remove(self, path: Path) -> None:
        """See FileSystem."""
        self._enter("remove", path.name)
        super().remove(path)

    def _named(self, fd: int, path: Path) -> int:
        self._names[fd] = path.name
        return fd

    def _add(self, fault: _Fault) -> None:
        with self._lock:
            key = len(self._seen)
            self._seen[key] = 0
            self._faults[key] = fault

    def _enter(self, call: str, name: str) -> None:
        gates = []
        error = None
        with self._lock:
            self.calls.append((call, name))
            for key, fault in list(self._faults.items()):
                if fault.call != call or not fnmatch.fnmatch(name, fault.name):
                    continue
                self._seen[key] += 1
                if self._seen[key] >= fault.nth:
                    if not fault.forever:
                        del self._faults[key]
                    error = fault.error or error
                    if fault.gate is not None:
                        gates.append(fault.gate)
        for gate in gates:
            gate.entered.set()
            assert gate.release.wait(TIMEOUT_SECONDS), "a blocked call was never released"
        if error is not None:
            raise OSError(error, os.strerror(error))


class Opened(NamedTuple):
    """A journal that was recovered and can be appended to, without threads."""

    log: Log
    recovered: Recovered
    events: list[Any]

    def append(self, events: Sequence[Any]) -> None:
        """Write one frame; no events: a mark."""
        self.log.append([encode(event) for event in events])


@contextmanager
def opened(
    directory: Path,
    *,
    fs: FileSystem | None = None,
    segment_bytes: int = SEGMENT_BYTES,
    schema: int = SCHEMA,
    clock: Callable[[], int] = time.time_ns,
) -> Iterator[Opened]:
    """Recover the journal in `directory`, made if need be, and close it afterwards."""
    fs = fs or FastFileSystem()
    fs.make_directory(directory)
    events: list[Any] = []
    recovered = recover(
        fs,
        directory,
        schema=schema,
        segment_bytes=segment_bytes,
        now=clock(),
        decoder=DECODER,
        deliver=events.extend,
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
        fs=fs or FastFileSystem(),
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


def in_loop(test: Callable[_P, Awaitable[None]]) -> Callable[_P, None]:
    """Run a coroutine as a test, in a loop of its own, with an end to patience."""

    @functools.wraps(test)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        async def main() -> None:
            async with asyncio.timeout(3 * TIMEOUT_SECONDS):
                await test(*args, **kwargs)

        asyncio.run(main())

    return run


def puts(count: int, *, start: int = 1, value_bytes: int = 20) -> list[Any]:
    """Events that are told apart by their number."""
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
    """The frames of a segment up to the first place where none validates."""
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
    """`data` with `frame` written anew: other events or header fields, and a checksum that fits.

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
    fs = FastFileSystem()
    temporary = directory / "made.tmp"
    fd = fs.create(temporary)
    zero_fill(fs, fd, 0, header.segment_bytes)
    path = publish(fs, fd, temporary, header)
    fs.close(fd)
    assert segment_path(directory, header.first_sequence) == path
    return path
