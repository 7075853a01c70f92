"""Recovery and reading: a crash loses nothing that was acknowledged, damage is never taken for one.

Every test makes bytes that a crash or somebody left in a directory, and says what becomes of them.
"""

# expected == actual

from __future__ import annotations

import errno
import itertools
import os
import stat
import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from journal import (
    Journal,
    JournalCorruptError,
    JournalError,
    JournalUnsupportedError,
    read_events,
)
from journal.format.chain import walk
from journal.format.codec import (
    EVENTS,
    MARK,
    SEGMENT_HEADER_BYTES,
    Frame,
    encode_frame,
    encode_header,
    frame_bytes_max,
)
from journal.format.scan import End
from journal.format.segments import (
    LOCK_NAME,
    NOTE_TEMPORARY_NAME,
    RECOVERED_NAME,
    SPARE_NAME,
    list_segments,
)
from journal.write.recovery import recover
from tests.kits.journal.building import (
    DECODER,
    SCHEMA,
    SEGMENT_BYTES,
    Cut,
    Event,
    Put,
    build,
    encode,
    flipped,
    forged,
    frames_of,
    image,
    opened,
    patched,
    publish_segment,
    puts,
    read_back,
    restore,
    segments,
)
from tests.kits.journal.disks import FS, Call, HookedFileSystem

#: Three frames: the last segment of a journal whose last flush may not have returned.
BATCHES = [puts(2), puts(1, start=3, value_bytes=61), puts(20, start=4, value_bytes=5)]
FIRST_SEGMENT = f"{1:020d}.seg"
LARGEST_FRAME = frame_bytes_max(SEGMENT_BYTES)


def flat(batches: Sequence[Sequence[Any]]) -> list[Any]:
    """The events of `batches`."""
    return list(itertools.chain.from_iterable(batches))


class Written(NamedTuple):
    """A segment as it was written."""

    path: Path
    data: bytes
    frames: list[Frame]


def written(directory: Path, batches: Sequence[Sequence[Any]] = BATCHES) -> Written:
    """Write a journal of one segment."""
    build(directory, batches)
    (path,) = segments(directory)
    data = path.read_bytes()
    return Written(path, data, frames_of(data)[1])


def attempt(directory: Path) -> list[Any]:
    """Recover, close, and return the events; errors pass."""
    with opened(directory) as journal:
        return journal.events


def assert_refused(
    directory: Path,
    error_type: type[JournalError],
    *,
    words: str | None,
    file: str = FIRST_SEGMENT,
    offset: int | None = None,
    last_sequence: int | None = None,
) -> None:
    """Opening fails with the error, which says where and what; nothing in the directory changes."""
    before = image(directory)

    with pytest.raises(error_type, match=words) as raised:
        attempt(directory)

    text = str(raised.value)
    assert before == image(directory)
    assert str(directory / file) in text
    assert "nothing was changed" in text
    if offset is not None:
        assert f"at offset {offset}:" in text
    if last_sequence is not None:
        assert f"the last good sequence is {last_sequence};" in text
    if isinstance(raised.value, JournalCorruptError):
        assert directory / file == raised.value.file
        assert offset in {None, raised.value.offset}
        assert last_sequence in {None, raised.value.last_sequence}


def assert_corrupt(
    directory: Path, words: str | None, offset: int, last_sequence: int, file: str = FIRST_SEGMENT
) -> None:
    """The same of damage at an offset, behind the last good event."""
    position = {"offset": offset, "last_sequence": last_sequence}
    assert_refused(directory, JournalCorruptError, words=words, file=file, **position)


def assert_torn(directory: Path, data: bytes, frame: Frame, good: list[Any]) -> None:
    """Opening sets the tail from `frame` on aside, finds `good`, and the journal lives on.

    `data` is what the last segment held before.
    """
    torn = data[frame.offset :].rstrip(b"\0")
    with opened(directory) as journal:
        (found,) = journal.recovered.set_aside
        assert good == journal.events
        assert (frame.offset, len(torn)) == (found.offset, found.size)
        assert torn == (directory / found.kept).read_bytes()
        assert found.kept.startswith(f"{found.file}.torn-")
        assert found.reason
    after = segments(directory)[-1].read_bytes()
    assert data[: frame.offset] == after[: frame.offset]
    assert after[frame.offset :] == bytes(SEGMENT_BYTES - frame.offset)

    assert_lives(directory, good)


