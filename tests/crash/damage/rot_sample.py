"""A small journal that has every kind of file, and every way in which a file of it may rot."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Iterator
from enum import Enum
from itertools import combinations
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from journal import index_sealed
from journal.check.findings import Anchor
from journal.format.codec import Frame, SegmentHeader
from journal.read.indexed import Found
from tests.crash.simulated.disk import SimulatedDisk, Tree
from tests.kits.journal.building import Cut, Put, frames_of, opened, patched, puts
from tests.kits.journal.compaction import KEYS, NOW, VOCABULARY, compact, state_of

ROOT = Path("/")
SECTOR_BYTES = 512
#: Less than a journal is made with, and read like any other: most bits are of zeros behind frames.
#: In the last segment they reach farther than one unfinished write.
SEGMENT_BYTES = 6 * 1024
SEALED_SEGMENTS = 4
#: The first half of them is archived, each by a compaction with a snapshot of its own.
ARCHIVED_SEGMENTS = 2

#: The bytes of every file by its path.
Files = dict[str, bytes]


class Way(Enum):
    """How a file is damaged."""

    BIT = "bit flipped"
    SECTOR = "sector zeroed"
    CUT = "cut at a sector"
    SWAP = "swapped with another"
    DROP = "dropped"


class Damage(NamedTuple):
    """One thing that happens to the file `name`; `at` is a bit, or an offset in bytes."""

    way: Way
    name: str
    at: int = 0
    other: str = ""

    def applied(self, files: Files) -> Files:
        """`files`, damaged."""
        data = files[self.name]
        changed = dict(files)
        if self.way is Way.BIT:
            offset, bit = divmod(self.at, 8)
            changed[self.name] = patched(data, offset, bytes([data[offset] ^ 1 << bit]))
        elif self.way is Way.SECTOR:
            lost = data[self.at : self.at + SECTOR_BYTES]
            changed[self.name] = patched(data, self.at, bytes(len(lost)))
        elif self.way is Way.CUT:
            changed[self.name] = data[: self.at]
        elif self.way is Way.SWAP:
            changed[self.name], changed[self.other] = files[self.other], data
        else:
            del changed[self.name]
        return changed

    def first_changed(self, files: Files) -> int:
        """The offset of the first byte that a BIT or a SECTOR changes."""
        if self.way is Way.BIT:
            return self.at // 8
        lost = files[self.name][self.at : self.at + SECTOR_BYTES]
        return self.at + len(lost) - len(lost.lstrip(b"\0"))

    def amid_zeros(self, files: Files) -> bool:
        """Whether it is one of many bits that are like the next one."""
        offset = self.at // 8
        return self.way is Way.BIT and not any(files[self.name][max(0, offset - 8) : offset + 8])


class Sample(NamedTuple):
    """A journal with everything in it, and its content when undamaged."""

    files: Files
    events: list[Any]
    digest: str
    anchor: Anchor
    #: The header and the frames of each segment that is not archived.
    segments: dict[str, tuple[SegmentHeader, list[Frame]]]

    @property
    def last(self) -> str:
        """The segment that is being written."""
        return max(self.segments)

    def kinds(self) -> Counter[str]:
        """How many files there are of each kind."""
        return Counter(map(kind_of, self.files))

    def answers(self, key: bytes, until: int) -> list[Found]:
        """The events with `key`, of the first `until`."""
        return [
            Found(sequence, event)
            for sequence, event in enumerate(self.events[:until], start=1)
            if key in KEYS.of(event)
        ]


def build_sample(*, aligned: bool = False) -> Sample:
    """Archived and sealed segments with indexes, two snapshots, a last segment with a mark.

    `aligned`: the last event and the mark are in a sector of their own.
    """
    disk = SimulatedDisk()
    events: list[Any] = []
    for number in range(SEALED_SEGMENTS + 1):
        with opened(ROOT, fs=disk, segment_bytes=SEGMENT_BYTES, clock=lambda: NOW) as journal:
            for batch in (
                [*puts(3, value_bytes=90), Put("shared", b"%d" % number)],
                [Cut("shared", number), Put("big", b"b" * (574 if aligned else 400))],
                [Put(f"last-{number}", b"\xff" * 40)],
            ):
                journal.append(batch)
                events += batch
            if number < SEALED_SEGMENTS:
                sealed = journal.log.seal()
            else:
                journal.append([])
                head = Anchor(journal.log.next_sequence - 1, journal.log.digest)
        if number < ARCHIVED_SEGMENTS:
            compact(ROOT, sealed, disk)
    index_sealed(disk, ROOT, VOCABULARY)
    files = dict(_flat(disk.tree()))
    segments = {name: frames_of(data) for name, data in files.items() if name.endswith(".seg")}
    return Sample(files, events, state_of(events).digest, head, segments)


def _flat(tree: Tree, prefix: str = "") -> Iterator[tuple[str, bytes]]:
    for name, content in tree.items():
        if isinstance(content, dict):
            yield from _flat(content, f"{prefix}{name}/")
        elif name != "LOCK":  # what is in it is for people
            yield prefix + name, content


def nested(files: Files) -> Tree:
    """What a disk with `files` holds."""
    archive: Tree = {}
    tree: Tree = {"archive": archive}
    for path, data in files.items():
        directory, _, name = path.rpartition("/")
        (archive if directory else tree)[name] = data
    return tree


def coarse(sample: Sample) -> list[Damage]:
    """Every sector zeroed, every file cut at each and dropped, every two of a kind swapped.

    Segments are cut at each frame as well: what is left are whole frames.
    """
    found = []
    for name, data in sample.files.items():
        sectors = range(0, len(data), SECTOR_BYTES)
        found += [
            Damage(Way.SECTOR, name, at) for at in sectors if any(data[at : at + SECTOR_BYTES])
        ]
        _, frames = sample.segments.get(name, (None, []))
        ends = [frame.end for frame in frames]
        found += [Damage(Way.CUT, name, at) for at in sorted({*sectors, *ends})]
        found.append(Damage(Way.DROP, name))
    found += [
        Damage(Way.SWAP, name, other=other)
        for name, other in combinations(sample.files, 2)
        if kind_of(name) == kind_of(other)
    ]
    return found


def bits(name: str, numbers: Iterable[int]) -> Iterable[Damage]:
    """Each of those bits of a file flipped."""
    return (Damage(Way.BIT, name, number) for number in numbers)


@functools.cache
def kind_of(name: str) -> str:
    """What a file is."""
    path = PurePath(name)
    archived = "archived " if path.parent.name else ""
    names = {".seg": "segment", ".zst": "segment", ".idx": "index", ".snap": "snapshot"}
    return archived + names[path.suffix]
