"""Writes segments: a group of events that is appended is durable on return.

Synchronous and without threads, so a test can drive it call by call against a simulated disk.
`group_commit` puts a thread, a queue and futures around it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from journal.format.codec import (
    ALIGNMENT,
    FRAME_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    SegmentHeader,
    encode_frame,
    frame_bytes_max,
    padded,
)
from journal.fs import FileSystem
from journal.write.custody import Custody
from journal.write.recovery import Recovered
from journal.write.spare import Spare

#: The bytes of a frame besides its events: the header, the list header, the padding.
FRAME_OVERHEAD_BYTES = FRAME_HEADER_BYTES + 3 + (ALIGNMENT - 1)


class Log:
    """Appends to the last segment and rolls over to the next.

    After any OSError the object must not be used again: which bytes of a failed write the kernel
    still holds is unknown, so only the next recovery can tell what was written.
    """

    def __init__(
        self,
        fs: FileSystem,
        recovered: Recovered,
        spare: Spare,
        schema: int,
        clock: Callable[[], int],
        custody: Custody | None = None,
    ) -> None:
        """`custody` is that of the journal's directory; the open segment is added to it."""
        self._fs = fs
        self._fd = recovered.fd
        self._header = recovered.header
        self._seed = recovered.header.seed
        self._offset = recovered.tail.offset
        self._time = recovered.tail.time
        self._clock = clock
        self._schema = schema
        self._custody = Custody(fs) if custody is None else custody
        self.spare = spare
        self.path = recovered.path
        #: The largest frame that may come next, its header and padding included: the next segment
        #: may be of another size, and the frame may end up there.
        self.frame_bytes_max = min(
            self._header.frame_bytes_max, frame_bytes_max(spare.segment_bytes)
        )
        #: Whether the last frame is a mark, or there is none to vouch for.
        self.marked = recovered.tail.marked
        #: Frames in sealed segments that no snapshot had covered at start, in bytes.
        self.sealed_bytes = recovered.tail_bytes - self.used_bytes
        #: The number of segments that this object sealed.
        self.sealed = 0
        #: The sequence of the next event, and the digest of all frames before it.
        self.next_sequence = recovered.tail.next_sequence
        self.digest = recovered.tail.digest
        self._watch()

    @property
    def journal_id(self) -> bytes:
        """The ID that all segments of the journal have."""
        return self._header.journal_id

    @property
    def used_bytes(self) -> int:
        """The bytes of the current segment's frames."""
        return self._offset - SEGMENT_HEADER_BYTES

    @property
    def free_bytes(self) -> int:
        """The free bytes of the current segment."""
        return self._header.segment_bytes - self._offset

    def append(self, events: Sequence[bytes]) -> None:
        """Write encoded events as one frame, or a mark without any. On return it is durable.

        The journal's names then still lead to it, so the next start will find it.
        The frame must fit into `frame_bytes_max` and `codec.FRAME_EVENTS_MAX`. Raises OSError,
        JournalDisplacedError.
        """
        size = padded(sum(map(len, events)) + FRAME_OVERHEAD_BYTES)
        if size > self.free_bytes:
            self._roll_over()
        # A clock that was set back must not make the journal's time run backwards.
        self._time = max(self._time, self._clock())
        frame, self.digest = encode_frame(
            events,
            seed=self._seed,
            offset=self._offset,
            first_sequence=self.next_sequence,
            time=self._time,
            previous_digest=self.digest,
        )
        self._fs.write(self._fd, frame, self._offset)
        self._fs.sync_data(self._fd)
        self._custody.wrote(frame, self._offset)
        self._custody.check()
        self._offset += len(frame)
        self.next_sequence += len(events)
        self.marked = not events

    @property
    def time(self) -> int:
        """The time of the last frame, or when the segment was made: the latest time written."""
        return self._time

    def mark(self) -> None:
        """Write a mark, unless the last frame is one. On return it is durable.

        A mark vouches for the frame before it: if that frame's bytes rot, the mark shows that
        it was whole once, and it is not taken for a torn tail. A mark is not worth running out of
        space: none is written if it needs a segment that is not ready.
        """
        if not self.marked and (
            self.free_bytes >= padded(FRAME_OVERHEAD_BYTES) or self.spare.ready
        ):
            self.append(())

    def seal(self) -> int:
        """Go on in a new segment, unless this has no event; return the last sequence before it.

        On return all events up to it are durable, and their segments never change. Raises OSError.
        """
        if self.next_sequence > self._header.first_sequence:
            self._roll_over()
        return self.next_sequence - 1

    def check(self) -> None:
        """Raise JournalDisplacedError unless the journal is still in place."""
        self._custody.check()

    def close(self) -> None:
        """Close the segment's file. Writes nothing."""
        self._fs.close(self._fd)

    def _roll_over(self) -> None:
        """Go on in the next segment. All frames of this one are durable already."""
        # If a name led elsewhere, the segment would be made in another directory.
        self._custody.check()
        self._time = max(self._time, self._clock())
        header = SegmentHeader.begin(
            self._schema,
            self.spare.segment_bytes,
            self._time,
            self.next_sequence - 1,
            self.digest,
            self._header.journal_id,
        )
        fd, self.path = self.spare.publish(header)
        # Before the old one is closed: if that fails, its number may already be another file's.
        fd, self._fd = self._fd, fd
        self.sealed_bytes += self.used_bytes
        self.sealed += 1
        self._header = header
        self.frame_bytes_max = header.frame_bytes_max
        self._seed = header.seed
        self._offset = SEGMENT_HEADER_BYTES
        self._watch()
        self._custody.check()
        self._fs.close(fd)

    def _watch(self) -> None:
        self._custody.write_to(self.path, self._fd, self._header.segment_bytes, self._offset)