def assert_lives(directory: Path, good: list[Any]) -> None:
    """Opening finds `good` and nothing torn, twice, and what is appended in between."""
    more = puts(1, start=1000)
    with opened(directory) as journal:
        assert not journal.recovered.set_aside
        assert good == journal.events
        journal.append(more)

    with opened(directory) as journal:
        assert not journal.recovered.set_aside
        assert [*good, *more] == journal.events
    walk(FS, list_segments(FS, directory), SCHEMA, verify_chain=True)


def test_new_journal(directory: Path) -> None:
    """An empty directory becomes a journal of one empty segment, the owner's alone."""
    with opened(directory) as journal:
        assert [] == journal.events
        assert (1, 1) == (journal.recovered.segments, journal.recovered.header.first_sequence)
        assert {FIRST_SEGMENT} == set(image(directory))

    path = directory / FIRST_SEGMENT
    assert SEGMENT_BYTES == path.stat().st_size
    assert [0o700, 0o600] == [stat.S_IMODE(p.stat().st_mode) for p in (directory, path)]


def test_zeros_from_every_cut(directory: Path) -> None:
    """Wherever a crash stopped the writing of the last frames, the whole ones are recovered."""
    build(directory, BATCHES)
    files = image(directory)
    data = files[FIRST_SEGMENT]
    _, frames = frames_of(data)
    torn = 0

    for cut in range(SEGMENT_HEADER_BYTES, frames[-1].end + 1):
        crashed = data[:cut] + bytes(SEGMENT_BYTES - cut)
        restore(directory, files | {FIRST_SEGMENT: crashed})
        whole = [f for f in frames if crashed[: f.end] == data[: f.end]]
        good = flat(BATCHES[: len(whole)])
        bad = next((f for f in frames if f not in whole), None)
        if bad is not None and any(crashed[bad.offset :]):
            assert_torn(directory, crashed, bad, good)
            torn += 1
        else:
            assert_lives(directory, good)
            assert [FIRST_SEGMENT] == sorted(image(directory))

    # The other cuts were at a frame's start, in its padding, or before bytes that are zero anyway.
    assert torn > 0.9 * (frames[-1].end - SEGMENT_HEADER_BYTES)


def test_every_truncation_is_refused(directory: Path) -> None:
    """A segment's length never changes, so a shorter file was cut, and opening changes nothing."""
    build(directory, BATCHES)
    data = image(directory)[FIRST_SEGMENT]
    _, frames = frames_of(data)
    edges = [0, 128, SEGMENT_HEADER_BYTES, *(f.end for f in frames), SEGMENT_BYTES - 1]
    near = {edge + by for edge in edges for by in range(-9, 10)}
    sizes = sorted(size for size in near | set(range(0, SEGMENT_BYTES, 211)) if size >= 0)

    for size in (size for size in sizes if size < SEGMENT_BYTES):
        (directory / FIRST_SEGMENT).write_bytes(data[:size])
        whole = [f for f in frames if f.end <= size]
        in_header = size < SEGMENT_HEADER_BYTES
        assert_corrupt(
            directory,
            "is empty" if not size else "cut short" if in_header else "changes its length",
            0 if in_header else whole[-1].end if whole else SEGMENT_HEADER_BYTES,
            sum(f.count for f in whole),
        )


def test_a_segment_that_grew_is_refused(directory: Path) -> None:
    """A file that is longer than its header says is no segment as it was written."""
    build(directory, BATCHES)
    path = directory / FIRST_SEGMENT
    path.write_bytes(path.read_bytes() + bytes(8))

    assert_refused(
        directory, JournalCorruptError, words=f"made with {SEGMENT_BYTES}", last_sequence=23
    )


#: Where in a frame a byte is flipped: the offset of each field.
FIELDS = {
    "magic": 0,
    "crc": 4,
    "length": 8,
    "length, high": 11,
    "count": 12,
    "kind": 14,
    "flags": 15,
    "sequence": 16,
    "time": 24,
    "digest": 32,
    "body": 48,
    "padding": -1,
}


def flip_in(data: bytes, frame: Frame, field: str) -> bytes:
    """`data` with a byte of one field of `frame` flipped."""
    at = FIELDS[field]
    return flipped(data, frame.offset + at if at >= 0 else frame.end + at)


