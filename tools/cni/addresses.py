"""IP addresses and subnets as texts, by the C library's own functions."""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton

_FAMILIES = {4: AF_INET, 6: AF_INET6}
_BITS = {4: 32, 6: 128}
#: The shortest prefixes of a network: 10.0.0.0 is inside of 8.0.0.0/6 only; fc00::/7 (RFC 4193).
_PREFIX_MIN = {4: 4, 6: 7}


def version_of(text: str) -> int:
    """4 or 6; 0 if it is not an IP address."""
    for version, family in _FAMILIES.items():
        try:
            inet_pton(family, text)
        except (OSError, ValueError):
            continue
        return version
    return 0


def canonical(text: str) -> str:
    """The canonical text of the address. Raises ValueError."""
    version = version_of(text)
    if not version:
        raise ValueError(f"{text!r} is no IP address")
    family = _FAMILIES[version]
    return inet_ntop(family, inet_pton(family, text))


def covering_prefix(address: str, other: str) -> int:
    """The prefix length of the smallest subnet that has both, neither as first nor as last.

    That of a single address if no network has both.
    """
    version = version_of(address)
    bits = _BITS[version]
    if version_of(other) != version:
        return bits
    both = _number(version, address), _number(version, other)
    prefix = bits - (both[0] ^ both[1]).bit_length()
    # RFC 3021: with 31 bits, there is no network address and no broadcast address.
    while version == 4 and 0 < prefix < 31 and _is_at_an_edge(both, bits - prefix):
        prefix -= 1
    # The kernel makes no route to 0.0.0.0/N.
    is_network = prefix >= _PREFIX_MIN[version] and both[0] >> (bits - prefix)
    return prefix if is_network else bits


def _number(version: int, address: str) -> int:
    return int.from_bytes(inet_pton(_FAMILIES[version], address), "big")


def _is_at_an_edge(numbers: tuple[int, ...], bits: int) -> bool:
    mask = (1 << bits) - 1
    return any(number & mask in {0, mask} for number in numbers)


class Subnet:
    """A subnet: `version` is 4 or 6, `prefix` counts bits."""

    def __init__(self, text: str) -> None:
        """Read ADDRESS/PREFIX. Raises ValueError."""
        address, _, prefix = text.partition("/")
        self.version = version_of(address)
        known = self.version and prefix.isascii() and prefix.isdigit() and len(prefix) < 4
        if not known or int(prefix) > _BITS[self.version]:
            raise ValueError(f"{text!r} is no subnet: write it like 10.1.0.0/16 or fd00:1::/64")
        self.prefix = int(prefix)
        self.text = f"{canonical(address)}/{self.prefix}"
        self._head = self._head_of(address)
        #: Its first address, whether or not a host can have it.
        self.first = self._text(self._head << (_BITS[self.version] - self.prefix))

    def _head_of(self, address: str) -> int:
        return _number(self.version, address) >> (_BITS[self.version] - self.prefix)

    def edges(self) -> tuple[str, ...]:
        """Its first and last address, which no host has; for IPv6 only the first."""
        bits = _BITS[self.version]
        if self.prefix >= bits - 1:
            return ()
        free = bits - self.prefix
        first = self._head << free
        last = first + (1 << free) - 1
        return tuple(map(self._text, (first, last) if self.version == 4 else (first,)))

    def _text(self, number: int) -> str:
        size = _BITS[self.version] // 8
        return inet_ntop(_FAMILIES[self.version], number.to_bytes(size, "big"))

    def __contains__(self, address: str) -> bool:
        return version_of(address) == self.version and self._head_of(address) == self._head
