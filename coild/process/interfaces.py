"""The addresses of this machine's network interfaces, asked of the kernel (rtnetlink(7)).

By hand: it is one question, and the library that the routes are made with takes 0.2 s to import.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

#: rtnetlink.h, netlink.h.
_GET_ADDRESSES, _NEW_ADDRESS = 22, 20
_ERROR, _DONE = 2, 3
_REQUEST, _DUMP = 0x1, 0x300
_HEADER = struct.Struct("=IHHII")
_BODY = struct.Struct("=BBBBI")
_ATTRIBUTE = struct.Struct("=HH")
#: RTMGRP_IPV4_IFADDR and RTMGRP_IPV6_IFADDR.
_GROUPS = 0x10 | 0x100
#: if_addr.h: the address of the interface; where it has a peer, the first is the peer's.
_ADDRESS, _LOCAL = 1, 2
_VERSIONS = {socket.AF_INET: 4, socket.AF_INET6: 6}
#: More than the kernel puts into one datagram of a dump.
_DATAGRAM_BYTES = 1 << 18
#: The kernel answers at once; nothing is worth a start that hangs.
_TIMEOUT_SECONDS = 2.0


def interface_addresses() -> set[tuple[int, int]]:
    """Version and number of each address that an interface has. Raises OSError."""
    found: set[tuple[int, int]] = set()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.settimeout(_TIMEOUT_SECONDS)
        netlink.bind((0, 0))
        body = _BODY.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        size = _HEADER.size + len(body)
        netlink.send(_HEADER.pack(size, _GET_ADDRESSES, _REQUEST | _DUMP, 1, 0) + body)
        while True:
            for kind, message in _messages(netlink.recv(_DATAGRAM_BYTES)):
                if kind == _DONE:
                    return found
                if kind == _ERROR:
                    (number,) = struct.unpack_from("=i", message)
                    raise OSError(-number, "the kernel does not list the interfaces' addresses")
                if kind == _NEW_ADDRESS and (address := _address_of(message)) is not None:
                    found.add(address)


class AddressWatch:
    """Readable when an address came to an interface or went from it."""

    def __init__(self) -> None:
        """Raises OSError."""
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
        )
        self._socket.bind((0, _GROUPS))

    def fileno(self) -> int:
        """The descriptor."""
        return self._socket.fileno()

    def drain(self) -> None:
        """Take note of all that happened: it is not readable until something else does."""
        while True:
            try:
                self._socket.recv(_DATAGRAM_BYTES)
            except BlockingIOError:
                return
            except OSError:
                pass  # some was lost, for it was much; the next reads on

    def close(self) -> None:
        """Hear of nothing more."""
        self._socket.close()


def _messages(datagram: bytes) -> Iterator[tuple[int, bytes]]:
    place = 0
    while place + _HEADER.size <= len(datagram):
        size, kind, _, _, _ = _HEADER.unpack_from(datagram, place)
        if size < _HEADER.size:
            return
        yield kind, datagram[place + _HEADER.size : place + size]
        place += _aligned(size)


def _address_of(message: bytes) -> tuple[int, int] | None:
    family, *_ = _BODY.unpack_from(message)
    found: dict[int, bytes] = {}
    place = _BODY.size
    while place + _ATTRIBUTE.size <= len(message):
        size, kind = _ATTRIBUTE.unpack_from(message, place)
        if size < _ATTRIBUTE.size:
            break
        found[kind] = message[place + _ATTRIBUTE.size : place + size]
        place += _aligned(size)
    data = found.get(_LOCAL, found.get(_ADDRESS))
    if family not in _VERSIONS or data is None:
        return None
    return _VERSIONS[family], int.from_bytes(data, "big")


def _aligned(size: int) -> int:
    return (size + 3) & ~3