@pytest.mark.parametrize("field", FIELDS)
def test_a_flipped_byte_in_a_sealed_segment(directory: Path, field: str) -> None:
    """A segment with a successor was whole once: damage in it is refused, in its last frame too."""
    build(directory, [puts(100, start=n * 100 + 1) for n in range(8)])
    files = image(directory)
    first, *others = segments(directory)
    data = files[first.name]
    _, frames = frames_of(data)

    assert others
    for number in (0, 1, len(frames) - 1):
        restore(directory, files | {first.name: flip_in(data, frames[number], field)})
        assert_corrupt(directory, None, frames[number].offset, number * 100)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize(("number", "batches"), [(1, BATCHES), (2, [*BATCHES, []])])
def test_a_flipped_byte_before_an_intact_frame(
    directory: Path, field: str, number: int, batches: list[list[Any]]
) -> None:
    """A frame with an intact one behind it, or a mark, was whole once: damage in it is refused."""
    path, data, frames = written(directory, batches)
    path.write_bytes(flip_in(data, frames[number], field))

    assert [EVENTS, EVENTS, EVENTS, MARK][: len(batches)] == [frame.kind for frame in frames]
    assert_corrupt(
        directory,
        f"an intact one follows at {frames[number + 1].offset}",
        frames[number].offset,
        number + 1,
    )


@pytest.mark.parametrize(
    ("field", "batches"), [("digest", [*BATCHES, []]), *((field, BATCHES) for field in FIELDS)]
)
def test_a_flipped_byte_in_the_last_frame(
    directory: Path, field: str, batches: list[list[Any]]
) -> None:
    """The last frame has no one to vouch for it, and is a torn tail when it does not validate.

    A mark that did not get to the disk costs no event.
    """
    path, data, frames = written(directory, batches)
    data = flip_in(data, frames[-1], field)
    path.write_bytes(data)

    assert_torn(directory, data, frames[-1], flat(batches[:-1]))


#: Fields of the segment header, by offset, and which error a flipped byte there gives.
HEADER_FIELDS: dict[str, tuple[int, type[JournalError], str]] = {
    "magic": (0, JournalCorruptError, "no journal segment"),
    "crc": (8, JournalCorruptError, "checksum"),
    "version": (12, JournalUnsupportedError, "format version"),
    "incompatible features": (20, JournalCorruptError, "checksum"),
    "schema": (24, JournalCorruptError, "checksum"),
    "largest frame": (28, JournalCorruptError, "checksum"),
    "journal id": (32, JournalCorruptError, "checksum"),
    "segment id": (48, JournalCorruptError, "checksum"),
    "segment size": (64, JournalCorruptError, "checksum"),
    "first sequence": (72, JournalCorruptError, "checksum"),
    "previous digest": (88, JournalCorruptError, "checksum"),
    "zeros": (4000, JournalCorruptError, "checksum"),
}


@pytest.mark.parametrize("field", HEADER_FIELDS)
@pytest.mark.parametrize("number", [0, 1, -1])
def test_a_flipped_byte_in_a_header(directory: Path, field: str, number: int) -> None:
    """A damaged header is refused, be its segment sealed or the last."""
    build(directory, [puts(100, start=n * 100 + 1) for n in range(8)])
    path = segments(directory)[number]
    offset, error_type, words = HEADER_FIELDS[field]
    path.write_bytes(flipped(path.read_bytes(), offset))
    corrupt = error_type is JournalCorruptError

    assert_refused(
        directory,
        error_type,
        words=words,
        file=path.name,
        offset=0 if corrupt else None,
        last_sequence=int(path.stem) - 1 if corrupt else None,
    )


@pytest.mark.parametrize("number", [0, 1])
def test_a_missing_segment(directory: Path, number: int) -> None:
    """A segment that is gone is missed: by its successor, which says which events are nowhere."""
    build(directory, [puts(100, start=n * 100 + 1) for n in range(12)])
    gone, successor = segments(directory)[number : number + 2]
    first, last = int(gone.stem), int(successor.stem) - 1
    gone.unlink()

    words = f"a segment is missing before it: the events {first} to {last} are nowhere"
    assert_corrupt(directory, words, 0, first - 1, successor.name)
    with pytest.raises(JournalCorruptError, match="a segment is missing before it"):
        list(read_events(directory, Event, schema=SCHEMA))


def test_the_newest_segment_missing_goes_unnoticed(directory: Path) -> None:
    """What the journal cannot know by itself: that there was a segment after its last one."""
    build(directory, [puts(100, start=n * 100 + 1) for n in range(8)])
    newest = segments(directory)[-1]
    newest.unlink()

    assert int(newest.stem) - 1 == len(attempt(directory))


