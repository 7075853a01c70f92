"""The rules of addresses: whatever happens, the service does what a model of lists says.

The machine drives the real service, allocator, projection and static blocks; only the disk is left
out. The model is written for reading, has nothing of the code's, and looks at every address each
time: the subnets are small, so that pools run dry all the time.
"""

# expected == actual

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

import coild
from coild.allocation.service import ConflictError, NoAddressError, Statistics
from coild.rules.addresses import Pool, Span
from coild.rules.allocator import NoPoolError
from tests.kits.daemon.service import Bench, pool
from tests.kits.loop import in_loop

REUSE_AFTER = 30
#: In the configuration or not, and in which pool, changes at restarts.
SUBNETS = ("10.0.0.0/28", "10.0.1.0/29", "10.0.2.0/30", "fd00::/124", "fd01::/125", "fd02::/126")
POOL_NAMES = ("default", "web")
BLOCK_SIZE_MAX = 3
#: The last has no pool of its own.
NAMESPACES = (*POOL_NAMES, "other")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def overlap(one: Network, other: Network) -> bool:
    """Whether they share an address."""
    return one.version == other.version and one.overlaps(other)


def inside(inner: Network, outer: Network) -> bool:
    """Whether all of `inner` is in `outer`."""
    return overlap(inner, outer) and inner.prefixlen >= outer.prefixlen


@dataclass
class ModelBlock:
    """A block of the node: what was never used, what was released and when, what is held.

    `aside` was used or stepped over, and is set apart and not held.
    """

    network: Network
    pool: str
    acquired: int
    unused: list[str]
    released: list[tuple[str, int]] = field(default_factory=list)
    held: set[str] = field(default_factory=set)
    apart: set[str] = field(default_factory=set)
    aside: set[str] = field(default_factory=set)

    @property
    def idle_since(self) -> int:
        """When the last address came that can be handed out again, or else the block."""
        return max((time for _, time in self.released), default=self.acquired)

    @property
    def next_unused(self) -> list[str]:
        """What was never used, and is not set apart."""
        return [address for address in self.unused if address not in self.apart]

    def set_apart(self, apart: set[str], now: int) -> None:
        """These are what is set apart from now on."""
        before = self.unused.index(self.next_unused[0]) if self.next_unused else len(self.unused)
        self.aside |= {address for address, _ in self.released if address in apart}
        self.aside |= set(self.unused[:before])
        self.unused = self.unused[before:]
        self.released = [entry for entry in self.released if entry[0] not in apart]
        back = [each for each in map(str, self.network) if each in self.aside - apart]
        self.released += [(each, now) for each in back]
        self.aside -= set(back)
        self.apart = apart


