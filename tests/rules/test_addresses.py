"""Subnets and addresses are what the standard library says, at a tenth of its price."""

# expected == actual

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from coild.rules.addresses import BITS, Subnet, address_text
from tests.kits.daemon.service import pool

VERSIONS = st.sampled_from([4, 6])


@st.composite
def subnets(draw: st.DrawFn, version: int | None = None, prefix_min: int = 0) -> Subnet:
    """Any subnet of either family."""
    version = version or draw(VERSIONS)
    prefix = draw(st.integers(prefix_min, BITS[version]))
    network = draw(st.integers(0, (1 << prefix) - 1))
    return Subnet(version, network << (BITS[version] - prefix), prefix)


def standard(subnet: Subnet) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """The same as the standard library has it."""
    kind = ipaddress.IPv4Network if subnet.version == 4 else ipaddress.IPv6Network
    return kind((subnet.base, subnet.prefix))


def inside(inner: Any, outer: Any) -> bool:
    """The standard library's answer, whose types want both to be of one known family."""
    return bool(inner.subnet_of(outer))


@given(subnets())
def test_text_is_read_back(subnet: Subnet) -> None:
    """A subnet's text is the standard library's, and parses to the same subnet."""
    assert str(standard(subnet)) == str(subnet)
    assert subnet == Subnet.parse(str(subnet))


@given(subnets())
def test_keys_are_read_back(subnet: Subnet) -> None:
    """A key has 5 or 17 bytes by family, and is the same subnet again."""
    assert {4: 5, 6: 17}[subnet.version] == len(subnet.key)
    assert subnet == Subnet.from_key(subnet.key)


@pytest.mark.parametrize("length", [0, 1, 4, 6, 16, 18])
def test_keys_of_another_length_are_refused(length: int) -> None:
    """Bytes that are no subnet's key are refused, not read as some other subnet."""
    with pytest.raises(ValueError, match="neither 5 nor 17 bytes"):
        Subnet.from_key(bytes(length))


@given(subnets())
def test_bounds_are_the_standard_librarys(subnet: Subnet) -> None:
    """Size and ends agree with the standard library's network."""
    network = standard(subnet)

    assert network.num_addresses == subnet.size
    assert int(network.broadcast_address) + 1 == subnet.end


@given(data=st.data(), one=subnets(prefix_min=20))
def test_relations_are_the_standard_librarys(data: st.DataObject, one: Subnet) -> None:
    """`contains` and `overlaps` agree with the standard library, for nested subnets too."""
    other = data.draw(subnets(version=one.version) | st.just(one), label="other")
    prefix = data.draw(st.integers(0, BITS[one.version]), label="prefix")
    size = 1 << (BITS[one.version] - prefix)
    near = Subnet(one.version, one.base // size * size, prefix)
    for candidate in (other, near):
        assert standard(candidate).overlaps(standard(one)) == one.overlaps(candidate)
        assert inside(standard(candidate), standard(one)) == one.contains(candidate)


@given(one=subnets(), other=subnets())
def test_families_never_meet(one: Subnet, other: Subnet) -> None:
    """Subnets of different families share nothing, whatever their numbers."""
    assume(one.version != other.version)

    assert not one.overlaps(other)
    assert not one.contains(other)


@given(data=st.data(), version=VERSIONS)
def test_addresses_are_written_as_the_standard_library_does(
    data: st.DataObject, version: int
) -> None:
    """An address's text is the standard library's: dotted quads, and RFC 5952 for IPv6."""
    number = data.draw(st.integers(0, 2 ** BITS[version] - 1), label="number")
    kind = ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address

    assert str(kind(number)) == address_text(version, number)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("10.0.0.1/16", "host bits set: did you mean 10.0.0.0/16?"),
        ("fd00::1/64", "host bits set: did you mean fd00::/64?"),
        ("10.0.0.0", "write it with its length"),
        ("", "write it with its length"),
        ("10.0.0.0/33", "is no subnet"),
        ("10.0.0.0/-1", "is no subnet"),
        ("10.0.0/24", "is no subnet"),
        ("10.0.0.0/24/8", "is no subnet"),
        ("fd00::/129", "is no subnet"),
        ("fd00:::/64", "is no subnet"),
        ("pods/24", "is no subnet"),
        ("/24", "is no subnet"),
    ],
)
def test_what_is_no_subnet_is_refused(text: str, reason: str) -> None:
    """Anything that is not a network's address and length is refused, with what is wrong."""
    with pytest.raises(ValueError, match=reason.replace("?", r"\?")):
        Subnet.parse(text)


def test_a_pool_knows_its_families() -> None:
    """A pool's subnets can be had by family, and its blocks have one size in both."""
    mixed = pool(5, "10.1.0.0/24", "fd00:1::/64", "10.2.0.0/24")

    assert ["10.1.0.0/24", "10.2.0.0/24"] == list(map(str, mixed.of(4)))
    assert ["fd00:1::/64"] == list(map(str, mixed.of(6)))
    assert (27, 123) == (mixed.block_prefix(4), mixed.block_prefix(6))
