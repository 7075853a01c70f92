"""Journals in every state that compaction and pruning leave, and damage of all kinds to them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from hypothesis import strategies as st

from coild.rules.events import SCHEMA, HistoryPruned
from journal import prune
from journal.format.codec import SEGMENT_HEADER_BYTES, decode_header
from tests.kits.journal.building import flipped, frames
from tests.kits.journal.disks import FS
from tests.kits.journal.history import EPOCH, beginning, compact, cycles, write, writing

#: Later than all events that `cycles` writes here.
LATER = EPOCH + 10**9


def live(directory: Path) -> None:
    """Segments, and no snapshot."""
    write(directory, beginning() + cycles(16))


def stopped(directory: Path) -> None:
    """All segments are archived, and none is removed."""
    live(directory)
    compact(directory, time=EPOCH + 1700, retired=False)


def unrecorded(directory: Path) -> None:
    """A compaction was stopped before it recorded its snapshot: the newest segment is empty."""
    live(directory)
    with writing(directory) as journal:
        journal.log.seal()
    compact(directory, recorded=False, retired=False)


def archived(directory: Path) -> None:
    """An archive, a snapshot, and a few segments behind it."""
    live(directory)
    compact(directory, time=EPOCH + 1700)
    write(directory, cycles(8, start=20))


def twice(directory: Path) -> None:
    """Two snapshots."""
    archived(directory)
    compact(directory, time=EPOCH + 2900)
    write(directory, cycles(6, start=30))


def stopped_twice(directory: Path) -> None:
    """The second compaction was stopped before it removed a segment."""
    archived(directory)
    compact(directory, time=EPOCH + 2900, retired=False)


def pruned(directory: Path) -> None:
    """The older half of the archive went by order."""
    twice(directory)
    files = sorted((directory / "archive").glob("*.zst"))
    _prune(directory, int(files[len(files) // 2].name[:20]) - 1)


def emptied(directory: Path) -> None:
    """All of the archive went by order."""
    twice(directory)
    _prune(directory, int(min(directory.glob("*.seg")).stem) - 1)


def _prune(directory: Path, through: int) -> None:
    write(directory, [HistoryPruned(LATER, through, 1, 1, "by order")])
    prune(FS, directory, through)


KINDS: list[Callable[[Path], None]] = [
    *(live, stopped, unrecorded, archived, twice, stopped_twice, pruned, emptied)
]


def files_of(directory: Path) -> list[Path]:
    """All segments, archived ones and snapshots, as far as they are there."""
    return sorted(
        path for pattern in ("*.seg", "*.snap", "archive/*.zst") for path in directory.glob(pattern)
    )


def cut_at_a_frame(path: Path, frame: int) -> None:
    """Zero a live segment from the end of a frame on: it is whole by itself, but short.

    Raises ValueError if its header is damaged.
    """
    data = path.read_bytes()
    ends = [SEGMENT_HEADER_BYTES, *(at.end for at in frames(data, decode_header(data, SCHEMA)))]
    end = ends[frame % len(ends)]
    path.write_bytes(data[:end] + bytes(len(data) - end))


class Damage(NamedTuple):
    """One thing that goes wrong with one file of a journal, which may not be a file any more."""

    how: str
    which: int
    other: int
    place: int

    def __call__(self, directory: Path) -> None:
        """Damage the journal in `directory`."""
        files = [path for path in files_of(directory) if path.is_file()]
        path = files[self.which % len(files)]
        alike = [at for at in files if at.suffix == path.suffix]
        _damage(path, self.how, self.place, alike[self.other % len(alike)])


WAYS = (
    *("remove", "flip", "zero", "cut", "shorten", "empty", "swap", "twin", "directory", "link"),
)


def damages() -> st.SearchStrategy[Damage]:
    """Any damage."""
    return st.builds(
        Damage,
        st.sampled_from(WAYS),
        st.integers(0, 40),
        st.integers(0, 40),
        st.integers(0, 1 << 18),
    )


def _damage(path: Path, how: str, place: int, other: Path) -> None:
    data = path.read_bytes()
    used = max(1, len(data.rstrip(b"\0")))
    match how:
        case "flip" if data:
            path.write_bytes(flipped(data, place % used, 1 << place % 8))
        case "zero":
            path.write_bytes(data[: place % used] + bytes(len(data) - place % used))
        case "cut" if path.suffix == ".seg" and len(data) > SEGMENT_HEADER_BYTES:
            try:
                cut_at_a_frame(path, place)
            except ValueError:
                return  # it was damaged before
        case "shorten":
            path.write_bytes(data[: place % (len(data) + 1)])
        case "empty":
            path.write_bytes(b"")
        case "swap":
            path.write_bytes(other.read_bytes())
        case "twin":
            with contextlib.suppress(IsADirectoryError):
                path.with_name(f"{place:020d}{''.join(path.suffixes)}").write_bytes(data)
        case "directory" | "link":
            path.unlink()
            path.mkdir() if how == "directory" else path.symlink_to("nowhere")
        case _:
            path.unlink()