def change_header(directory: Path, number: int, **changes: Any) -> Path:
    """Rewrite fields of a segment's header, with a checksum that fits."""
    path = segments(directory)[number]
    data = path.read_bytes()
    header, _ = frames_of(data)
    path.write_bytes(
        encode_header(msgspec.structs.replace(header, **changes)) + data[SEGMENT_HEADER_BYTES:]
    )
    return path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"journal_id": b"x" * 16}, "another journal"),
        ({"previous_digest": b"x" * 16}, "chain of digests"),
        ({"previous_sequence": 7}, "continues sequence 7"),
        ({"first_sequence": 7}, "its header says 7"),
    ],
)
def test_a_segment_that_does_not_continue(
    directory: Path, changes: dict[str, Any], words: str
) -> None:
    """A segment with an intact header that does not fit its predecessor or name is refused."""
    build(directory, [puts(100, start=n * 100 + 1) for n in range(8)])
    path = change_header(directory, -1, **changes)

    assert_corrupt(directory, words, 0, int(path.stem) - 1, path.name)


def test_a_segment_that_overlaps(directory: Path) -> None:
    """A segment that begins before its predecessor's end is refused in words that fit."""
    build(directory, BATCHES)
    header, _ = frames_of((directory / FIRST_SEGMENT).read_bytes())
    path = publish_segment(
        directory, msgspec.structs.replace(header, first_sequence=5, previous_sequence=4)
    )

    assert_corrupt(directory, "continues sequence 4, not 23", 0, 23, path.name)


def test_a_renamed_segment(directory: Path) -> None:
    """A segment under another's name is refused."""
    build(directory, BATCHES)
    renamed = directory / f"{2:020d}.seg"
    (directory / FIRST_SEGMENT).rename(renamed)

    assert_corrupt(directory, "named for sequence 2, its header says 1", 0, 0, renamed.name)


def test_a_newer_schema(directory: Path) -> None:
    """A journal that a newer vocabulary was written to is unsupported, never corrupt."""
    build(directory, BATCHES, schema=SCHEMA + 1)

    assert_refused(directory, JournalUnsupportedError, words=f"schema {SCHEMA + 1}")
    with pytest.raises(JournalUnsupportedError, match="schema"):
        list(read_events(directory, Event, schema=SCHEMA))


def test_an_unknown_event(directory: Path) -> None:
    """An intact frame with an event that does not decode is unsupported, never corrupt."""
    build(directory, [puts(1)])
    with opened(directory) as journal:
        journal.log.append([msgspec.msgpack.encode(["moved", "key"])])

    assert_refused(directory, JournalUnsupportedError, words="an event is not ours.*moved")
    with pytest.raises(JournalUnsupportedError, match="an event is not ours"):
        list(read_events(directory, Event, schema=SCHEMA))


def test_an_empty_file(directory: Path) -> None:
    """An empty segment is refused: a segment gets its name only when it is whole."""
    build(directory, BATCHES)
    (directory / f"{24:020d}.seg").touch()

    assert_corrupt(directory, "the file is empty", 0, 23, f"{24:020d}.seg")


@pytest.mark.parametrize("name", ["notes.seg", "1.seg", f"{1:021d}.seg", f"copy-{1:020d}.seg"])
def test_a_foreign_segment(directory: Path, name: str) -> None:
    """A file that claims to be a segment by its name, and is none, is refused."""
    build(directory, BATCHES)
    (directory / name).write_bytes(b"mine")

    assert_refused(directory, JournalCorruptError, words="this file is not ours", file=name)


def test_foreign_files_are_left_alone(directory: Path) -> None:
    """Other files in the directory are neither read nor changed."""
    build(directory, BATCHES)
    foreign = {
        "notes.txt": b"mine",
        f"{FIRST_SEGMENT}.torn-17": b"\xab",
        f"{FIRST_SEGMENT}.bak": b"x",
        "other.tmp": b"t",
        "snapshot": b"s",
    }
    for name, data in foreign.items():
        (directory / name).write_bytes(data)
    before = image(directory)

    assert flat(BATCHES) == attempt(directory)
    assert before == image(directory)


def test_leftovers_are_removed(directory: Path) -> None:
    """What an interrupted preparation or recovery left without a name goes."""
    build(directory, BATCHES)
    before = image(directory)
    for name in (SPARE_NAME, RECOVERED_NAME):
        (directory / name).write_bytes(b"half")

    assert flat(BATCHES) == attempt(directory)
    assert before == image(directory)