class Model:
    """What must be true, from what was asked and answered so far."""

    def __init__(self) -> None:
        self.pools: dict[str, Pool] = {}
        self.blocks: list[ModelBlock] = []
        #: By container ID: namespace and address.
        self.holdings: dict[str, tuple[str, str]] = {}

    def subnets(self, name: str, version: int) -> list[Network]:
        """The subnets of a pool's family that are in force."""
        networks = [ipaddress.ip_network(str(subnet)) for subnet in self.pools[name].subnets]
        return [network for network in networks if network.version == version]

    def apart(self, block: ModelBlock) -> set[str]:
        """What its pool sets apart of a block; nothing if it is out of force."""
        if not self.configured(block):
            return set()
        return {str(address) for address in block.network if self.is_apart(block.pool, address)}

    def is_apart(self, name: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        """Whether no pod may have an address of the pool."""
        pool = self.pools[name]
        spans = (*pool.reserved, *pool.gateways, *pool.unusable)
        if any(s.version == address.version and s.first <= int(address) <= s.last for s in spans):
            return True
        return pool.reserve_edges and any(
            address == network[0] or (address == network[-1] and network.version == 4)
            for network in self.subnets(name, address.version)
            if network.num_addresses > 2
        )

    def change(self, pools: dict[str, Pool], now: int) -> None:
        """The configuration is another, or the same."""
        self.pools = pools
        for block in self.blocks:
            block.set_apart(self.apart(block), now)

    def configured(self, block: ModelBlock) -> bool:
        """Whether the configuration still has the block's addresses, in its pool."""
        return block.pool in self.pools and any(
            inside(block.network, subnet)
            for subnet in self.subnets(block.pool, block.network.version)
        )

    def usable(self, name: str, version: int) -> list[ModelBlock]:
        """The blocks from which the pool may hand out addresses."""
        return [
            block
            for block in self.blocks
            if block.pool == name and block.network.version == version and self.configured(block)
        ]

    def obtainable(self, name: str, version: int) -> list[Network]:
        """Every block that the pool has left: aligned, and overlapping with none that is held."""
        width = 32 if version == 4 else 128
        prefix = width - self.pools[name].block_size
        return [
            candidate
            for subnet in self.subnets(name, version)
            for candidate in subnet.subnets(new_prefix=prefix)
            if not any(overlap(candidate, block.network) for block in self.blocks)
            and not all(self.is_apart(name, address) for address in candidate)
        ]

    def block_of(self, address: str) -> ModelBlock:
        """The block of the node that the address is in; there must be exactly one."""
        found = [
            block
            for block in self.blocks
            if block.network.version == ipaddress.ip_address(address).version
            and ipaddress.ip_address(address) in block.network
        ]
        assert 1 == len(found), f"{address} is in {len(found)} blocks of the node"
        return found[0]

    def take(self, container_id: str, namespace: str, address: str) -> None:
        """The container has the address now, which was free."""
        block = self.block_of(address)
        assert address not in block.held, f"{address} has two holders"
        if address in block.unused:
            block.unused.remove(address)
        else:
            block.released = [entry for entry in block.released if entry[0] != address]
        block.held.add(address)
        self.holdings[container_id] = (namespace, address)

    def give(self, container_id: str, now: int) -> None:
        """The container's address is free again."""
        _, address = self.holdings.pop(container_id)
        block = self.block_of(address)
        block.held.remove(address)
        if address in block.apart:
            block.aside.add(address)
        else:
            block.released.append((address, now))


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Pool]:
    """Pools as a configuration may have them: each subnet in one of them, or in none."""
    owners = draw(st.tuples(*(st.sampled_from([*POOL_NAMES, None]) for _ in SUBNETS)).filter(any))
    pools = {}
    for name in POOL_NAMES:
        subnets = [subnet for subnet, owner in zip(SUBNETS, owners, strict=True) if owner == name]
        if subnets:
            smallest = min(ipaddress.ip_network(subnet).num_addresses for subnet in subnets)
            size = draw(st.integers(0, min(BLOCK_SIZE_MAX, smallest.bit_length() - 1)))
            plain = pool(size, *subnets)
            pools[name] = replace(
                plain,
                reserved=tuple(draw(st.lists(spans(plain), max_size=3))),
                reserve_edges=draw(st.booleans()),
                unusable=tuple(draw(st.lists(spans(plain, 1), max_size=1))),
            )
    return pools


@st.composite
def spans(draw: st.DrawFn, owner: Pool, size_max: int = 16) -> Span:
    """A range inside of one of the pool's subnets, half of it, or all."""
    subnet = draw(st.sampled_from(owner.subnets))
    first = draw(st.integers(subnet.base, subnet.end - 1))
    last = draw(st.integers(first, min(first + size_max, subnet.end) - 1))
    return Span(subnet.version, first, last)


