"""IP addresses and subnets as texts, by the C library's own functions."""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton

_FAMILIES = {4: AF_INET, 6: AF_INET6}
_BITS = {4: 32, 6: 128}


def version_of(text: str) -> int:
    """4 or 6; 0 if it is no IP address."""
    for version, family in _FAMILIES.items():
        try:
            inet_pton(family, text)
        except (OSError, ValueError):
            continue
        return version
    return 0


def canonical(text: str) -> str:
    """The one way to write the address. Raises ValueError."""
    version = version_of(text)
    if not version:
        raise ValueError(f"{text!r} is no IP address")
    family = _FAMILIES[version]
    return inet_ntop(family, inet_pton(family, text))


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

    def _head_of(self, address: str) -> int:
        number = int.from_bytes(inet_pton(_FAMILIES[self.version], address), "big")
        return number >> (_BITS[self.version] - self.prefix)

    def __contains__(self, address: str) -> bool:
        return version_of(address) == self.version and self._head_of(address) == self._head