@pytest.mark.parametrize("size", [SEGMENT_BYTES - 1, SEGMENT_BYTES, SEGMENT_BYTES + 1])
def test_a_spare_that_was_left_stays(directory: Path, size: int) -> None:
    """A whole spare is the next writer's, for the space that it holds; one of another size goes."""
    build(directory, BATCHES)
    (directory / SPARE_NAME).write_bytes(b"x" * size)

    assert flat(BATCHES) == attempt(directory)
    assert (directory / SPARE_NAME).exists() == (size == SEGMENT_BYTES)


@pytest.mark.parametrize("schema", [SCHEMA, SCHEMA + 1])
def test_a_copy_takes_the_space_of_the_spare(directory: Path, schema: int) -> None:
    """Where a segment is to be copied, a spare makes room: on a full disk there is no other."""
    build(directory, BATCHES)
    path = directory / FIRST_SEGMENT
    if schema == SCHEMA:
        data = path.read_bytes()
        _, frames = frames_of(data)
        path.write_bytes(flipped(data, frames[-1].offset + 50))
    (directory / SPARE_NAME).write_bytes(bytes(SEGMENT_BYTES))
    fs = HookedFileSystem()

    with opened(directory, fs=fs, schema=schema):
        pass

    assert ("rename", SPARE_NAME) in fs.calls
    assert ("create", RECOVERED_NAME) not in fs.calls
    assert SPARE_NAME not in image(directory)


@pytest.mark.parametrize("call", ["write", "sync", "create"])
def test_a_copy_that_fails_leaves_the_spare(directory: Path, call: str) -> None:
    """Whatever the recovery fails at, the space is there for the next one, which succeeds."""
    path, data, frames = written(directory)
    path.write_bytes(flipped(data, frames[-1].offset + 50))
    spare = directory / SPARE_NAME
    spare.write_bytes(bytes(SEGMENT_BYTES))
    inode = spare.stat().st_ino
    fs = HookedFileSystem()
    name = NOTE_TEMPORARY_NAME if call == "create" else RECOVERED_NAME
    fs.fail(call, errno.ENOSPC, name=name)
    with pytest.raises(OSError, match="No space left"), opened(directory, fs=fs):
        pass

    assert inode == spare.stat().st_ino
    assert SEGMENT_BYTES == spare.stat().st_size
    assert not list(directory.glob("*.torn-*"))
    with opened(directory):
        pass
    assert inode == path.stat().st_ino


@pytest.mark.parametrize("how", ["link", "hard link", "fifo"])
def test_a_spare_that_is_not_ours_alone_goes(directory: Path, how: str) -> None:
    """To write over it would write over somebody else's file."""
    build(directory, BATCHES)
    other = directory.parent / "other"
    other.write_bytes(b"x" * SEGMENT_BYTES)
    spare = directory / SPARE_NAME
    match how:
        case "link":
            spare.symlink_to(other)
        case "hard link":
            spare.hardlink_to(other)
        case _:
            os.mkfifo(spare)

    assert flat(BATCHES) == attempt(directory)
    assert not os.path.lexists(spare)
    assert b"x" * SEGMENT_BYTES == other.read_bytes()


def test_leftovers_of_a_refused_journal_stay(directory: Path) -> None:
    """A journal that is refused is not even tidied up."""
    build(directory, BATCHES)
    (directory / SPARE_NAME).write_bytes(b"half")
    (directory / "x.seg").touch()

    assert_refused(directory, JournalCorruptError, words="not ours", file="x.seg")


def test_data_beyond_the_largest_frame(directory: Path) -> None:
    """Bytes further than one unfinished write reaches are no torn tail."""
    path, data, frames = written(directory)
    end = frames[-1].end
    within = patched(data, end + LARGEST_FRAME - 1, b"x")
    beyond = patched(data, end + LARGEST_FRAME, b"x")

    path.write_bytes(beyond)
    assert_corrupt(directory, f"data goes on until {end + LARGEST_FRAME + 1}", end, 23)
    path.write_bytes(within)
    with opened(directory) as journal:
        (torn,) = journal.recovered.set_aside
        assert (end, LARGEST_FRAME) == (torn.offset, torn.size)


@pytest.mark.parametrize(("number", "sequence"), [(1, 4), (1, 2), (2, 5), (2, 3)])
def test_an_intact_frame_with_a_wrong_sequence(directory: Path, number: int, sequence: int) -> None:
    """A frame that validates and skips or repeats sequences is refused, also as the last one."""
    path, data, frames = written(directory)
    path.write_bytes(forged(data, frames[number], BATCHES[number], first_sequence=sequence))

    assert_corrupt(
        directory,
        f"has sequence {sequence} instead of {number + 2}|has sequence {sequence} instead",
        frames[number].offset,
        sum(frame.count for frame in frames[:number]),
    )


