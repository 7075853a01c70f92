"""The addresses of this machine's network interfaces, asked of the kernel (rtnetlink(7))."""

from __future__ import annotations

import socket
import struct

from coild.process.rtnetlink import HEADER, VERSIONS, attributes, messages

#: rtnetlink.h, netlink.h.
_GET_ADDRESSES, _NEW_ADDRESS = 22, 20
_ERROR, _DONE = 2, 3
_REQUEST, _DUMP = 0x1, 0x300
_BODY = struct.Struct("=BBBBI")
#: RTMGRP_IPV4_IFADDR and RTMGRP_IPV6_IFADDR.
_GROUPS = 0x10 | 0x100
#: if_addr.h: the address of the interface; where it has a peer, the first is the peer's.
_ADDRESS, _LOCAL = 1, 2
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
        size = HEADER.size + len(body)
        netlink.send(HEADER.pack(size, _GET_ADDRESSES, _REQUEST | _DUMP, 1, 0) + body)
        while True:
            for kind, message in messages(netlink.recv(_DATAGRAM_BYTES)):
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
        """Read all news: the descriptor is not readable then until there are more."""
        while True:
            try:
                self._socket.recv(_DATAGRAM_BYTES)
            except BlockingIOError:
                return
            except OSError:
                pass  # some was lost, for it was much; the next reads on

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def _address_of(message: memoryview) -> tuple[int, int] | None:
    family, *_ = _BODY.unpack_from(message)
    found = attributes(message[_BODY.size :])
    data = found.get(_LOCAL, found.get(_ADDRESS))
    if family not in VERSIONS or data is None:
        return None
    return VERSIONS[family], int.from_bytes(data, "big")
