"""`coild` on a disk that fails when the test wants it to.

    python -m tests.crash.failing_daemon ARGUMENTS

As soon as the file that COILD_TEST_FAILURE names is there, the call to the disk that it contains
(`write` or `sync_data`) is an error of input and output, whenever it is made for a segment.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Any

from journal.fs import OsFileSystem

VARIABLE = "COILD_TEST_FAILURE"


def _install(path: Path) -> None:
    for call in ("write", "sync_data"):
        real = getattr(OsFileSystem, call)

        def failing(
            fs: OsFileSystem, fd: int, *args: Any, call: str = call, real: Any = real
        ) -> None:
            segment = Path(f"/proc/self/fd/{fd}").readlink().suffix == ".seg"
            if segment and path.exists() and path.read_text() == call:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            real(fs, fd, *args)

        setattr(OsFileSystem, call, failing)


if __name__ == "__main__":
    _install(Path(os.environ[VARIABLE]))
    from coild.cli import main

    sys.exit(main())