def test_a_frame_larger_than_the_largest(directory: Path) -> None:
    """A frame that validates and is larger than the header allows is refused where it stands."""
    build(directory, [puts(1), puts(1, start=2)])
    path = directory / FIRST_SEGMENT
    data = path.read_bytes()
    header, frames = frames_of(data)
    frame, _ = encode_frame(
        [encode(Put("k", b"x" * LARGEST_FRAME))],
        seed=header.seed,
        offset=frames[1].offset,
        first_sequence=2,
        time=frames[1].time,
        previous_digest=frames[0].digest,
    )
    path.write_bytes(patched(data, frames[1].offset, frame))

    assert_corrupt(directory, "does not fit, and data goes on", frames[1].offset, 1)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_an_altered_event_breaks_the_chain(directory: Path, number: int) -> None:
    """Who alters an event and makes the checksum fit is found by the chain of digests."""
    path, data, frames = written(directory)
    event = BATCHES[number][0]
    batch = [Put("key-X", event.value), *BATCHES[number][1:]]
    before = frames[number - 1].digest if number else bytes(16)
    altered = forged(data, frames[number], batch, previous_digest=before)
    # The digest as it was, or the next frame's would not fit anyway; then the checksum again.
    path.write_bytes(with_digest(altered, frames[number], frames[number].digest))

    assert len(flat(BATCHES)) == len(attempt(directory))
    with pytest.raises(JournalCorruptError, match="was altered") as raised:
        walk(FS, list_segments(FS, directory), SCHEMA, verify_chain=True)
    assert frames[number].offset == raised.value.offset
    assert sum(frame.count for frame in frames[:number]) == raised.value.last_sequence


def test_an_altered_frame_with_its_own_digest_breaks_the_chain(directory: Path) -> None:
    """Who recomputes the altered frame's digest as well is found at the frame after it."""
    path, data, frames = written(directory)
    batch = [Put("key-X", BATCHES[1][0].value)]
    path.write_bytes(forged(data, frames[1], batch, previous_digest=frames[0].digest))

    with pytest.raises(JournalCorruptError, match="was altered") as raised:
        walk(FS, list_segments(FS, directory), SCHEMA, verify_chain=True)

    assert (frames[2].offset, 3) == (raised.value.offset, raised.value.last_sequence)


def with_digest(data: bytes, frame: Frame, digest: bytes) -> bytes:
    """`data` with another digest in `frame`, and a checksum that fits."""
    header, _ = frames_of(data)
    data = patched(data, frame.offset + 32, digest)
    crc = zlib.crc32(data[frame.offset + 8 : frame.end], header.seed ^ frame.offset)
    return patched(data, frame.offset + 4, crc.to_bytes(4, "little"))


def test_reopening_keeps_segment_sizes_apart(directory: Path) -> None:
    """A journal opened with another segment size goes on in its old segment, then uses the new."""
    build(directory, BATCHES)
    batches = [puts(40, start=24 + n * 40, value_bytes=90) for n in range(12)]
    build(directory, batches, segment_bytes=2 * SEGMENT_BYTES)

    sizes = [path.stat().st_size for path in segments(directory)]
    assert [SEGMENT_BYTES, 2 * SEGMENT_BYTES] == sorted(set(sizes))
    assert SEGMENT_BYTES == sizes[0]
    assert [*flat(BATCHES), *flat(batches)] == read_back(directory)


def test_a_segment_without_events_after_a_crash(directory: Path) -> None:
    """A crash right after a roll-over leaves an empty last segment, and that is a clean end."""
    build(directory, BATCHES)
    path = directory / FIRST_SEGMENT
    header, frames = frames_of(path.read_bytes())
    publish_segment(
        directory,
        msgspec.structs.replace(
            header,
            segment_id=b"s" * 16,
            first_sequence=24,
            previous_sequence=23,
            previous_digest=frames[-1].digest,
            created=frames[-1].time,
        ),
    )

    assert_lives(directory, flat(BATCHES))
    assert 2 == len(segments(directory))


@pytest.mark.parametrize("last", [True, False])
def test_the_largest_frame_fits_behind_a_mark(directory: Path, *, last: bool) -> None:
    """A segment that opens with a mark still takes the largest frame, so no two share a name."""
    largest = Put("k", b"x" * (LARGEST_FRAME - 80))
    batches: list[list[Any]] = [[], [largest], [], [largest], [], [largest], []]
    build(directory, batches if last else batches[:-1])

    assert [largest] * 3 == read_back(directory)
    assert_lives(directory, [largest] * 3)


