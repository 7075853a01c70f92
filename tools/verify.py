"""`coild-verify` says whether a journal is whole, and what its head is."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from coild.config import default_data_dir
from coild.events import SCHEMA
from journal import JournalCorruptError, JournalUnsupportedError
from journal.codec import SegmentHeader
from journal.fs import OsFileSystem
from journal.recovery import walk
from journal.scan import End, Scan
from journal.segments import SegmentFile

EXIT_GOOD, EXIT_TORN, EXIT_CORRUPT, EXIT_UNREADABLE = range(4)

_EPILOG = """\
examples:
  coild-verify                            the journal of this node's daemon, which may be running
  coild-verify --journal /backup/journal  a copy

exit status: 0 good; 1 a torn tail, which the daemon sets aside when it starts; 2 corrupt;
3 unsupported or unreadable.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `coild-verify`; the exit status."""
    parser = argparse.ArgumentParser(
        prog="coild-verify",
        description="Check every frame, checksum, digest and segment link. Changes nothing.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--data-dir", metavar="DIR", help="the daemon's (default: as the daemon's)")
    parser.add_argument("--journal", metavar="DIR", help="the journal itself, like a bare copy")
    arguments = parser.parse_args(argv)
    data_dir = arguments.data_dir or os.environ.get("COILD_DATA_DIR")
    journal = arguments.journal or Path(data_dir or default_data_dir(os.environ)) / "journal"
    return verify(Path(journal))


def verify(directory: Path) -> int:
    """Check the journal in `directory` and say what it is like; the exit status."""
    try:
        walked = _walk(directory)
    except JournalCorruptError as error:
        return _say(
            EXIT_CORRUPT,
            f"{error}\nkeep a copy of {directory}, then restore {error.file.name} from a backup: "
            "events after that sequence cannot be trusted",
        )
    except JournalUnsupportedError as error:
        return _say(EXIT_UNREADABLE, f"{error}\nuse the version of coild that wrote it")
    except OSError as error:
        return _say(EXIT_UNREADABLE, f"cannot read {directory}: {error.strerror}")
    if not walked:
        return _say(EXIT_UNREADABLE, f"there is no journal in {directory}")
    file, _, tail = walked[-1]
    last = tail.next_sequence - 1
    sys.stdout.write(f"{last} events in {len(walked)} segments, head {last}:{tail.digest.hex()}\n")
    if tail.end is End.TORN:
        return _say(
            EXIT_TORN,
            f"torn tail: {file.path} at offset {tail.offset}: {tail.reason}; "
            f"{tail.data_end - tail.offset} bytes of a write that nobody was told was durable, "
            "or that a running daemon is just making; the next start of coild sets them aside",
        )
    return EXIT_GOOD


def _walk(directory: Path) -> list[tuple[SegmentFile, SegmentHeader, Scan]]:
    """Walk the journal; what a running daemon adds meanwhile can look like damage, once."""
    seen: tuple[Path, int] | None = None
    while True:
        try:
            return walk(OsFileSystem(), directory, SCHEMA, verify_chain=True)
        except JournalCorruptError as error:
            # Damage stays where it is; a writer moves on.
            if seen == (error.file, error.offset):
                raise
            seen = error.file, error.offset


def _say(status: int, text: str) -> int:
    sys.stderr.write(f"coild-verify: {text}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
