"""Following: every event once, in order, as soon as it is durable and never before."""

# expected == actual

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from journal import (
    Found,
    JournalCorruptError,
    JournalUnsupportedError,
    Reader,
    follow,
    prune,
    retire,
)
from tests.kits.journal.building import (
    SCHEMA,
    Event,
    build,
    flipped,
    forged,
    frames_of,
    opened,
    patched,
    puts,
    segments,
)
from tests.kits.journal.compaction import archived, compact, prepared, write_sealed
from tests.kits.journal.disks import FS

LARGE = 4 << 20


def following(directory: Path, start: int = 1) -> Iterator[list[Found]]:
    """Follow the journal."""
    return follow(Reader(directory, Event, schema=SCHEMA, fs=FS), start)


def shown(follower: Iterator[list[Found]]) -> list[Found]:
    """All that it shows for now: a roll-over may take it a call that shows nothing."""
    found: list[Found] = []
    quiet = 0
    while quiet < 3:
        more = next(follower)
        quiet = 0 if more else quiet + 1
        found += more
    return found


def numbered(events: list[Any], first: int = 1) -> list[Found]:
    """Events with their sequences."""
    return list(map(Found._make, enumerate(events, start=first)))


def test_a_frame_is_shown_when_another_follows(directory: Path) -> None:
    """The last frame may not be durable: the next one, or a mark, says that it is."""
    with opened(directory) as journal:
        follower = following(directory)
        assert [] == shown(follower)
        journal.append(puts(3))
        assert [] == shown(follower)
        journal.append(puts(2, start=4))
        assert numbered(puts(3)) == shown(follower)
        journal.log.mark()
        assert numbered(puts(2, start=4), 4) == shown(follower)
        journal.append(puts(1, start=6))
        assert [] == shown(follower)


def test_what_is_vouched_for_is_shown_at_once(directory: Path) -> None:
    """One call is enough to show what came since the last."""
    with opened(directory) as journal:
        follower = following(directory)
        for number in range(1, 20):
            journal.append(puts(1, start=number))
            journal.log.mark()
            assert numbered(puts(1, start=number), number) == next(follower)


def test_a_successor_vouches_for_all_of_a_segment(directory: Path) -> None:
    """A roll-over makes the last frame of a segment durable: it is shown without a mark."""
    with opened(directory) as journal:
        follower = following(directory)
        journal.append(puts(5))
        assert [] == shown(follower)
        journal.log.seal()
        assert numbered(puts(5)) == shown(follower)
        journal.append(puts(1, start=6))
        journal.log.mark()
        assert numbered(puts(1, start=6), 6) == shown(follower)