class Rules(RuleBasedStateMachine):
    """Every answer is one that the model allows, and what the node holds is what it says."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.model = Model()
        self.counted = {"allocated": 0, "released": 0, "reused_early": 0, "refused": 0}
        self.names = (f"c{number}" for number in itertools.count())

    def teardown(self) -> None:
        """Every history that was made replays to the state that it left."""
        try:
            assert self.bench.state.digest() == self.bench.journal.replay().digest()
        finally:
            self.runner.close()

    @initialize(pools=configurations())
    def start(self, pools: dict[str, Pool]) -> None:
        """A node without any history starts."""
        self.model.pools = pools
        self.bench = self.runner.run(Bench(pools, reuse_after=REUSE_AFTER).start())

    @rule(
        namespace=st.sampled_from(NAMESPACES),
        version=st.sampled_from([4, 6]),
        count=st.integers(1, 6),
    )
    def allocate(self, namespace: str, version: int, count: int) -> None:
        """New containers get addresses."""
        for _ in range(count):
            self._allocate(next(self.names), namespace, version)

    @precondition(lambda self: self.model.holdings)
    @rule(data=st.data(), version=st.sampled_from([4, 6]))
    def allocate_again(self, data: st.DataObject, version: int) -> None:
        """A container that has an address gets no other, of either family."""
        container_id = self._draw_held(data)
        with pytest.raises(ConflictError):
            self.runner.run(self.bench.allocate(container_id, "other", version))
        self.counted["refused"] += 1

    @precondition(lambda self: self.model.holdings)
    @rule(data=st.data(), count=st.integers(1, 6))
    def release(self, data: st.DataObject, count: int) -> None:
        """Containers give their addresses back, and are told which they were."""
        for _ in range(min(count, len(self.model.holdings))):
            container_id = self._draw_held(data)
            namespace, address = self.model.holdings[container_id]

            assert address == self.runner.run(self.bench.release(container_id, namespace))
            assert not self.runner.run(self.bench.release(container_id, namespace))
            self.model.give(container_id, self.bench.now)
            self.counted["released"] += 1

    @precondition(lambda self: self.model.holdings)
    @rule(data=st.data())
    def release_as_another_pod(self, data: st.DataObject) -> None:
        """What is another pod's is not released."""
        container_id = self._draw_held(data)

        assert not self.runner.run(self.bench.release(container_id, "strange"))

    @rule(step=st.sampled_from([1, REUSE_AFTER - 1, REUSE_AFTER, 10 * REUSE_AFTER]))
    def advance(self, step: int) -> None:
        """Time goes on."""
        self.bench.now += step

    @rule(idle_for=st.sampled_from([0, REUSE_AFTER - 1, REUSE_AFTER, 3 * REUSE_AFTER]))
    def give_idle_blocks_back(self, idle_for: int) -> None:
        """Blocks go when they were empty for `idle_for` and the cool-down."""
        gone = [
            block
            for block in self.model.blocks
            if not block.held
            and self.bench.now - block.idle_since
            >= (max(idle_for, REUSE_AFTER) if self.model.configured(block) else REUSE_AFTER)
        ]

        assert sorted(str(block.network) for block in gone) == sorted(
            self.runner.run(self.bench.service.release_idle_blocks(idle_for))
        )
        self.model.blocks = [block for block in self.model.blocks if block not in gone]

    @rule()
    def give_spent_blocks_back(self) -> None:
        """Blocks of a former configuration go when they are empty and have rested."""
        gone = [block for block in self.model.blocks if self._is_spent(block)]

        assert sorted(str(block.network) for block in gone) == sorted(
            self.runner.run(self.bench.service.release_idle_blocks(None))
        )
        self.model.blocks = [block for block in self.model.blocks if block not in gone]

    @rule(pools=st.none() | configurations())
    def restart(self, pools: dict[str, Pool] | None) -> None:
        """The daemon ends, its configuration may change, and a new one replays the journal."""
        before = self.bench.state.digest()
        self.runner.run(self.bench.service.close())
        self.model.change(pools or self.model.pools, self.bench.now)
        self.bench = Bench(
            self.model.pools,
            journal=self.bench.journal,
            reuse_after=REUSE_AFTER,
            now=self.bench.now,
        )

        assert before == self.bench.state.digest()
        self.runner.run(self.bench.start())
        self.counted = dict.fromkeys(self.counted, 0)

    @invariant()
    def what_is_held_is_known(self) -> None:
        """Blocks and holders are the model's: no block overlaps, no address has two holders."""
        blocks = self._real_blocks()
        status = self.bench.service.durable.status()
        holders = {container_id: held.address for container_id, held in status.pods}

        assert {(b.pool, b.network) for b in self.model.blocks} == set(blocks)
        assert len(self.model.blocks) == len(blocks)
        assert not [
            pair for pair in itertools.combinations([b for _, b in blocks], 2) if overlap(*pair)
        ]
        assert {key: address for key, (_, address) in self.model.holdings.items()} == holders
        assert len(holders) == len(set(holders.values()))
        for address in holders.values():
            assert address in self.model.block_of(address).held

    @invariant()
    def everyone_can_ask(self) -> None:
        """Each container is told its address, and nobody else is."""
        for container_id, (namespace, address) in self.model.holdings.items():
            ask = self.bench.service.durable.address

            assert address == ask(namespace, "web-0", container_id)
            assert ask(namespace, "web-1", container_id) is None

    @invariant()
    def what_happened_was_counted(self) -> None:
        """The statistics are the numbers of what was answered since the start."""
        assert Statistics(**self.counted) == self.bench.service.statistics

    def _is_spent(self, block: ModelBlock) -> bool:
        rested = self.bench.now - block.idle_since >= REUSE_AFTER
        return rested and not block.held and not self.model.configured(block)

    def _draw_held(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.model.holdings)), label="container")

    def _real_blocks(self) -> list[tuple[str, Network]]:
        return [
            (name, ipaddress.ip_network(block))
            for name, blocks in self.runner.run(self.bench.blocks()).items()
            for block in blocks
        ]

    def _allocate(self, container_id: str, namespace: str, version: int) -> None:
        """Ask, and hold the answer against what the model knew before."""
        now = self.bench.now
        name = namespace if namespace in self.model.pools else "default"
        if name not in self.model.pools:
            with pytest.raises(NoPoolError):
                self.runner.run(self.bench.allocate(container_id, namespace, version))
            return
        usable = self.model.usable(name, version)
        unused = [address for block in usable for address in block.next_unused]
        released = [entry for block in usable for entry in block.released]
        rested = [entry for entry in released if entry[1] <= now - REUSE_AFTER]
        obtainable = self.model.obtainable(name, version)
        # The cool-down may cost a spare block: with up to a block's worth of addresses that are
        # all too fresh, the node takes one more block. With more than that, it has its spare.
        spare = len(released) > 1 << self.model.pools[name].block_size
        wants_block = not unused and not rested and not spare
        if wants_block and not obtainable:
            # What a former configuration left empty stands in nobody's way, once it has rested.
            self.model.blocks = [b for b in self.model.blocks if not self._is_spent(b)]
            obtainable = self.model.obtainable(name, version)
        grows = wants_block and bool(obtainable)
        early = not unused and not rested and not grows
        if early and not released:
            assert not self._addresses_left(name, version)
            with pytest.raises(NoAddressError):
                self.runner.run(self.bench.allocate(container_id, namespace, version))
            self.counted["refused"] += 1
            return

        address = self.runner.run(self.bench.allocate(container_id, namespace, version))
        self._take_up_blocks(name, obtainable if grows else [])
        block = self.model.block_of(address)
        assert name == block.pool
        assert self.model.configured(block)
        assert address not in self.model.apart(block)
        if early:
            assert (address, min(time for _, time in released)) in released
            self.counted["reused_early"] += 1
        elif block.next_unused:
            assert address in block.next_unused
        else:
            oldest = min(time for _, time in block.released)
            assert (address, oldest) in block.released
            assert oldest <= now - REUSE_AFTER
        self.model.take(container_id, namespace, address)
        self.counted["allocated"] += 1

    def _take_up_blocks(self, name: str, obtainable: list[Network]) -> None:
        """The node took one of the blocks that were to be had; none if there were none."""
        known = {block.network for block in self.model.blocks}
        new = [(owner, block) for owner, block in self._real_blocks() if block not in known]

        assert len(new) == bool(obtainable)
        for owner, network in new:
            assert name == owner
            assert network in obtainable
            block = ModelBlock(network, owner, self.bench.now, list(map(str, network)))
            block.apart = self.model.apart(block)
            self.model.blocks.append(block)

    def _addresses_left(self, name: str, version: int) -> bool:
        """Whether a block is left, or any address of the pool's blocks is free."""
        return bool(self.model.obtainable(name, version)) or any(
            not {str(address) for address in block.network} <= block.held | block.apart
            for block in self.model.usable(name, version)
        )


