"""The addresses that pods do not get, checked: not unicast, reserved by a pool, or gateways."""

from __future__ import annotations

from collections.abc import Sequence

from coild.rules.addresses import Span, Subnet, edges

#: More make a start slow, and are a mistake more often than not: a range is one.
RESERVED_MAX = 10_000
#: No pod can have these, whatever its network: by RFC 6890 and those that it cites. Link-local
#: addresses are not routed.
_NOT_UNICAST = tuple(
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
    for other, reason in _NOT_UNICAST:
        if other.contains(subnet):
            return f"{'it' if other == subnet else other} {reason}"
        if other.overlaps(subnet):
            return f"it has {other} in it, which {reason}"
    return ""


def reserved_of(texts: Sequence[str], subnets: Sequence[Subnet]) -> tuple[Span, ...]:
    """Addresses, ranges and subnets of one of the pool's subnets each; they may overlap.

    Raises ValueError.
    """
    if len(texts) > RESERVED_MAX:
        raise ValueError(f"there are {len(texts)}, at most {RESERVED_MAX} are allowed: use ranges")
    spans = [Span.parse(text.strip()) for text in texts]
    for span in spans:
        if not any(_has(subnet, span) for subnet in subnets):
            raise ValueError(f"{span} is not of the pool: {_told(span, subnets)}")
    return tuple(spans)


def gateways_of(texts: Sequence[str], subnets: Sequence[Subnet]) -> tuple[Span, ...]:
    """One address in each subnet at most, and none that a host cannot have. Raises ValueError."""
    found: dict[Subnet, Span] = {}
    for text in texts:
        span = Span.parse(text.strip())
        if span.first != span.last or "/" in text or "-" in text:
            raise ValueError(f"{text!r} is no gateway: it is one address, like 10.64.0.1")
        subnet = next((each for each in subnets if _has(each, span)), None)
        if subnet is None:
            raise ValueError(
                f"{span} is no gateway of the pool's pods, for it is outside: "
                f"{_told(span, subnets)}"
            )
        if span in edges(subnet):
            raise ValueError(
                f"{span} is no gateway: as an edge of {subnet} it is no address of a host"
            )
        if found.setdefault(subnet, span) != span:
            raise ValueError(
                f"{span} is one gateway too many: {subnet} has {found[subnet]} already"
            )
    return tuple(found.values())


def _has(subnet: Subnet, span: Span) -> bool:
    return subnet.version == span.version and subnet.base <= span.first and span.last < subnet.end


def _told(span: Span, subnets: Sequence[Subnet]) -> str:
    """Where it would have to be."""
    of_family = [str(subnet) for subnet in subnets if subnet.version == span.version]
    if not of_family:
        return f"the pool has no IPv{span.version} subnet"
    return f"it must be in {' or '.join(of_family)}"
