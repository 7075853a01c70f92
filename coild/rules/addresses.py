"""Subnets, blocks and addresses of both families, as integers.

A block is a subnet of its pool's subnets; both are a version, a base and a prefix length. Text is
made at the edge only: an integer costs a tenth of an `ipaddress` object.
"""

from __future__ import annotations

import ipaddress
from typing import Self

import msgspec

from coild.rules.ranges import Ranges

#: Width of an address in bits, by IP version.
BITS = {4: 32, 6: 128}

#: A million addresses in one block: more than any node has pods.
BLOCK_SIZE_MAX = 20

_OCTETS = tuple(str(octet) for octet in range(256))


class Subnet(msgspec.Struct, frozen=True, order=True):
    """`base`/`prefix` of IP version 4 or 6. Host bits are never set."""

    version: int
    base: int
    prefix: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read CIDR notation. Raises ValueError that says what is wrong with it."""
        if "/" not in text or not text.rpartition("/")[2].isdecimal() or "%" in text:
            raise ValueError(f"{text!r} is no subnet: write it with its length, like 10.64.0.0/16")
        try:
            network = ipaddress.ip_network(text, strict=False)
        except ValueError:
            raise ValueError(
                f"{text!r} is no subnet: write it like 10.64.0.0/16 or fd00:64::/64"
            ) from None
        if str(network.network_address) != str(ipaddress.ip_address(text.partition("/")[0])):
            raise ValueError(f"{text!r} has host bits set: did you mean {network}?")
        return cls(network.version, int(network.network_address), network.prefixlen)

    @classmethod
    def from_key(cls, key: bytes) -> Self:
        """The subnet whose `key` this is. Raises ValueError for any other bytes."""
        if len(key) not in {5, 17}:
            raise ValueError(f"{key.hex()} is no subnet: it has neither 5 nor 17 bytes")
        version = 4 if len(key) == 5 else 6
        return cls(version, int.from_bytes(key[:-1], "big"), key[-1])

    @property
    def key(self) -> bytes:
        """Network address and prefix length: 5 bytes for IPv4, 17 for IPv6. Used in events."""
        return self.base.to_bytes(BITS[self.version] // 8, "big") + bytes((self.prefix,))

    @property
    def size(self) -> int:
        """How many addresses it has."""
        return 1 << (BITS[self.version] - self.prefix)

    @property
    def end(self) -> int:
        """One past its last address."""
        return self.base + self.size

    def contains(self, other: Subnet) -> bool:
        """Whether all of `other` is in it."""
        return self.version == other.version and self.base <= other.base and other.end <= self.end

    def overlaps(self, other: Subnet) -> bool:
        """Whether they share an address."""
        return self.version == other.version and self.base < other.end and other.base < self.end

    def __str__(self) -> str:
        return f"{address_text(self.version, self.base)}/{self.prefix}"


class Span(msgspec.Struct, frozen=True, order=True):
    """The addresses of IP version 4 or 6 from `first` to `last`, both included."""

    version: int
    first: int
    last: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an address, a range or a subnet. Raises ValueError that says what is wrong."""
        if "/" in text:
            subnet = Subnet.parse(text)
            return cls(subnet.version, subnet.base, subnet.end - 1)
        first, dash, last = text.partition("-")
        try:
            ends = [
                ipaddress.ip_address(each.strip()) for each in ((first, last) if dash else (first,))
            ]
        except ValueError:
            ends = []
        if not ends or "%" in text:
            raise ValueError(
                f"{text!r} is no address, range or subnet: write it like 10.64.1.1, "
                "10.64.2.5-10.64.2.9 or 10.64.0.0/29"
            )
        version, numbers = ends[0].version, [int(each) for each in ends]
        if ends[-1].version != version or numbers[-1] < numbers[0]:
            raise ValueError(
                f"{text!r} is no range: the last address must be of the first one's family, and "
                "not before it"
            )
        return cls(version, numbers[0], numbers[-1])

    @classmethod
    def from_key(cls, key: bytes) -> Self:
        """The span whose `key` this is. Raises ValueError for any other bytes."""
        if len(key) not in {8, 32}:
            raise ValueError(f"{key.hex()} is no range: it has neither 8 nor 32 bytes")
        half = len(key) // 2
        first, last = int.from_bytes(key[:half], "big"), int.from_bytes(key[half:], "big")
        return cls(4 if half == 4 else 6, first, last)

    @property
    def key(self) -> bytes:
        """First and last address: 8 bytes for IPv4, 32 for IPv6. Used in events."""
        width = BITS[self.version] // 8
        return self.first.to_bytes(width, "big") + self.last.to_bytes(width, "big")

    def __str__(self) -> str:
        first = address_text(self.version, self.first)
        size = self.last - self.first + 1
        if size == 1:
            return first
        if not size & (size - 1) and not self.first % size:
            return f"{first}/{BITS[self.version] - size.bit_length() + 1}"
        return f"{first}-{address_text(self.version, self.last)}"


