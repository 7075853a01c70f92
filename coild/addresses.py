"""Subnets, blocks and addresses of both families, as integers.

A block is a subnet of its pool's subnets; both are a version, a base and a prefix length. Text is
made at the edge only: an integer costs a tenth of an `ipaddress` object.
"""

from __future__ import annotations

import ipaddress
from typing import Self

import msgspec

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


class Pool(msgspec.Struct, frozen=True):
    """Where blocks come from. A block has two to the `block_size` addresses, of either family."""

    subnets: tuple[Subnet, ...]
    block_size: int

    def of(self, version: int) -> list[Subnet]:
        """The subnets of one family."""
        return [subnet for subnet in self.subnets if subnet.version == version]

    def block_prefix(self, version: int) -> int:
        """The prefix length of this pool's blocks."""
        return BITS[version] - self.block_size


def address_text(version: int, address: int) -> str:
    """The address as people write it; IPv6 by RFC 5952."""
    if version == 4:
        octets = _OCTETS
        return (
            f"{octets[address >> 24]}.{octets[address >> 16 & 255]}"
            f".{octets[address >> 8 & 255]}.{octets[address & 255]}"
        )
    return str(ipaddress.IPv6Address(address))
