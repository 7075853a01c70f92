"""Cuts off a journal where its damage begins, on order only; removed bytes are kept beside it.

Everything that needs space is written first, then the note of what will be removed, then files are
renamed. Whole later segments go first, the newest one first, so that after a crash in between the
journal is still refused, and the next run goes on. The segment that is to be the last comes last.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from journal.format.segments import SegmentFile, file_bytes, opened, read_part, write_durably
from journal.fs import FileSystem, ReadOnlyFileSystem
from journal.repair.plan import Truncation
from journal.write.recovery import copy_segment, give_back, replace_segment
from journal.write.repair_note import SetAside, fingerprint_of, unrecorded, write_note


def truncate(
    fs: FileSystem, directory: Path, truncation: Truncation, now: int, again: Sequence[bytes] = ()
) -> None:
    """Carry out the plan of a repair. `now` ends the names of what is kept.

    `again` are encoded events that are removed but still hold, and are to be appended again. On
    return the repair is durable and noted, so that the next opening of the journal records it. The
    caller holds the writer's lock. Raises OSError; then the next run goes on.
    """
    in_place = [lost for lost in truncation.lost if lost.path == truncation.path]
    # A directory has no bytes to keep, and no file can replace it: it is moved aside.
    replaced = [lost for lost in in_place if _is_file(fs, lost.path)]
    replaced = replaced if truncation.replacement is not None else []
    moved = [lost for lost in truncation.lost if lost not in replaced]
    copies: list[Path] = []
    copy: Path | None = None
    try:
        for lost in replaced:
            data = read_part(fs, lost.path, lost.offset, lost.size)
            copies.append(_kept(lost.path, now))
            write_durably(fs, copies[-1], data, len(data))
        if truncation.replacement is not None:
            copy = copy_segment(
                fs, truncation.path, truncation.replacement, truncation.segment_bytes
            )
        last = truncation.last_sequence
        # An interrupted run is not on record yet, and this note replaces its note.
        earlier = unrecorded(fs, directory, last)
        set_aside = _set_asides(fs, truncation, now)
        missing = {aside.file for aside in set_aside if not aside.kept}
        told = [it for it in earlier.set_aside if it.kept or it.file not in missing]
        write_note(fs, directory, last, (*told, *set_aside), (*earlier.again, *again))
    except BaseException:
        # The next run keeps the bytes again; on a full disk there may be many.
        for path in copies:
            with contextlib.suppress(OSError):
                fs.remove(path)
        if copy is not None:
            give_back(fs, copy)
        raise
    for path in truncation.snapshots:
        _move_aside(fs, path, now)
    for lost in reversed(moved):
        # A new segment may be needed to go on; while others are there, no start opens it.
        if copy is not None and lost is moved[0] and not in_place:
            replace_segment(fs, copy, truncation.path)
            copy = None
        _forget_index(fs, lost.path)
        _move_aside(fs, lost.path, now)
    if copy is not None:
        _forget_index(fs, truncation.path)
        replace_segment(fs, copy, truncation.path)


def _is_file(fs: ReadOnlyFileSystem, path: Path) -> bool:
    """Whether it is neither a directory nor a link to one or to nowhere. Raises OSError."""
    try:
        with opened(fs, path):
            return True
    except (FileNotFoundError, IsADirectoryError):
        return False


def _set_asides(fs: FileSystem, truncation: Truncation, now: int) -> list[SetAside]:
    """The records to make, one per file, in the journal's order; missing files have none."""
    reason = truncation.reason
    entries = []
    for lost in truncation.lost:
        entries.append((lost.path, lost.offset, lost.size, reason))
        reason = f"it follows what was cut off at {truncation.lost[0].path.name}"
    entries += [
        (path, 0, file_bytes(fs, path), "a snapshot of events that were cut off")
        for path in truncation.snapshots
    ]
    found = [
        SetAside(
            file=path.name,
            offset=offset,
            size=size,
            kept=_kept(path, now).name,
            reason=reason,
            before=fingerprint_of(fs, path),
            ordered=True,
        )
        for path, offset, size, reason in entries
    ]
    if not truncation.lost:
        path = truncation.path
        found.insert(0, SetAside(path.name, 0, 0, "", reason, before="", ordered=True))
    return found


def _kept(path: Path, now: int) -> Path:
    return path.with_name(f"{path.name}.torn-{now}")


def _move_aside(fs: FileSystem, path: Path, now: int) -> None:
    """Rename a whole file so that it is not part of the journal; durable on return."""
    fs.rename(path, _kept(path, now))
    fs.sync_directory(path.parent)


def _forget_index(fs: FileSystem, path: Path) -> None:
    """Remove the index of a segment, which would fit the shortened segment by its id."""
    index = SegmentFile(int(path.stem), path).index_path
    if index.name in fs.list_directory(index.parent):
        fs.remove(index)
