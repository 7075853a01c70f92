"""`resolvConf`: the DNS part of the result from a file like /etc/resolv.conf."""

from __future__ import annotations

from tools.cni.errors import IO_FAILURE, CniError
from tools.cni.files import read_regular

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_BYTES_MAX = 1 << 20


def read_resolv_conf(path: str) -> dict[str, Any]:
    """The `dns` of a result (resolv.conf(5)). Raises CniError if the file cannot be read."""
    try:
        text = read_regular(path, _BYTES_MAX).decode(errors="replace")
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
