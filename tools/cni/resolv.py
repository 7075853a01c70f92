"""`resolvConf`: the DNS part of the result from a file like /etc/resolv.conf."""

from __future__ import annotations

from posix import O_CLOEXEC, O_NONBLOCK, O_RDONLY, close, fstat, read
from posix import open as open_file

from tools.cni.errors import IO_FAILURE, CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_BYTES_MAX = 1 << 20
#: stat.S_IFMT and stat.S_IFREG, without importing that.
_KIND, _REGULAR = 0o170000, 0o100000


def read_resolv_conf(path: str) -> dict[str, Any]:
    """The `dns` of a result (resolv.conf(5)). Raises CniError if the file cannot be read."""
    try:
        text = _content(path).decode(errors="replace")
    except (OSError, ValueError) as error:
        raise CniError(IO_FAILURE, f"ipam.resolvConf {path!r} cannot be read: {error}") from None
    found: dict[str, Any] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0].startswith(("#", ";")):
            continue
        key, values = words[0], words[1:]
        if key == "nameserver":
            found.setdefault("nameservers", []).append(values[0])
        elif key == "domain":
            found["domain"] = values[0]
        elif key in {"search", "options"}:
            found.setdefault(key, []).extend(values)
    return found


def _content(path: str) -> bytes:
    """All of a regular file: a pipe has no end, and nobody may write to it."""
    fd = open_file(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    try:
        if fstat(fd).st_mode & _KIND != _REGULAR:
            raise ValueError("it is not a regular file")
        content = b""
        while more := read(fd, _BYTES_MAX + 1 - len(content)):
            content += more
            if len(content) > _BYTES_MAX:
                raise ValueError(f"it has more than {_BYTES_MAX} bytes")
        return content
    finally:
        close(fd)
