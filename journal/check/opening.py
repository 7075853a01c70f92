"""Whether a journal would open, without opening it: it may be another's, and nothing is changed."""

from __future__ import annotations

from pathlib import Path

from journal.compact.prepare import Vocabulary
from journal.format.chain import walk
from journal.format.scan import Deliver, list_decoder
from journal.fs import FileSystem
from journal.read.replay_start import Restore, find_replay_start
from journal.read.vouching import Records


def opens(
    fs: FileSystem, directory: Path, vocabulary: Vocabulary, restore: Restore, replay: Deliver
) -> bool:
    """Whether `Journal.open` opens it, by reading what that would, without its changes.

    Raises what that raises of a journal that it refuses, and what `restore` and `replay` raise.
    """
    decoder = list_decoder(vocabulary.event_type)
    records = Records.of(decoder, vocabulary.record_of)
    start = find_replay_start(fs, directory, vocabulary.schema, restore, records=records)
    walked = walk(fs, start.files, vocabulary.schema, decoder, replay, start=start.position)
    return not (walked and walked[-1].file.archived)
