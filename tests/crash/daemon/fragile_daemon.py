"""`coild` on a disk that loses all unflushed writes when the process ends.

    python -m tests.crash.daemon.fragile_daemon ARGUMENTS

After `kill -9` the kernel still writes what a process left in the page cache. Here writes stay in
the process until they are flushed, and a flush takes its time: so killing it is like a power cut
while much is under way. COILD_TEST_FAULT names a fault of `daemon_faults` to switch on.
"""

from __future__ import annotations

import os
import sys
import threading
import time

from journal.fs import OsFileSystem
from tests.crash.daemon.faults import switch_on

FAULT_VARIABLE = "COILD_TEST_FAULT"
_FLUSH_SECONDS = 0.003

_real_write = OsFileSystem.write
_real_read = OsFileSystem.read
_real_close = OsFileSystem.close


class _Unflushed:
    """The writes to each descriptor that are not flushed yet."""

    def __init__(self) -> None:
        self._writes: dict[int, list[tuple[int, bytes]]] = {}
        self._lock = threading.Lock()

    def add(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        with self._lock:
            self._writes.setdefault(fd, []).append((offset, bytes(data)))

    def flush(self, fs: OsFileSystem, fd: int) -> None:
        with self._lock:
            writes = self._writes.pop(fd, [])
        for offset, data in writes:
            _real_write(fs, fd, data, offset)


_unflushed = _Unflushed()


def _write(_fs: OsFileSystem, fd: int, data: bytes | memoryview, offset: int) -> None:
    _unflushed.add(fd, data, offset)


def _read(fs: OsFileSystem, fd: int, size: int, offset: int) -> bytes:
    # Whoever reads back what they wrote sees it: a segment that is written is not read.
    _unflushed.flush(fs, fd)
    return _real_read(fs, fd, size, offset)


def _close(fs: OsFileSystem, fd: int) -> None:
    _unflushed.flush(fs, fd)
    _real_close(fs, fd)


def _sync(fs: OsFileSystem, fd: int) -> None:
    time.sleep(_FLUSH_SECONDS)
    _unflushed.flush(fs, fd)


if __name__ == "__main__":
    for name, call in {
        "write": _write,
        "read": _read,
        "close": _close,
        "sync": _sync,
        "sync_data": _sync,
    }.items():
        setattr(OsFileSystem, name, call)
    if os.environ.get(FAULT_VARIABLE):
        switch_on(os.environ[FAULT_VARIABLE])
    from coild.cli import main

    sys.exit(main())
