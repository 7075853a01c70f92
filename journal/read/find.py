"""Queries of a whole journal, archive included, that do not read all of it.

`find` reads each segment by its index, if the journal vouches for that: see `indexed`. Otherwise it
reads the whole segment, makes an index, and keeps it if the directory can be written to.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

from journal.errors import JournalError
from journal.format.archive import header_of
from journal.format.chain import check_succession
from journal.format.codec import SegmentHeader
from journal.format.index import Keys
from journal.format.segments import SegmentFile
from journal.read.indexed import Found, Indexes
from journal.read.reader import Reader, SegmentProgress


class _Part(NamedTuple):
    """The events found in a part of a journal, and the error that ended the search, if any."""

    events: list[Found]
    error: JournalError | OSError | None = None


def find(
    reader: Reader,
    keys: Keys,
    wanted: bytes | Collection[bytes],
    *,
    start: int | None = None,
    progress: SegmentProgress | None = None,
) -> Iterator[Found]:
    """All events from the sequence `start` on that have a key of those `wanted`, oldest first.

    The answer is the same as by reading everything, however indexes were altered. With None, starts
    at the oldest event left, which is not the first one ever if history was pruned.
    Raises JournalCorruptError, also if `start` is missing, JournalUnsupportedError, OSError.
    """
    some = {wanted} if isinstance(wanted, bytes) else set(wanted)
    with reader.held(start) as held:
        files = held.files_from(start)
        for part in _search(held, keys, some, files, start or 0, progress):
            # The good events before a gap were delivered first.
            yield from (found for found in part.events if found.sequence >= (start or 0))
            if part.error is not None:
                raise part.error


def _search(
    reader: Reader,
    keys: Keys,
    wanted: set[bytes],
    files: list[SegmentFile],
    start: int,
    progress: SegmentProgress | None,
) -> list[_Part]:
    """The events found in each of the segments `files`, in their order."""
    if not files:
        return []
    matches = _matching(keys, wanted)
    indexes = Indexes(reader.fs, reader.decoder, keys)
    parts = [_search_tail(reader, indexes, matches, max(start, files[-1].first_sequence))]
    following: SegmentHeader | None = None
    for file, successor in reversed(list(pairwise(files))):
        if progress is not None:
            progress(len(parts), len(files))
        header: SegmentHeader | None = None
        events: list[Found] = []
        error: JournalError | OSError | None = None
        try:
            header = header_of(reader.fs, file, reader.schema)
            following = following or header_of(reader.fs, successor, reader.schema)
            looked = indexes.look(file, header, following, tuple(wanted))
            events = [found for found in looked.events if matches(found.event)]
            check_succession(successor, following, looked.end)
        except (JournalError, OSError) as raised:
            error = raised
        parts.append(_Part(events, error))
        following = header
    if progress is not None:
        progress(len(files), len(files))
    return parts[::-1]


def _matching(keys: Keys, wanted: set[bytes]) -> Callable[[Any], bool]:
    """A test whether an event has one of the keys."""
    if len(wanted) == 1:
        return keys.matching(*wanted)
    return lambda event: not wanted.isdisjoint(keys.of(event))


def _search_tail(
    reader: Reader, indexes: Indexes, matches: Callable[[Any], bool], start: int
) -> _Part:
    """Search the open segment, which has no index."""
    found: list[Found] = []
    try:
        for batch in reader.batches(start):
            indexes.learn(batch.events)
            found += (
                Found(sequence, event)
                for sequence, event in enumerate(batch.events, start=batch.first_sequence)
                if matches(event)
            )
    except (JournalError, OSError) as error:
        return _Part(found, error)
    return _Part(found)
