"""`coild` on a disk that fails when the test wants it to.

    python -m tests.kits.variants.failing_daemon ARGUMENTS

As soon as the file that COILD_TEST_FAILURE names is there, the call to the disk that it contains
(`write` or `sync_data`) is an error of input and output, whenever it is made for a segment. If it
contains `hang`, such a flush ends when the file is gone; a file that ends in `.hangs` tells of it.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from pathlib import Path
from typing import Any

from journal.fs import OsFileSystem

VARIABLE = "COILD_TEST_FAILURE"


def hangs(path: Path) -> bool:
    """Whether a flush is to go on waiting; tells that one does."""
    try:
        found = path.read_text() == "hang"
    except FileNotFoundError:
        return False
    if found:
        path.with_suffix(".hangs").touch()
    return found


def _install(path: Path) -> None:
    for call in ("write", "sync_data"):
        real = getattr(OsFileSystem, call)

        def failing(
            fs: OsFileSystem, fd: int, *args: Any, call: str = call, real: Any = real
        ) -> None:
            segment = Path(f"/proc/self/fd/{fd}").readlink().suffix == ".seg"
            if segment and path.exists() and path.read_text() == call:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            while segment and call == "sync_data" and hangs(path):
                time.sleep(0.01)
            real(fs, fd, *args)

        setattr(OsFileSystem, call, failing)


if __name__ == "__main__":
    _install(Path(os.environ[VARIABLE]))
    from coild.cli import main

    sys.exit(main())
