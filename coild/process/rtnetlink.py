"""The messages of netlink(7) and rtnetlink(7), taken apart.

Not by pyroute2: it takes 0.2 s to import, and on the event loop a message has to cost microseconds.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

#: struct nlmsghdr, and struct rtattr before its data.
HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
#: The IP version of an address family.
VERSIONS: dict[int, int] = {socket.AF_INET: 4, socket.AF_INET6: 6}


def messages(datagram: bytes) -> Iterator[tuple[int, memoryview]]:
    """The types and bodies of the messages in a datagram."""
    for (_, kind, *_), body in _records(memoryview(datagram), HEADER):
        yield kind, body


def attributes(view: memoryview) -> dict[int, memoryview]:
    """The attributes at the end of a message, by type; the last of a type counts."""
    return {kind: data for (_, kind), data in _records(view, _ATTRIBUTE)}


def _records(
    view: memoryview, header: struct.Struct
) -> Iterator[tuple[tuple[int, ...], memoryview]]:
    """Headers, which begin with the length, and what is behind each; up to one that is cut off."""
    while len(view) >= header.size:
        fields = header.unpack_from(view)
        length = fields[0]
        if not header.size <= length <= len(view):
            return
        yield fields, view[header.size : length]
        view = view[(length + 3) & ~3 :]
