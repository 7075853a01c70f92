"""The errors of a journal, one class for each reaction of a caller.

Every message says what is wrong and where. It does not name a command to run: the journal does not
know the program around it, so the caller adds that.
"""

from __future__ import annotations

from pathlib import Path


class JournalError(Exception):
    """Base of every error that this package raises on purpose."""


class JournalLockedError(JournalError):
    """Another process is the writer of this journal. Nothing was touched."""

    def __init__(self, directory: Path, holder: str) -> None:
        self.directory = directory
        super().__init__(f"the journal in {directory} is in use by {holder}")


class JournalDisplacedError(JournalError):
    """A name of the journal does not lead to the file that its writer has open.

    The writer must not go on: the next start would not find its events.
    """

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        super().__init__(
            f"{path} is not what this process has open: {reason}; nothing is acknowledged any "
            "more: find out what was done to it, put the right directory back, check it, then "
            "start again"
        )


class JournalClockError(JournalError):
    """The clock's time does not fit into a journal: times are ns since the epoch, in 64 bits."""

    def __init__(self, now: int) -> None:
        super().__init__(
            f"the system's clock says {now // 10**9} seconds since 1970, and a journal holds times "
            "from 1970 to 2554: set the clock, then start again"
        )


class JournalCorruptError(JournalError):
    """Bytes that were durable once have changed. The journal was left as it is.

    `file` and `offset` say where; `last_sequence` is the last event before that is known to be
    good.
    """

    def __init__(self, file: Path, offset: int, last_sequence: int, reason: str) -> None:
        self.file = file
        self.offset = offset
        self.last_sequence = last_sequence
        self.reason = reason
        super().__init__(
            f"the journal is corrupt: {file} at offset {offset}: {reason}; "
            f"the last good sequence is {last_sequence}; nothing was changed"
        )


class JournalUnsupportedError(JournalError):
    """The journal is not damaged, but this program cannot read it. Nothing was changed."""

    def __init__(self, file: Path, reason: str) -> None:
        self.file = file
        self.reason = reason
        super().__init__(f"the journal is unsupported: {file}: {reason}; nothing was changed")


class CompactionRunsError(JournalError):
    """Another compaction of this journal is at work. Nothing was touched."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        super().__init__(f"another compaction of the journal in {directory} is at work")


class JournalFullError(JournalError):
    """There is no room for the next segment, so the event was not taken. It passes by itself.

    `reason` is the disk's error; `used_up`: the space reserved for essential events is gone too.
    """

    def __init__(self, reason: str, *, used_up: bool = False) -> None:
        self.reason = reason
        self.used_up = used_up
        reserve = ", and what was reserved is used up" if used_up else ""
        super().__init__(f"no space for the journal: {reason}{reserve}")


class JournalBusyError(JournalError):
    """The next segment is still being made, so the event was not taken: wait for `room`."""


class JournalFailedError(JournalError):
    """A write or a flush failed, or the journal is closed: it never takes an event again."""


class EventTooLargeError(JournalError):
    """One encoded event does not fit into a frame. It was not taken."""
