"""Changes of a table's routes as the kernel tells them: rtnetlink(7), its multicast groups.

What is not of our table is dropped by a filter in the kernel, for a routing daemon may change
hundreds of thousands of routes at once.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from array import array

import msgspec

from coild.process.rtnetlink import VERSIONS, attributes, messages
from coild.rules.addresses import Subnet

_INTERFACE = "lo"
#: rtnetlink.h: the groups of links, IPv4 and IPv6 routes; the messages; the attributes of a route.
_GROUPS = 0x1 | 0x40 | 0x400
_NEW_LINK, _NEW_ROUTE, _DEL_ROUTE = 16, 24, 25
_DESTINATION, _OUTPUT, _GATEWAY, _TABLE, _VIA, _ENCAP = 1, 4, 5, 15, 18, 22
_UNICAST = 1
_CLONED = 0x200
_IFF_UP = 1
#: A table beyond a byte is in an attribute, and this in the byte (RT_TABLE_COMPAT).
_TABLE_COMPAT = 252
_ROUTE = struct.Struct("=8BI")
_LINK = struct.Struct("=BxHiII")
_BUFFER_BYTES = 1 << 20
#: So many messages are read at a time; then others have their turn.
_MESSAGES_MAX = 200
_SO_ATTACH_FILTER = 26


class Changes(msgspec.Struct):
    """The changes since the last call of `read`."""

    #: Blocks whose route of ours went, or came; the last word on each counts.
    gone: set[Subnet] = msgspec.field(default_factory=set)
    made: set[Subnet] = msgspec.field(default_factory=set)
    #: Blocks to which another's route in our table came or went, or one that is not as we make it.
    foreign: set[Subnet] = msgspec.field(default_factory=set)
    #: lo went down, and all of its routes with it, of which nothing else is told.
    down: bool = False
    #: Something was missed, or lo changed: only a look at the whole table tells.
    unsure: bool = False


class RouteWatch:
    """Tells what becomes of one table's routes of one protocol. Belongs to one event loop."""

    def __init__(self, table: int, protocol: int) -> None:
        """Raises OSError."""
        self._table = table
        self._protocol = protocol
        self._lo = socket.if_nametoindex(_INTERFACE)
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
        )
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
            _attach_filter(self._socket, min(table, _TABLE_COMPAT), protocol)
            self._socket.bind((0, _GROUPS))
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """Readable when there is something to be told."""
        return self._socket.fileno()

    def read(self) -> Changes:
        """The changes since the last call. Never blocks, and never raises."""
        changes = Changes()
        for _ in range(_MESSAGES_MAX):
            try:
                data, (sender, _) = self._socket.recvfrom(1 << 16)
            except BlockingIOError:
                break
            except OSError as error:
                # ENOBUFS: there was more than the buffer holds.
                changes.unsure = True
                if error.errno != errno.ENOBUFS:
                    break
                continue
            # From the kernel only.
            if sender == 0:
                for kind, body in messages(data):
                    self._take(changes, kind, body)
        return changes

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _take(self, changes: Changes, kind: int, body: memoryview) -> None:
        if kind == _NEW_LINK:
            _, _, index, flags, _ = _LINK.unpack_from(body)
            if index == self._lo:
                changes.unsure = True
                changes.down = not flags & _IFF_UP
            return
        if kind not in {_NEW_ROUTE, _DEL_ROUTE}:
            return
        family, length, source, tos, table, protocol, _, type_, flags = _ROUTE.unpack_from(body)
        found = attributes(body[_ROUTE.size :])
        if _TABLE in found:
            table = int.from_bytes(found[_TABLE], sys.byteorder)
        version = VERSIONS.get(family)
        if table != self._table or version is None or flags & _CLONED:
            return
        block = Subnet(version, int.from_bytes(found.get(_DESTINATION, b"")), length)
        output = int.from_bytes(found.get(_OUTPUT, b""), sys.byteorder)
        # As KernelRoutes makes them. Another kind may take the place of one that is gone before
        # either is read here: its coming must not hide that.
        as_made = type_ == _UNICAST and output == self._lo and not (source or tos)
        if protocol != self._protocol or not as_made or found.keys() & {_GATEWAY, _VIA, _ENCAP}:
            changes.foreign.add(block)
        elif kind == _NEW_ROUTE:
            changes.made.add(block)
            changes.gone.discard(block)
        else:
            changes.gone.add(block)
            changes.made.discard(block)


def _attach_filter(sock: socket.socket, table: int, protocol: int) -> None:
    """Make the kernel drop messages of routes that are neither of the table nor the protocol.

    A classic BPF program (socket(7), SO_ATTACH_FILTER): it sees the header of 16 bytes, of which
    bytes 4 and 5 are the type, and of a route behind it bytes 4 and 5, table and protocol.
    """
    load_byte, jump_if_equal, give = 0x30, 0x15, 0x06
    program = (
        (load_byte, 0, 0, 4 if sys.byteorder == "little" else 5),
        (jump_if_equal, 4, 0, _NEW_LINK),
        (load_byte, 0, 0, 16 + 4),
        (jump_if_equal, 2, 0, table),
        (load_byte, 0, 0, 16 + 5),
        (jump_if_equal, 0, 1, protocol),
        (give, 0, 0, 0xFFFFFFFF),
        (give, 0, 0, 0),
    )
    # Not ctypes: the service's sandbox permits no memory that is both written and executed.
    code = array("B", b"".join(struct.pack("=HBBI", *each) for each in program))
    filter_ = struct.pack("@HP", len(program), code.buffer_info()[0])
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter_)