TestRules = Rules.TestCase
TestRules.settings = settings(
    max_examples=100,
    stateful_step_count=30,
    report_multiple_bugs=False,
    # Not Phase.explain: tracing every line makes a failure take minutes to report.
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
)


FAMILIES = pytest.mark.parametrize(
    ("version", "subnet"), [(4, "10.0.1.0/29"), (6, "fd01::/125")], ids=["ipv4", "ipv6"]
)


@FAMILIES
@pytest.mark.parametrize("block_size", range(4))
@in_loop
async def test_every_address_of_a_pool_is_handed_out_once(
    version: int, subnet: str, block_size: int
) -> None:
    """A subnet of 8 gives 8 addresses, the first included; the ninth container gets an error."""
    bench = await Bench({"default": pool(block_size, subnet)}, reuse_after=REUSE_AFTER).start()
    given = [await bench.allocate(f"c{number}", version=version) for number in range(8)]

    assert sorted(map(str, ipaddress.ip_network(subnet))) == sorted(given)
    with pytest.raises(NoAddressError, match=f"pool 'default' has no free IPv{version} address"):
        await bench.allocate("c8", version=version)


@FAMILIES
@in_loop
async def test_an_address_rests_as_long_as_another_is_free(version: int, subnet: str) -> None:
    """A container that flaps gets another address each time, until one has rested."""
    bench = await Bench({"default": pool(1, subnet)}, reuse_after=REUSE_AFTER).start()
    given = []
    for number in range(8):
        given.append(await bench.allocate(f"c{number}", version=version))
        await bench.release(f"c{number}")
        bench.now += 1
    # Two blocks of two: the first, and the spare that the cool-down may cost.

    assert 4 == len(set(given))
    assert given[:4] == given[4:]
    assert 4 == bench.service.statistics.reused_early
    assert 2 == len((await bench.blocks())["default"])
    bench.now += REUSE_AFTER

    assert given[0] == await bench.allocate("later", version=version)
    assert 4 == bench.service.statistics.reused_early


