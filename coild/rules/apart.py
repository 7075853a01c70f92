"""The addresses that a pool's configuration sets apart, checked: reserved ones and gateways."""

from __future__ import annotations

from collections.abc import Sequence

from coild.rules.addresses import Span, Subnet, edges

#: More make a start slow, and are a mistake more often than not: a range is one.
RESERVED_MAX = 10_000


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
