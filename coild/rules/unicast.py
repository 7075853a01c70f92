"""Addresses that no pod can have, whatever its network: those that are not unicast."""

from __future__ import annotations

from coild.rules.addresses import Subnet

#: By RFC 6890 and those that it cites. Link-local addresses are not routed.
_NONE = tuple(
    (Subnet.parse(text), reason)
    for text, reason in (
        ("0.0.0.0/8", "is this network (RFC 1122), no host's"),
        ("127.0.0.0/8", "is loopback"),
        ("169.254.0.0/16", "is link-local, which no router forwards"),
        ("224.0.0.0/4", "is multicast"),
        ("240.0.0.0/4", "is reserved (RFC 1112), with the broadcast address"),
        ("::/96", "has the unspecified address, loopback, and what once was IPv4 (RFC 4291)"),
        ("::ffff:0:0/96", "is IPv4 in IPv6's clothes (RFC 4291)"),
        ("fe80::/10", "is link-local, which no router forwards"),
        ("ff00::/8", "is multicast"),
    )
)


def why_no_unicast(subnet: Subnet) -> str:
    """Why pods cannot have addresses of the subnet; empty if they can."""
    for other, reason in _NONE:
        if other.contains(subnet):
            return f"{'it' if other == subnet else other} {reason}"
        if other.overlaps(subnet):
            return f"it has {other} in it, which {reason}"
    return ""