class Pool(msgspec.Struct, frozen=True):
    """Where blocks come from. A block has two to the `block_size` addresses, of either family.

    What is set apart is never handed out: `reserved`, the edges of its subnets if `reserve_edges`,
    the gateways, and `unusable`, which is what was found out while the daemon runs: the node's own
    addresses, and those that a network cannot give to a pod.
    """

    subnets: tuple[Subnet, ...]
    block_size: int
    reserved: tuple[Span, ...] = ()
    reserve_edges: bool = False
    gateways: tuple[Span, ...] = ()
    unusable: tuple[Span, ...] = ()

    def of(self, version: int) -> list[Subnet]:
        """The subnets of one family."""
        return [subnet for subnet in self.subnets if subnet.version == version]

    def block_prefix(self, version: int) -> int:
        """The prefix length of this pool's blocks."""
        return BITS[version] - self.block_size

    def apart(self, version: int) -> Ranges:
        """The addresses of one family that are set apart."""
        spans = [*self.reserved, *self.gateways, *self.unusable]
        if self.reserve_edges:
            for subnet in self.of(version):
                spans += edges(subnet)
        return Ranges((span.first, span.last + 1) for span in spans if span.version == version)

    def subnet_of(self, version: int, address: int) -> Subnet | None:
        """The subnet that the address is in."""
        for subnet in self.of(version):
            if subnet.base <= address < subnet.end:
                return subnet
        return None

    def gateway_in(self, subnet: Subnet) -> int | None:
        """The address of the gateway that is in the subnet, if one is named."""
        for gateway in self.gateways:
            if gateway.version == subnet.version and subnet.base <= gateway.first < subnet.end:
                return gateway.first
        return None


def edges(subnet: Subnet) -> list[Span]:
    """The addresses of a subnet that no pod in it can use, by its family.

    IPv4: the network's and the broadcast address, but with 31 bits and more there is neither (RFC
    3021). IPv6: the routers' anycast address, which is the first (RFC 4291, section 2.6.1), but not
    with 127 bits and more (RFC 6164). The last is a host's like any other: there is no broadcast in
    IPv6, and only home agents of Mobile IPv6 answer to the anycast addresses of RFC 2526.
    """
    first, last = (Span(subnet.version, each, each) for each in (subnet.base, subnet.end - 1))
    if subnet.prefix >= BITS[subnet.version] - 1:
        return []
    return [first, last] if subnet.version == 4 else [first]


def address_text(version: int, address: int) -> str:
    """The address as people write it; IPv6 by RFC 5952."""
    if version == 4:
        octets = _OCTETS
        return (
            f"{octets[address >> 24]}.{octets[address >> 16 & 255]}"
            f".{octets[address >> 8 & 255]}.{octets[address & 255]}"
        )
    return str(ipaddress.IPv6Address(address))
