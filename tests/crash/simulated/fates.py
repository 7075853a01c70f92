"""The contents that a file may have after a crash if it was not flushed.

A write falls into sectors. Each is kept, lost (what is durable stays, zeros where the file had
grown) or garbage; but of a sector only the bytes that were written. If the file's length changed
it may be the old one, the new one, or one in between.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from tests.crash.simulated.inodes import File, Length, Write, applied

SECTOR_BYTES = 512

_KEPT, _LOST, _GARBAGE = "kept", "lost", "garbage"
_FATES = (_KEPT, _LOST, _GARBAGE)


class Bounds(NamedTuple):
    """The number up to which all combinations are made, and the number of samples beyond that."""

    fates_max: int = 81
    names_max: int = 16
    product_max: int = 100
    samples: int = 100


class Content(NamedTuple):
    """The fates of the pieces of a file, and its content then."""

    fate: str
    data: bytes


def contents_of(
    file: File, choice: random.Random, bounds: Bounds, *, unread: bool
) -> list[Content]:
    """The possible contents of a file that was not flushed: first all writes, at last none."""
    pieces = [
        piece
        for change in file.pending
        for piece in (sectors(change) if isinstance(change, Write) else [change])
    ]
    found: dict[bytes, str] = {file.live: "whole"}
    for fates in _fates(len(pieces), choice, 0 if unread else bounds.fates_max, bounds):
        if not unread or len(found) < 4:
            content = _built(file, pieces, fates, choice)
            found.setdefault(content, _told(fates))
    for label, content in _lengths(file, pieces, choice, unread=unread):
        found.setdefault(content, label)
    others = [Content(fate, data) for data, fate in found.items() if data != file.durable]
    whole = Content("whole", file.live)
    return [whole, *others[others[:1] == [whole] :], Content("lost", file.durable)]


def sectors(write: Write) -> list[Write]:
    """A write, cut where sectors of the disk begin."""
    offset, data = write
    end = offset + len(data)
    starts = [offset, *range((offset // SECTOR_BYTES + 1) * SECTOR_BYTES, end, SECTOR_BYTES)]
    return [
        Write(start, data[start - offset : stop - offset])
        for start, stop in itertools.pairwise([*starts, end])
    ]


def _fates(
    count: int, choice: random.Random, fates_max: int, bounds: Bounds
) -> Iterator[Sequence[str]]:
    """The fates of so many pieces."""
    if 3**count <= fates_max:
        yield from itertools.product(_FATES, repeat=count)
        return
    yield [_LOST] * count
    yield [_GARBAGE] * count
    for end in range(1, count):
        yield [_KEPT] * end + [_LOST] * (count - end)
        yield [_KEPT] * end + [_GARBAGE] * (count - end)
    for hole in range(count):
        for fate in (_LOST, _GARBAGE):
            yield [fate if number == hole else _KEPT for number in range(count)]
        yield [_KEPT if number == hole else _LOST for number in range(count)]
    for _ in range(bounds.samples):
        yield choice.choices(_FATES, (choice.random(), choice.random(), choice.random()), k=count)


def _built(
    file: File,
    pieces: Sequence[Write | Length],
    fates: Iterable[str],
    choice: random.Random,
) -> bytes:
    content = file.durable
    for piece, fate in zip(pieces, fates, strict=True):
        if fate == _KEPT:
            content = applied(content, piece)
        elif fate == _GARBAGE and isinstance(piece, Write):
            content = applied(content, Write(piece.offset, _garbage(file, piece, choice)))
    return content.ljust(len(file.live), b"\0")


def _garbage(file: File, piece: Write, choice: random.Random) -> bytes:
    """Bytes of anything; now and then of another place of the same file, which look right."""
    size = len(piece.data)
    if choice.random() < 0.25 and len(file.live) > size:
        start = choice.randrange((len(file.live) - size) // 8 + 1) * 8
        return file.live[start : start + size]
    return choice.randbytes(size)


def _lengths(
    file: File, pieces: Sequence[Write | Length], choice: random.Random, *, unread: bool
) -> Iterator[tuple[str, bytes]]:
    """The file with other lengths, if its length changed since it was flushed."""
    old, new = len(file.durable), len(file.live)
    if old == new and not any(isinstance(piece, Length) for piece in pieces):
        return
    lengths = {old, new, 0 if not old else old - 1, max(0, new - 1), choice.randrange(new + 1)}
    lengths |= {choice.randrange(new + 1) // SECTOR_BYTES * SECTOR_BYTES}
    if unread:
        lengths = {old, new // 2}
    for length in sorted(lengths):
        for fate in _FATES:
            content = _built(file, pieces, [fate] * len(pieces), choice)
            yield f"{fate} with length {length}", applied(content, Length(length))


def _told(fates: Sequence[str]) -> str:
    """The fates, like `kept 3, lost 2, kept`."""
    runs = [(fate, len(list(run))) for fate, run in itertools.groupby(fates)]
    return " ".join(f"{fate} {count}" for fate, count in runs)
