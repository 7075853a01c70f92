"""Static blocks: computed ones are those that a search through all of them would find."""

# expected == actual

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coild.blocks import NoBlockError
from coild.blocks.static import StaticBlocks
from coild.rules.addresses import BITS, Pool, Subnet
from tests.kits.daemon.service import pool
from tests.kits.loop import in_loop

#: The subnets here have at most so many addresses: each can be looked at.
BITS_MAX = 5


@st.composite
def situations(draw: st.DrawFn) -> tuple[dict[str, Pool], list[Subnet], int]:
    """Two pools, blocks of all sizes that are held before the start, and a family."""
    version = draw(st.sampled_from([4, 6]))
    bits = [draw(st.integers(0, BITS_MAX)) for _ in range(draw(st.integers(1, 3)))]
    subnets = [
        Subnet(version, (number + 1) << BITS_MAX, BITS[version] - size)
        for number, size in enumerate(bits)
    ]
    pools = {
        "default": Pool(tuple(subnets), draw(st.integers(0, min(bits)))),
        "web": Pool((Subnet(version, 5 << BITS_MAX, BITS[version] - 3),), draw(st.integers(0, 3))),
    }
    held: list[Subnet] = []
    for _ in range(draw(st.integers(0, 6))):
        size = draw(st.integers(0, BITS_MAX + 1))
        # In a subnet, near its start, or, for the largest, around it.
        index = (draw(st.integers(1, 5)) << BITS_MAX) + draw(st.integers(0, 7))
        block = Subnet(version, index >> size << size, BITS[version] - size)
        if not any(block.overlaps(other) for other in held):
            held.append(block)
    return pools, held, version


def candidates(owner: Pool, version: int, held: list[Subnet]) -> list[Subnet]:
    """All the blocks that the pool has left, by looking at each."""
    prefix, size = owner.block_prefix(version), 1 << owner.block_size
    blocks = [
        Subnet(version, base, prefix)
        for subnet in owner.of(version)
        for base in range(subnet.base, subnet.end, size)
    ]
    return [block for block in blocks if not any(block.overlaps(other) for other in held)]


@given(
    situation=situations(),
    wishes=st.lists(
        st.tuples(st.sampled_from(["default", "default", "web", "release"]), st.integers(0, 99)),
        max_size=60,
    ),
)
@in_loop
async def test_a_block_is_found_exactly_when_there_is_one(
    situation: tuple[dict[str, Pool], list[Subnet], int], wishes: list[tuple[str, int]]
) -> None:
    """Each block is whole, aligned, the pool's own and nobody's; a refusal means none is left."""
    pools, held, version = situation
    source = StaticBlocks(pools, held)
    for wish, number in wishes:
        if wish == "release":
            if held:
                await source.release("default", held.pop(number % len(held)))
            continue
        left = candidates(pools[wish], version, held)
        if not left:
            with pytest.raises(NoBlockError, match=f"pool '{wish}' has no free IPv"):
                await source.acquire(wish, version)
            continue
        block = await source.acquire(wish, version)

        assert block in left
        held.append(block)


@given(
    version=st.sampled_from([4, 6]),
    block_size=st.integers(0, BITS_MAX),
    releases=st.lists(st.integers(0, 99), max_size=60),
)
@in_loop
async def test_a_block_that_came_back_is_given_out_as_late_as_possible(
    version: int, block_size: int, releases: list[int]
) -> None:
    """Blocks go round: within a subnet none is given out again before all that are free were."""
    subnet = Subnet(version, 1 << BITS_MAX, BITS[version] - BITS_MAX)
    prefix, size = BITS[version] - block_size, 1 << block_size
    ring = [Subnet(version, base, prefix) for base in range(subnet.base, subnet.end, size)]
    source = StaticBlocks({"default": Pool((subnet,), block_size)}, [])
    held: list[Subnet] = []
    place = 0
    for number in releases:
        if len(held) == len(ring) or (held and number % 3 == 0):
            await source.release("default", held.pop(number % len(held)))
        block = await source.acquire("default", version)
        while ring[place % len(ring)] in held:
            place += 1

        assert ring[place % len(ring)] == block
        place += 1
        held.append(block)


@pytest.mark.parametrize("version", [4, 6])
def test_a_pool_without_the_family_says_so(version: int) -> None:
    """A pool that has subnets of the other family only refuses, naming itself and the family."""
    subnet = "fd00::/64" if version == 4 else "10.0.0.0/24"
    source = StaticBlocks({"web": pool(2, subnet)}, [])

    with pytest.raises(NoBlockError, match=f"pool 'web' has no IPv{version} subnet"):
        asyncio.run(source.acquire("web", version))


@in_loop
async def test_blocks_of_another_size_are_walked_around() -> None:
    """With blocks left from smaller and larger sizes, the new ones lie in the gaps."""
    held = [Subnet.parse("10.0.0.1/32"), Subnet.parse("10.0.0.8/29")]
    source = StaticBlocks({"default": pool(2, "10.0.0.0/27")}, held)

    assert [
        "10.0.0.4/30",
        "10.0.0.16/30",
        "10.0.0.20/30",
        "10.0.0.24/30",
        "10.0.0.28/30",
    ] == [str(await source.acquire("default", 4)) for _ in range(5)]
    with pytest.raises(NoBlockError):
        await source.acquire("default", 4)


@in_loop
async def test_a_full_pool_has_a_block_again_when_one_comes_back() -> None:
    """That a pool was searched in vain is forgotten as soon as any pool gets a block back."""
    foreign = Subnet.parse("10.0.0.0/29")
    source = StaticBlocks({"default": pool(2, "10.0.0.0/30")}, [foreign])
    for _ in range(2):
        with pytest.raises(NoBlockError):
            await source.acquire("default", 4)
    await source.release("web", foreign)

    assert "10.0.0.0/30" == str(await source.acquire("default", 4))