@given(
    st.lists(st.integers(0, 40), max_size=60),
    st.sets(st.integers(0, 59)),
    st.sets(st.integers(0, 59)),
    st.sets(st.integers(0, 59), max_size=4),
    st.integers(1, 300),
)
@settings(max_examples=40)
def test_any_history(
    counts: list[int], looks: set[int], seals: set[int], compactions: set[int], start: int
) -> None:
    """Whenever it looks, whatever rolls over or moves: all that is vouched for, once, in order."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name) / "journal"
        written: list[Any] = []
        found: list[Found] = []
        vouched = sealed = 0
        with opened(directory) as journal:
            follower = following(directory, start)
            for number, count in enumerate(counts):
                files = len(segments(directory))
                before = len(written)
                written += puts(count, start=before + 1)
                journal.append(written[before:])
                vouched = before if count else len(written)
                if number in seals:
                    sealed = journal.log.seal()
                    vouched = len(written)
                if number in compactions and sealed:
                    compact(directory, sealed)
                if number in looks:
                    found += shown(follower)
                    assert numbered(written[:vouched])[start - 1 :] == found
                assert files
            journal.log.mark()
            found += shown(follower)
        assert numbered(written)[start - 1 :] == found


@pytest.mark.parametrize("start", [1, 2, 299, 300, 301, 512, 600, 601])
def test_starting_anywhere(directory: Path, start: int) -> None:
    """It begins with the event asked for, archived or not, in the middle of a frame or not."""
    compact(directory, write_sealed(directory, puts(300)))
    build(directory, [*(puts(100, start=n) for n in (301, 401, 501)), []])

    assert numbered(puts(600))[start - 1 :] == shown(following(directory, start))


def test_starting_with_what_is_still_to_come(directory: Path) -> None:
    """A start beyond the end shows nothing until the journal is that long."""
    build(directory, [puts(10), []])
    follower = following(directory, 15)
    assert [] == shown(follower)
    build(directory, [puts(10, start=11), []])

    assert numbered(puts(6, start=15), 15) == shown(follower)


def test_starting_before_what_there_is(directory: Path) -> None:
    """A start in what was pruned is an error that says what is nowhere."""
    through = write_sealed(directory, puts(300))
    build(directory, [puts(1, start=301), []])
    compact(directory, through)
    prune(FS, directory, through)

    with pytest.raises(JournalCorruptError, match="the events 7 to 300 are nowhere"):
        next(following(directory, 7))
    assert numbered(puts(1, start=301), 301) == shown(following(directory, 301))


def test_pruned_while_it_is_followed(directory: Path) -> None:
    """What was there when it began to read is shown; who waited meanwhile is told what is gone."""
    with opened(directory) as journal:
        journal.append(puts(1))
        journal.log.mark()
        busy, waiting = following(directory), following(directory)
        assert numbered(puts(1)) == next(busy) == next(waiting)
        assert [] == next(waiting)
        for number in range(2, 301):
            journal.append(puts(1, start=number))
        through = journal.log.seal()
        compact(directory, through)
        prune(FS, directory, through)
        journal.append(puts(5, start=301))
        journal.log.mark()

        shown_of_it = next(busy)
        assert shown_of_it
        assert numbered(puts(300)[1:], 2)[: len(shown_of_it)] == shown_of_it
        with pytest.raises(JournalCorruptError, match="to 300 are nowhere"):
            shown(waiting)


def test_pruned_right_behind_it(directory: Path) -> None:
    """All of a segment was shown when it is pruned: it goes on with the next one."""
    with opened(directory) as journal:
        journal.append(puts(5))
        through = journal.log.seal()
        follower = following(directory)
        assert numbered(puts(5)) == next(follower)
        compact(directory, through)
        prune(FS, directory, through)
        journal.append(puts(1, start=6))
        journal.log.mark()

        assert numbered(puts(1, start=6), 6) == shown(follower)


def test_moved_between_two_looks(directory: Path) -> None:
    """It goes on in the archive with a segment of which it had shown a part."""
    with opened(directory) as journal:
        for number in range(0, 300, 10):
            journal.append(puts(10, start=number + 1))
        follower = following(directory)
        found = shown(follower)
        assert numbered(puts(290)) == found
        through = journal.log.seal()
        prepared(directory, through)
        retire(FS, directory, SCHEMA)
        assert archived(directory)

        assert numbered(puts(10, start=291), 291) == shown(follower)


def test_more_than_a_piece_at_once(directory: Path) -> None:
    """Frames that are cut by the end of what is read at a time are shown with the next piece."""
    events = puts(300, value_bytes=10_000)
    build(directory, [*(events[n : n + 7] for n in range(0, 300, 7)), []], segment_bytes=LARGE)

    follower = following(directory)
    assert len(next(follower)) < 150
    assert numbered(events)[len(next(following(directory))) :] == shown(follower)


def test_a_torn_tail_is_never_shown(directory: Path) -> None:
    """Half a frame is not shown; when a restart has set it aside, what follows is."""
    build(directory, [puts(3), [], puts(2, start=4)])
    path = segments(directory)[0]
    data = path.read_bytes()
    frame = frames_of(data)[1][-1]
    path.write_bytes(patched(data, frame.offset + 50, bytes(frame.end - frame.offset - 50)))
    follower = following(directory)
    assert numbered(puts(3)) == shown(follower)

    build(directory, [puts(4, start=50), []])
    assert list(directory.glob("*.torn-*"))
    assert numbered(puts(4, start=50), 4) == shown(follower)


def test_a_frame_that_a_power_cut_took_is_never_shown(directory: Path) -> None:
    """A whole last frame that was never durable may be gone after a crash, with another there."""
    build(directory, [puts(3), []])
    before = segments(directory)[0].read_bytes()
    build(directory, [puts(2, start=4)])
    follower = following(directory)
    assert numbered(puts(3)) == shown(follower)
    segments(directory)[0].write_bytes(before)

    build(directory, [puts(2, start=60), []])
    assert numbered(puts(2, start=60), 4) == shown(follower)


def test_damage_in_a_sealed_segment_is_an_error(directory: Path) -> None:
    """What cannot be read in a segment with a successor is told, after what is good."""
    write_sealed(directory, puts(300))
    path = segments(directory)[0]
    data = path.read_bytes()
    frame = frames_of(data)[1][4]
    path.write_bytes(flipped(data, frame.offset + 60))
    follower = following(directory)
    assert numbered(puts(40)) == next(follower)

    with pytest.raises(JournalCorruptError, match="the events 41 to") as raised:
        shown(follower)
    assert 40 == raised.value.last_sequence


def test_a_missing_segment_is_an_error(directory: Path) -> None:
    """A gap is told, not skipped."""
    compact(directory, write_sealed(directory, puts(900)))
    missing = archived(directory)[1]
    missing.unlink()
    follower = following(directory)
    assert len(next(follower)) == int(missing.name[:20]) - 1

    with pytest.raises(JournalCorruptError, match="cannot be read"):
        shown(follower)


def test_a_frame_with_another_sequence_is_an_error(directory: Path) -> None:
    """A frame that validates and does not continue is damage."""
    build(directory, [puts(3), puts(3, start=4), []])
    path = segments(directory)[0]
    data = path.read_bytes()
    frame = frames_of(data)[1][1]
    path.write_bytes(forged(data, frame, puts(3, start=4), first_sequence=9))

    with pytest.raises(JournalCorruptError, match="sequence 9 follows 3"):
        shown(following(directory))


def test_what_is_newer_is_unsupported(directory: Path) -> None:
    """A segment of a newer vocabulary is not guessed at; a fitting one is shown."""
    build(directory, [puts(3), []])
    follower = follow(Reader(directory, Event, schema=SCHEMA - 1), 1)

    with pytest.raises(JournalUnsupportedError, match="schema"):
        next(follower)


def test_a_journal_of_an_older_schema_that_is_upgraded(directory: Path) -> None:
    """The number of the open segment changes under the follower, who does not notice."""
    build(directory, [puts(3), []], schema=SCHEMA - 1)
    follower = following(directory)
    assert numbered(puts(3)) == shown(follower)
    build(directory, [puts(3, start=4), []])

    assert numbered(puts(3, start=4), 4) == shown(follower)


def test_an_empty_directory(directory: Path) -> None:
    """A journal that is not there yet shows nothing until it is."""
    directory.mkdir()
    follower = following(directory)
    assert [] == shown(follower)
    build(directory, [puts(2), []])

    assert numbered(puts(2)) == shown(follower)
