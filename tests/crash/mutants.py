"""Mutants: faults that are put into the journal on purpose, which the campaign must find.

A fault replaces a text of the source by another while it is switched on. A text that is not in the
source any more is an error, so no fault is forgotten when the code changes.
"""

from __future__ import annotations

import contextlib
import inspect
import textwrap
from collections.abc import Iterator
from types import FunctionType
from typing import Any, NamedTuple

from coild import daemon
from journal import repair
from journal.compact import prepare as compaction
from journal.compact import prune as pruning
from journal.compact import retire as retiring
from journal.format import codec, scan, segments
from journal.write import custody, recovery
from journal.write import group_commit as commit
from journal.write import repair_note as set_aside
from journal.write import segment_writer as log


class Edit(NamedTuple):
    """A text in the source of a function, and its replacement."""

    function: Any
    old: str
    new: str


_ENCODE = (codec.encode_frame, "seed ^ offset")
_DECODE = (codec.decode_frame, "header.seed ^ offset")
_ADVANCE = (scan.advance, "seed ^ offset")

MUTANTS: dict[str, tuple[Edit, ...]] = {
    "an append is not flushed": (Edit(log.Log.append, "self._fs.sync_data(self._fd)", "pass"),),
    "an append is confirmed before its flush": (
        Edit(
            log.Log.append,
            "self._fs.write(self._fd, frame, self._offset)",
            "self._fs.sync_data(self._fd); self._fs.write(self._fd, frame, self._offset)",
        ),
        Edit(
            log.Log.append,
            "self._fs.sync_data(self._fd)\n    self._custody.wrote",
            "self._custody.wrote",
        ),
    ),
    "a segment's name is not flushed": (
        Edit(segments.publish, "fs.sync_directory(path.parent)", "pass"),
    ),
    "a segment gets its name before it is flushed": (
        Edit(segments.publish, "fs.sync(fd)", "pass"),
        Edit(
            segments.publish,
            "fs.rename(temporary, path)",
            "fs.rename(temporary, path); fs.sync(fd)",
        ),
    ),
    "a segment's header is not flushed": (Edit(segments.publish, "fs.sync(fd)", "pass"),),
    "the checksum has no seed": (
        Edit(*_ENCODE, "0"),
        Edit(*_DECODE, "0"),
        Edit(*_ADVANCE, "0"),
    ),
    "a torn tail is cut off in place": (
        Edit(
            recovery._set_tail_aside,
            "copy = copy_segment(fs, path, data[: tail.offset], header.segment_bytes)",
            "copy = path",
        ),
        Edit(
            recovery._set_tail_aside,
            "replace_segment(fs, copy, path)",
            "fd = fs.open(path, write=True); "
            "fs.write(fd, bytes(tail.data_end - tail.offset), tail.offset); "
            "fs.sync(fd); fs.close(fd)",
        ),
    ),
    "a torn tail is cut off in place before anything of it is kept": (
        Edit(
            recovery._set_tail_aside,
            "data = read_file(fs, path)",
            "data = read_file(fs, path); fd = fs.open(path, write=True); "
            "fs.write(fd, bytes(tail.data_end - tail.offset), tail.offset); "
            "fs.sync(fd); fs.close(fd)",
        ),
    ),
    "a torn tail is not noted": (
        Edit(
            recovery._set_tail_aside,
            "write_note(fs, path.parent, tail.next_sequence - 1, *to_tell)",
            "pass",
        ),
    ),
    "what is set aside is not flushed": (Edit(segments.write_durably, "fs.sync(fd)", "pass"),),
    "the note of repairs is not flushed": (
        Edit(
            set_aside.write_note,
            "write_durably(fs, temporary, data, len(data))",
            "fd = fs.create(temporary); fs.write(fd, data, 0); fs.close(fd)",
        ),
    ),
    "a copy gets a segment's name without a flush of the directory": (
        Edit(
            recovery.replace_segment,
            "fs.rename(copy, path)\n    fs.sync_directory(path.parent)",
            "fs.rename(copy, path)",
        ),
    ),
    "recovery does not flush what it read": (Edit(recovery.recover, "fs.sync(fd)", "pass"),),
    "recovery does not flush the names that it read": (
        Edit(recovery.recover, "fs.sync_directory(directory)", "pass"),
    ),
    "a new journal's own name is not flushed": (
        Edit(recovery._begin, "fs.sync_directory(directory.parent)", "pass"),
        Edit(recovery.recover, "fs.sync_directory(directory.parent)", "pass"),
    ),
    "a snapshot and an archive get their names before they are flushed": (
        Edit(compaction._publish, "fs.sync_data(fd)", "pass"),
        Edit(compaction._publish, "fs.sync(fd)", "pass"),
        Edit(
            compaction._publish,
            "fs.rename(temporary, path)",
            "fs.rename(temporary, path); fd = fs.open(path); fs.sync(fd); fs.close(fd)",
        ),
    ),
    "a snapshot is published before its segments are": (
        Edit(segments.publish, "fs.sync_directory(path.parent)", "pass"),
        Edit(compaction.archive_lock.__wrapped__, "fs.sync_directory(directory)", "pass"),  # type: ignore[attr-defined]
    ),
    "segments go before the archive's names are durable": (
        Edit(compaction._publish, "fs.sync_directory(path.parent)", "pass"),
        Edit(retiring.retire, "fs.sync_directory(directory / ARCHIVE_NAME)", "pass"),
    ),
    "segments and archive go before the snapshot's name is durable": (
        Edit(compaction._publish, "fs.sync_directory(path.parent)", "pass"),
        Edit(compaction.archive_lock.__wrapped__, "fs.sync_directory(directory)", "pass"),  # type: ignore[attr-defined]
        Edit(retiring.retire, "fs.sync_directory(directory)\n", "pass\n"),
        Edit(pruning.prune, "fs.sync_directory(directory)", "pass"),
    ),
    "segments go that are in no archive": (
        Edit(retiring.retire, "if not is_archived(fs, directory, file):", "if False:"),
        Edit(compaction.prepare, "sealed = sealed_segments(fs, directory, through)", "sealed = []"),
    ),
    "pruning removes segments before snapshots": (
        Edit(pruning.prune, "fs.sync_directory(directory)", "pass"),
    ),
}

