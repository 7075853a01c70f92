"""Where a daemon listens: a host and a port, as people write them."""

from __future__ import annotations

import ipaddress

import msgspec


class Endpoint(msgspec.Struct, frozen=True):
    """Where to listen. An empty host is every address of the machine."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Read `HOST:PORT`, an IPv6 host in brackets. Raises ValueError."""
        host, colon, port = text.rpartition(":")
        if not colon or not port.isascii() or not port.isdigit() or int(port) > 0xFFFF:
            raise ValueError(
                f"{text!r} is no HOST:PORT: write it like 127.0.0.1:9383 or [::1]:9383, "
                "with a port from 0 (any free one) to 65535"
            )
        bracketed = host.startswith("[") and host.endswith("]")
        if bracketed:
            host = host[1:-1]
        if bracketed != (":" in host) or "%" in host:
            raise ValueError(f"{text!r}: write an IPv6 host in brackets, without a zone")
        if host == "localhost":
            host = "127.0.0.1"
        try:
            host = str(ipaddress.ip_address(host)) if host else ""
        except ValueError:
            raise ValueError(f"{text!r}: the host must be an IP address or localhost") from None
        return cls(host, int(port))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return bool(self.host) and ipaddress.ip_address(self.host).is_loopback

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"
