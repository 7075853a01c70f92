"""Reads files of which only the name is known, like one that a configuration or an operator names.

What has that name may be anything: a device that never ends, a pipe without a writer, a sparse
file of many GiB. Reading it takes no more memory than a file of its kind may have, and waits for no
other process.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path


class UnfitFileError(ValueError):
    """The file is not of the kind that is wanted; the text says why, for people."""


def read_limited(path: Path, bytes_max: int) -> bytes:
    """All bytes of `path`, which may be `bytes_max`.

    A pipe that is open already, as a shell's `<(...)` is, is read to its end. Raises UnfitFileError
    for a longer file, of which no more than the limit is read, and for a named pipe; OSError.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        found = os.fstat(fd)
        if stat.S_ISFIFO(found.st_mode):
            # pipe(7): only one without a name is called so, whatever the link that leads to it.
            if not os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:"):  # noqa: PTH115
                raise UnfitFileError("it is a named pipe, where a file should be")
            os.set_blocking(fd, True)
        # Files of /proc have no size.
        if found.st_size > bytes_max:
            raise UnfitFileError(_too_long(f"{found.st_size} bytes", bytes_max))
        parts = []
        left = bytes_max + 1
        while left and (part := os.read(fd, left)):
            parts.append(part)
            left -= len(part)
    finally:
        os.close(fd)
    if not left:
        raise UnfitFileError(_too_long("more", bytes_max))
    return b"".join(parts)


def _too_long(size: str, bytes_max: int) -> str:
    return f"it has {size}; a file of its kind has {bytes_max} bytes at most"