def test_progress_is_told(directory: Path) -> None:
    """Progress is called after each segment, and ends with all bytes read."""
    build(directory, [puts(100, start=n * 100 + 1) for n in range(12)])
    told: list[tuple[int, int]] = []

    walk(
        FS,
        list_segments(FS, directory),
        SCHEMA,
        progress=lambda done, total: told.append((done, total)),
    )

    sizes = [path.stat().st_size for path in segments(directory)]
    assert [(sum(sizes[: n + 1]), sum(sizes)) for n in range(len(sizes))] == told


def test_marks_only(directory: Path) -> None:
    """A journal that holds only a mark has no events, and its next one is the first."""
    build(directory, [[]])

    with opened(directory) as journal:
        assert [] == journal.events
        assert 1 == journal.log.next_sequence
        assert End.CLEAN is journal.recovered.tail.end


#: Every call that recovery of a torn tail makes to change something, in order.
RECOVERY_CALLS = [
    ("create", "*.torn-*"),
    ("write", "*.torn-*"),
    ("sync", "*.torn-*"),
    ("create", RECOVERED_NAME),
    ("write", RECOVERED_NAME),
    ("sync", RECOVERED_NAME),
    ("sync_directory", "journal"),
    ("rename", RECOVERED_NAME),
    ("sync", FIRST_SEGMENT),
]


@pytest.mark.parametrize(("call", "name"), RECOVERY_CALLS)
def test_recovery_that_fails_half_way_can_be_tried_again(
    directory: Path, call: str, name: str
) -> None:
    """Recovery that a full disk stops anywhere loses nothing: the next one ends it.

    No try adds to what fills the disk.
    """
    path, data, frames = written(directory)
    path.write_bytes(flip_in(data, frames[2], "body"))
    before = image(directory)
    for _ in range(2):
        fs = HookedFileSystem()
        fs.fail(call, errno.ENOSPC, name=name)
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)), opened(directory, fs=fs):
            pass

        if call in {"create", "write", "sync"} and name != FIRST_SEGMENT:
            assert before == image(directory)
    assert flat(BATCHES[:2]) == attempt(directory)
    assert RECOVERED_NAME not in image(directory)
    assert_lives(directory, flat(BATCHES[:2]))


def test_reading_a_torn_journal(directory: Path) -> None:
    """A reader takes a torn tail for the journal's end, and changes nothing."""
    path, data, frames = written(directory)
    path.write_bytes(data[: frames[2].offset + 100] + bytes(SEGMENT_BYTES - frames[2].offset - 100))
    before = image(directory)

    assert flat(BATCHES[:2]) == read_back(directory)
    assert before == image(directory)


@pytest.mark.parametrize("number", [0, 1])
def test_reading_a_corrupt_journal(directory: Path, number: int) -> None:
    """A reader gets every event before the damage, then the error that says where it is."""
    build(directory, [puts(100, start=n * 100 + 1) for n in range(8)])
    path = segments(directory)[number]
    data = path.read_bytes()
    _, frames = frames_of(data)
    path.write_bytes(flip_in(data, frames[1], "body"))
    reader = read_events(directory, Event, schema=SCHEMA)
    events: list[Any] = []

    with pytest.raises(JournalCorruptError) as raised:
        events.extend(event for _, event in reader)

    assert puts(raised.value.last_sequence) == events
    assert (path, frames[1].offset) == (raised.value.file, raised.value.offset)
    assert int(path.stem) + 99 == raised.value.last_sequence


def test_reading_while_frames_are_written(directory: Path) -> None:
    """A file that changed while it was read may look damaged, so the reader looks again."""
    build(directory, BATCHES)
    data = (directory / FIRST_SEGMENT).read_bytes()
    _, frames = frames_of(data)
    # Each image lacks one frame that was written before the one behind it.
    holes = [
        data[: f.offset] + bytes(f.end - f.offset) + data[f.end :] for f in (frames[0], frames[1])
    ]
    holes = [patched(hole, f.offset + 8, b"x") for hole, f in zip(holes, frames, strict=False)]
    fs = HookedFileSystem()
    images = [*holes, data]

    def move(call: Call, go_on: Callable[[], Any]) -> Any:
        if call.method != "read":
            return go_on()
        assert (SEGMENT_BYTES, 0) == call.arguments[1:]
        return images.pop(0) if len(images) > 1 else data

    fs.around(move)
    pairs = list(read_events(directory, Event, schema=SCHEMA, fs=fs))

    assert list(enumerate(flat(BATCHES), start=1)) == pairs