#: Faults that no crash reveals.
HARMLESS: dict[str, tuple[Edit, ...]] = {
    # The length lies within one sector with its checksum or with what that covers: a crash leaves
    # both or neither. A rotten length leads to other bytes, which do not match the checksum.
    "the checksum leaves out the length": (
        Edit(codec.encode_frame, "zlib.crc32(header, ", "zlib.crc32(header[4:], "),
        Edit(codec.decode_frame, "segment[start + 8 :", "segment[start + 12 :"),
        Edit(scan.advance, "crc32(segment[offset + 8 :", "crc32(segment[offset + 12 :"),
    ),
    # The journal is refused until the damaged segment is replaced, which comes last.
    "a repair takes the oldest segments first": (
        Edit(repair.truncate, "reversed(moved)", "moved"),
    ),
}
#: Faults that only a failing disk reveals.
OF_ERRORS: dict[str, tuple[Edit, ...]] = {
    "a flush that failed is tried again": (
        Edit(
            log.Log.append,
            "self._fs.sync_data(self._fd)",
            "try:\n        self._fs.sync_data(self._fd)\n"
            "    except OSError:\n        self._fs.sync_data(self._fd)",
        ),
    ),
    "a flush that failed is not noticed": (
        Edit(
            log.Log.append,
            "self._fs.sync_data(self._fd)",
            "try:\n        self._fs.sync_data(self._fd)\n    except OSError:\n        pass",
        ),
        # The look would find that what was lost is not there.
        Edit(log.Log.append, "self._custody.check()", "pass"),
    ),
    "a write that failed is tried again": (
        Edit(
            commit.GroupCommit._drain,
            "log.append(batch)",
            "try:\n            log.append(batch)\n"
            "        except OSError:\n            log.append(batch)",
        ),
    ),
}
#: Faults that only a second writer, a start that fails or moved files reveal.
OF_CUSTODY: dict[str, tuple[Edit, ...]] = {
    "the lock is on its name only": (
        Edit(
            custody.Custody.lock,
            "if not self._fs.lock(fd):\n        return None\n    path =",
            "path =",
        ),
    ),
    "a mark is written by a start that failed": (
        Edit(
            daemon.run,
            "listeners = stack.enter_context(listen(config.http, config.socket, inherited))",
            "pass",
        ),
        Edit(
            daemon.run,
            "journal = recover(config, state, notifier)",
            "journal = recover(config, state, notifier)\n"
            "        journal._log.mark()\n"
            "        listeners = stack.enter_context(\n"
            "            listen(config.http, config.socket, inherited)\n"
            "        )",
        ),
    ),
    "it is acknowledged without the look": (Edit(log.Log.append, "self._custody.check()", "pass"),),
}
ALL = MUTANTS | HARMLESS | OF_ERRORS | OF_CUSTODY


@contextlib.contextmanager
def mutated(name: str) -> Iterator[None]:
    """Switch a fault on."""
    functions = by_function(ALL[name])
    codes = {function: function.__code__ for function in functions}
    try:
        for function, edits in functions.items():
            function.__code__ = edited(function, edits).__code__
        yield
    finally:
        for function, code in codes.items():
            function.__code__ = code


def by_function(edits: tuple[Edit, ...]) -> dict[Any, list[Edit]]:
    """The edits of each function."""
    found: dict[Any, list[Edit]] = {}
    for each in edits:
        found.setdefault(each.function, []).append(each)
    return found


def edited(function: Any, edits: list[Edit]) -> FunctionType:
    """The function with other text in it. Raises ValueError if the old text is not there."""
    source = textwrap.dedent(inspect.getsource(function))
    for edit in edits:
        if source.count(edit.old) < 1:
            raise ValueError(f"`{edit.old}` is no part of {function.__qualname__} any more")
        source = source.replace(edit.old, edit.new)
    scope: dict[str, Any] = {}
    # The annotations are not evaluated: the modules have them as text.
    code = compile("from __future__ import annotations\n" + source, "<mutant>", "exec")
    exec(code, function.__globals__, scope)  # noqa: S102
    found = inspect.unwrap(scope[function.__name__])
    assert isinstance(found, FunctionType)
    return found
