"""The note of a repair, from which the repair is recorded even after a crash.

A journal records its own repairs, so the record of one can only come after it, and a crash
may come in between. Hence this order: copies of the removed bytes are durable first, then the note,
then the change. The next opening of the journal gets the changes that are not recorded yet.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from journal.format.codec import digest_of
from journal.format.segments import (
    NOTE_NAME,
    NOTE_TEMPORARY_NAME,
    opened,
    read_file,
    write_durably,
)
from journal.fs import FileSystem

#: More than the events of a whole segment that a repair would append again.
NOTE_BYTES_MAX = 256 << 20
_PIECE_BYTES = 1 << 20


class SetAside(msgspec.Struct, frozen=True, rename="kebab", omit_defaults=True):
    """`size` bytes from `offset` of `file` that are not part of the journal any more.

    They are in the file `kept` beside it. `reason` is the journal's fault; `ordered` tells whether
    an operator decided, and not recovery.
    """

    file: str
    offset: int
    size: int
    kept: str
    reason: str
    #: The fingerprint of the whole file before: a file that still has it was not changed.
    before: str
    ordered: bool = False


class Unrecorded(NamedTuple):
    """The repairs that the journal has yet to record, in the order of their records."""

    set_aside: tuple[SetAside, ...] = ()
    #: Encoded events that were removed but still hold, and are to be appended again.
    again: tuple[bytes, ...] = ()


class _Note(msgspec.Struct, frozen=True, rename="kebab", omit_defaults=True):
    #: The last event of the repaired journal: those that follow are the records, in order.
    last_sequence: int
    set_aside: tuple[SetAside, ...]
    again: tuple[bytes, ...] = ()


def fingerprint(data: bytes) -> str:
    """A digest that identifies the content of a file."""
    return digest_of((data,)).hex()


def fingerprint_of(fs: FileSystem, path: Path) -> str:
    """The fingerprint of a file, read in pieces; of no bytes if it is no file. Raises OSError."""
    try:
        with opened(fs, path) as fd:
            offsets = range(0, fs.size(fd), _PIECE_BYTES)
            return digest_of(fs.read(fd, _PIECE_BYTES, offset) for offset in offsets).hex()
    except (FileNotFoundError, IsADirectoryError):
        return fingerprint(b"")


def write_note(
    fs: FileSystem,
    directory: Path,
    last_sequence: int,
    set_aside: Sequence[SetAside],
    again: Sequence[bytes] = (),
) -> None:
    """Note what is about to be removed from a journal that will end with `last_sequence`.

    On return the note and every name in `directory` are durable. Raises OSError, also for a note
    that would be too long to be read again.
    """
    data = msgspec.json.encode(_Note(last_sequence, tuple(set_aside), tuple(again)))
    if len(data) > NOTE_BYTES_MAX:
        # It would not be read, so the removal would never be recorded.
        reason = f"the note of repairs would have {len(data)} bytes, {NOTE_BYTES_MAX} at most"
        raise OSError(errno.EFBIG, reason, str(directory / NOTE_NAME))
    temporary = directory / NOTE_TEMPORARY_NAME
    write_durably(fs, temporary, data, len(data))
    fs.rename(temporary, directory / NOTE_NAME)
    fs.sync_directory(directory)


def unrecorded(fs: FileSystem, directory: Path, last_sequence: int | None = None) -> Unrecorded:
    """The changes in the note that were made, and that the journal has not recorded.

    `last_sequence` is that of the journal's last event; without it, nothing counts as recorded.
    Raises OSError.
    """
    names = set(fs.list_directory(directory))
    if NOTE_NAME not in names:
        return Unrecorded()
    try:
        note = msgspec.json.decode(read_file(fs, directory / NOTE_NAME, NOTE_BYTES_MAX), type=_Note)
    except (ValueError, RecursionError):
        return Unrecorded()  # it was whole when it got its name, so it was changed on purpose
    done = [
        aside
        for aside in note.set_aside
        if aside.file not in names or fingerprint_of(fs, directory / aside.file) != aside.before
    ]
    again = note.again if done else ()
    recorded = 0 if last_sequence is None else max(0, last_sequence - note.last_sequence)
    return Unrecorded(tuple(done[recorded:]), again[max(0, recorded - len(done)) :])


def forget(fs: FileSystem, directory: Path) -> None:
    """Remove the note, if there is one. Raises OSError.

    Not flushed: if it comes back, the journal's length tells that it was recorded.
    """
    if NOTE_NAME in fs.list_directory(directory):
        fs.remove(directory / NOTE_NAME)