BATCH = st.lists(
    st.one_of(
        st.builds(Put, st.text(max_size=20), st.binary(max_size=300)),
        st.builds(Cut, st.text(max_size=20), st.integers(-(2**31), 2**63)),
    ),
    max_size=18,
)
#: A few large batches, so that segments of the smallest size roll over now and then.
BATCH_LISTS = st.lists(
    st.one_of(BATCH, st.integers(1, 9).map(lambda n: puts(n, value_bytes=580))), max_size=14
)


@settings(max_examples=120)
@given(BATCH_LISTS, st.lists(st.booleans(), min_size=14, max_size=14))
def test_what_is_written_is_read(batches: list[list[Any]], reopened: list[bool]) -> None:
    """Any events in any batches are read back as written, wherever the journal was reopened."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        written: list[Any] = []
        rest = list(zip(batches, reopened, strict=False))
        while rest:
            with opened(directory) as journal:
                assert written == journal.events
                while rest:
                    batch, again = rest.pop(0)
                    journal.append(batch)
                    written += batch
                    if again:
                        break

        build(directory, [])
        assert written == read_back(directory)
        walk(FS, list_segments(FS, directory), SCHEMA, verify_chain=True)


#: What becomes of the bytes of an unfinished write, piece by piece, in turn.
FATES = st.lists(
    st.tuples(st.integers(1, 600), st.sampled_from(["arrived", "zeros", "garbage"])),
    min_size=1,
    max_size=12,
)


def half_written(data: bytes, fates: list[tuple[int, str]], garbage: bytes) -> bytes:
    """What a crash may leave of `data`."""
    pieces: list[bytes] = []
    offset = 0
    for size, fate in itertools.cycle(fates):
        piece = data[offset : offset + size]
        if not piece:
            return b"".join(pieces)
        filling = {"arrived": piece, "zeros": bytes(size), "garbage": garbage * size}[fate]
        pieces.append(filling[: len(piece)])
        offset += size
    raise AssertionError


@settings(max_examples=150)
@given(BATCH_LISTS, BATCH, FATES, st.binary(min_size=1, max_size=60))
def test_a_crash_keeps_what_was_acknowledged(
    batches: list[list[Any]], last: list[Any], fates: list[tuple[int, str]], garbage: bytes
) -> None:
    """Whatever a crash makes of a frame whose flush did not return, all before it is recovered."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        build(directory, batches)
        build(directory, [last])
        path = segments(directory)[-1]
        data = path.read_bytes()
        _, frames = frames_of(data)
        frame = frames[-1]
        write = data[frame.offset : frame.end]
        crashed = half_written(write, fates, garbage)
        path.write_bytes(patched(data, frame.offset, crashed))

        with opened(directory) as journal:
            good = journal.events
            torn = journal.recovered.set_aside
        assert flat(batches) + (last if crashed == write else []) == good
        assert (crashed == write or not any(crashed)) == (not torn)
        assert_lives(directory, good)


def test_recover_passes_on_what_the_caller_raises(directory: Path) -> None:
    """An error of the one who replays is theirs, and leaves the journal as it was."""
    build(directory, BATCHES)
    before = image(directory)

    def deliver(_events: list[Any]) -> None:
        raise KeyError("theirs")

    with pytest.raises(KeyError, match="theirs"):
        recover(
            FS,
            directory,
            schema=SCHEMA,
            segment_bytes=SEGMENT_BYTES,
            now=1,
            decoder=DECODER,
            deliver=deliver,
        )

    assert before == image(directory)


def test_open_gives_the_lock_back_when_it_refuses(directory: Path) -> None:
    """A journal that was refused can be opened by the same process once it is mended."""
    build(directory, BATCHES)
    (directory / "x.seg").touch()
    replayed: list[Any] = []

    def attempt_open() -> Journal:
        return Journal.open(
            directory,
            Event,
            schema=SCHEMA,
            replay=replayed.extend,
            segment_bytes=SEGMENT_BYTES,
            fs=FS,
        )

    with pytest.raises(JournalCorruptError):
        attempt_open()
    (directory / "x.seg").unlink()
    journal = attempt_open()

    assert flat(BATCHES) == replayed
    assert (directory / LOCK_NAME).exists()
    journal._log.close()
    journal._custody.close()
