"""Where a daemon listens: hosts and ports, as people write them."""

from __future__ import annotations

import ipaddress
import itertools
import re

import msgspec

DEFAULT_PORT = 9383
#: The word for no TCP at all.
OFF = "off"
#: Loopback of both families.
LOCALHOST = "localhost"
_LOCAL = ("127.0.0.1", "::1")
_FORM = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([0-9]+))?")


class Endpoint(msgspec.Struct, frozen=True):
    """Where to listen. An empty host is every address of the machine."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Read `HOST[:PORT]`, an IPv6 host in brackets. Raises ValueError."""
        found = _FORM.fullmatch(text)
        if found is None and text.count(":") > 1 and not text.startswith("["):
            raise ValueError(f"{text!r}: write an IPv6 host in brackets, like [::1]:{DEFAULT_PORT}")
        if found is None or not text or int(found[2] or DEFAULT_PORT) > 0xFFFF:
            raise ValueError(
                f"{text!r} is no HOST:PORT: write it like 127.0.0.1:{DEFAULT_PORT} or "
                f"[::1]:{DEFAULT_PORT}, with a port from 0 (any free one) to 65535"
            )
        host, port = found[1], int(found[2] or DEFAULT_PORT)
        bracketed = host.startswith("[")
        if bracketed:
            host = host[1:-1]
        if host == LOCALHOST and not bracketed:
            return cls(host, port)
        if bracketed != (":" in host) or "%" in host:
            raise ValueError(f"{text!r}: write an IPv6 host in brackets, without a zone")
        try:
            host = str(ipaddress.ip_address(host)) if host else ""
        except ValueError:
            raise ValueError(f"{text!r}: the host must be an IP address or localhost") from None
        return cls(host, port)

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses that the host stands for; of localhost, not every machine has both."""
        return _LOCAL if self.host == LOCALHOST else (self.host,)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return bool(self.host) and ipaddress.ip_address(self.addresses[0]).is_loopback

    @property
    def is_every(self) -> bool:
        """Whether it is every address of a family that the machine has."""
        return not self.host or ipaddress.ip_address(self.host).is_unspecified

    def takes(self, other: Endpoint) -> bool:
        """Whether no two sockets can listen on both; of an endpoint of one address each."""
        same = self.host == other.host or self.is_every or other.is_every
        return same and self.port == other.port and (":" in self.host) == (":" in other.host)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_endpoints(value: str | list[str]) -> tuple[Endpoint, ...]:
    """Read a list, or its parts with commas between them; `off` is none. Raises ValueError."""
    parts = value.split(",") if isinstance(value, str) else value
    texts = [part.strip() for part in parts]
    if texts == [OFF]:
        return ()
    if OFF in texts or not texts:
        raise ValueError(
            f"{value!r}: write {OFF!r} alone for no TCP, or the addresses to listen on"
        )
    found = tuple(map(Endpoint.parse, texts))
    places = [Endpoint(host, each.port) for each in found for host in each.addresses]
    if any(one.takes(other) for one, other in itertools.combinations(places, 2)):
        raise ValueError(f"{value!r} has an address twice")
    return found
