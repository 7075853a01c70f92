"""Reads a file whose name may lead to something else: an endless device, a pipe without writer."""

from __future__ import annotations

from posix import O_CLOEXEC, O_NONBLOCK, O_RDONLY, close, fstat, read
from posix import open as open_file

#: stat.S_IFMT and stat.S_IFREG, without importing that.
_KIND, _REGULAR = 0o170000, 0o100000


def read_regular(path: str, bytes_max: int) -> bytes:
    """All bytes of a regular file. Raises ValueError for any other, or a longer one; OSError."""
    fd = open_file(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    try:
        if fstat(fd).st_mode & _KIND != _REGULAR:
            raise ValueError("it is not a regular file")
        content = b""
        while more := read(fd, bytes_max + 1 - len(content)):
            content += more
            if len(content) > bytes_max:
                raise ValueError(f"it has more than {bytes_max} bytes")
        return content
    finally:
        close(fd)