@in_loop
async def test_an_address_is_fresh_until_reuse_after_is_over() -> None:
    """One ns before `reuse-after` an address still rests; from then on it is ready."""
    bench = await Bench({"default": pool(0, "10.0.1.0/29")}, reuse_after=REUSE_AFTER).start()
    first = await bench.allocate("c0")
    await bench.release("c0")
    bench.now += REUSE_AFTER - 1
    second = await bench.allocate("c1")

    assert first != second
    bench.now += 1

    assert first == await bench.allocate("c2")


@in_loop
async def test_the_cool_down_survives_a_restart() -> None:
    """What was released before a restart rests after it as if there had been none."""
    # Two blocks: what was released first of all is in the second.
    bench = await Bench({"default": pool(1, "10.0.2.0/30")}, reuse_after=REUSE_AFTER).start()
    given = [await bench.allocate(f"c{number}") for number in range(4)]
    for number in (2, 0, 1):
        await bench.release(f"c{number}")
        bench.now += 1
    again = await Bench(
        bench.state.pools, journal=bench.journal, reuse_after=REUSE_AFTER, now=bench.now
    ).start()
    reused = [await again.allocate(f"d{number}") for number in range(3)]

    assert [given[2], given[0], given[1]] == reused
    assert 3 == again.service.statistics.reused_early


@in_loop
async def test_a_subnet_that_is_taken_out_hands_out_no_more() -> None:
    """Its addresses stay their holders' and can be released; new ones come from elsewhere."""
    both = pool(1, "10.0.1.0/29", "10.0.2.0/30")
    bench = await Bench({"default": both}, reuse_after=REUSE_AFTER).start()
    kept, released = await bench.allocate("kept"), await bench.allocate("released")

    assert kept.startswith("10.0.1.")
    changed = await Bench(
        {"default": pool(1, "10.0.2.0/30")}, journal=bench.journal, reuse_after=REUSE_AFTER
    ).start()
    assert released == await changed.release("released")
    assert kept == changed.service.durable.address("default", "web-0", "kept")
    changed.now += 10 * REUSE_AFTER
    new = [await changed.allocate(f"new{number}") for number in range(4)]

    assert sorted(map(str, ipaddress.ip_network("10.0.2.0/30"))) == sorted(new)
    with pytest.raises(NoAddressError):
        await changed.allocate("one-more")
    back = await Bench(
        {"default": both},
        journal=bench.journal,
        reuse_after=REUSE_AFTER,
        now=changed.now,
    ).start()

    assert released == await back.allocate("back")
    assert kept == await back.release("kept")


#: The product's own files, wherever the checkout lies: others' code may lie below it, too.
_PACKAGE = f"{Path(coild.__file__).parent}{os.sep}"


async def steps(subnet: str, version: int) -> tuple[int, list[str]]:
    """How many lines of coild run for 100 allocations and 100 blocks, and the first addresses."""
    lines = 0

    def count(frame: FrameType, event: str, _: object) -> Any:
        nonlocal lines
        if not frame.f_code.co_filename.startswith(_PACKAGE):
            return None
        lines += event == "line"
        return count

    bench = await Bench({"default": pool(0, subnet)}, reuse_after=REUSE_AFTER).start()
    before = sys.gettrace()
    sys.settrace(count)
    try:
        given = [await bench.allocate(f"c{number}", version=version) for number in range(100)]
    finally:
        sys.settrace(before)
    return lines, given


@in_loop
async def test_a_pool_of_2_to_the_80_costs_what_a_small_one_costs() -> None:
    """Blocks are computed, not listed: a /48 runs no more lines of code than a /24 or a /120."""
    small, _ = await steps("10.0.0.0/24", 4)
    small_6, _ = await steps("fd00:48::/120", 6)
    large, given = await steps("fd00:48::/48", 6)

    assert ["fd00:48::", "fd00:48::1", "fd00:48::2"] == given[:3]
    assert small_6 == large
    assert 1000 < large <= small
