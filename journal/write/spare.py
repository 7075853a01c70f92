"""Makes the next segment before it is needed, and handles a disk without room for it.

A full disk must be noticed while no event is at risk. So the next segment is filled with zeros in
the background as soon as the last one came into use. While that fails, the rest of the current
segment is reserved for essential events, and filling is tried again until it works.

A writer that ends leaves the file to the next one. If it freed the space, the program that fills
the disk would take it, and the next writer would only have the rest of the open segment.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable
from pathlib import Path

from journal.format.codec import SegmentHeader
from journal.format.segments import SPARE_NAME, give_up, publish, zero_fill
from journal.fs import FileSystem

logger = logging.getLogger(__name__)

#: The interval of attempts on a full disk: short enough for an operator who waits for it.
RETRY_SECONDS = 1.0


class Spare:
    """The next segment's file: zero-filled ahead of time by one thread, published by another."""

    def __init__(self, fs: FileSystem, directory: Path, segment_bytes: int) -> None:
        self.segment_bytes = segment_bytes
        self.path = directory / SPARE_NAME
        self._fs = fs
        self._fd: int | None = None
        # Held while the file is filled, so that an early `publish` waits instead of filling a
        # second file over the first. Held while it is published, because a `prepare` of the next
        # one would open this one by its old name, and write zeros over it.
        self._lock = threading.Lock()

    @property
    def ready(self) -> bool:
        """Whether the file is filled, so that `publish` is quick."""
        return self._fd is not None

    def prepare(self) -> None:
        """Fill the file and make its blocks durable, unless that is done already.

        If there is no room, raises OSError and leaves nothing behind.
        """
        with self._lock:
            if self._fd is None:
                self._fd = self._fill()

    def publish(self, header: SegmentHeader) -> tuple[int, Path]:
        """Turn the file, filled now if necessary, into the segment that `header` describes.

        On return the segment is durable under the returned name; the caller closes the returned
        descriptor. Raises OSError.
        """
        with self._lock:
            fd = self._fill() if self._fd is None else self._fd
            self._fd = None
            try:
                return fd, publish(self._fs, fd, self.path, header)
            except BaseException:
                self._fs.close(fd)
                raise

    def close(self) -> None:
        """Close the file. It stays on the disk and keeps its space."""
        with self._lock:
            if self._fd is not None:
                # It has no data yet that could be lost.
                fd, self._fd = self._fd, None
                with contextlib.suppress(OSError):
                    self._fs.close(fd)

    def _fill(self) -> int:
        # Not made empty: one that is there has its space already, on a full disk too. What is in
        # it may be anything, so it is filled all the same.
        fd = self._fs.open(self.path, write=True, create=True)
        try:
            zero_fill(self._fs, fd, 0, self.segment_bytes)
            self._fs.sync(fd)
        except BaseException:
            give_up(self._fs, fd, self.path)
            raise
        return fd


class SpareKeeper:
    """A thread that keeps the next segment ready, and reports when it cannot."""

    def __init__(self, spare: Spare, changed: Callable[[], None]) -> None:
        """`changed` is called from the thread whenever the spare became ready or failed."""
        self._spare = spare
        self._changed = changed
        self._wanted = False
        self._requests: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="journal-spare", daemon=True)
        #: The reason why there is no spare; None while there is one or it is being made.
        self.full_reason: str | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def want(self) -> None:
        """Ask the thread for a spare, unless it is there or already asked for. Returns at once."""
        if not self._spare.ready and not self._wanted:
            self._wanted = True
            self._requests.put(True)

    def close(self) -> None:
        """End the thread. An unused spare stays for the next writer."""
        self._closing.set()
        if self._thread.ident is not None:
            self._requests.put(False)
            self._thread.join()
        self._spare.close()

    def _run(self) -> None:
        while self._requests.get():
            self._wanted = False
            while not self._closing.is_set() and not self._try():
                self._closing.wait(RETRY_SECONDS)

    def _try(self) -> bool:
        try:
            self._spare.prepare()
        except OSError as error:
            if self.full_reason is None:
                logger.error("cannot prepare the next segment %s: %s", self._spare.path, error)
            self.full_reason = error.strerror or str(error)
            self._changed()
            return False
        if self.full_reason is not None:
            logger.info("there is room for the journal again")
            self.full_reason = None
        self._changed()
        return True
