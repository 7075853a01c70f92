"""State is a fold over the events: any consistent history is accepted, any other refused."""

# expected == actual

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from coild.rules.addresses import Subnet
from coild.rules.events import (
    REQUESTED,
    AddressAllocated,
    AddressReleased,
    BlockAcquired,
    BlockReleased,
    DaemonStarted,
    DaemonStopped,
    JournalRepaired,
    PoolsChanged,
    PoolSpec,
)
from coild.rules.holding import Block, InconsistentEventError
from coild.rules.pool_events import pools_changed
from coild.rules.projection import Projection
from tests.kits.daemon.service import decode_event, pool

BLOCK = Subnet.parse("10.0.0.8/29").key
OTHER = Subnet.parse("fd00:48::40/122").key
POOLS = {"default": pool(3, "10.0.0.0/24"), "web": pool(6, "fd00:48::/64")}
POOLS_KEY = Subnet.parse("10.0.0.0/24").key

encode = msgspec.msgpack.Encoder().encode


def acquired(block: bytes = BLOCK, time: int = 1) -> BlockAcquired:
    """A block came."""
    return BlockAcquired(time, block, "default")


def allocated(
    container_id: str = "c0", offset: int = 0, block: bytes = BLOCK, time: int = 2
) -> AddressAllocated:
    """An address was handed out."""
    return AddressAllocated(time, block, offset, container_id, "default", "web-0", "default")


def released(
    container_id: str = "c0", offset: int = 0, block: bytes = BLOCK, time: int = 3
) -> AddressReleased:
    """An address was given back."""
    return AddressReleased(
        time, block, offset, container_id, "default", "web-0", "default", REQUESTED
    )


def folded(*events: Any) -> Projection:
    """The state after these events."""
    state = Projection()
    state.apply_all(events)
    return state


@pytest.mark.parametrize(
    ("before", "event"),
    [
        ([], allocated()),
        ([], released()),
        ([], BlockReleased(1, BLOCK, "default")),
        ([acquired()], acquired()),
        ([acquired()], released()),
        ([acquired()], allocated(block=OTHER)),
        ([acquired()], allocated(offset=8)),
        ([acquired()], allocated(offset=-1)),
        ([acquired(), allocated()], allocated("c1")),
        ([acquired(), allocated()], allocated(offset=1)),
        ([acquired(), allocated(offset=5)], allocated("c1", offset=5)),
        ([acquired(), allocated()], released(offset=1)),
        ([acquired(), allocated()], released("c1")),
        ([acquired(), acquired(OTHER), allocated()], released(block=OTHER)),
        ([acquired(), allocated()], BlockReleased(3, BLOCK, "default")),
        ([acquired(), allocated(), released()], released()),
        ([acquired(), BlockReleased(2, BLOCK, "default")], allocated()),
        ([acquired(), BlockReleased(2, BLOCK, "default")], BlockReleased(3, BLOCK, "default")),
    ],
    ids=[
        "allocated in no block",
        "released without anything",
        "an unknown block given back",
        "a block acquired twice",
        "released what nobody has",
        "allocated in another's block",
        "an offset behind the block",
        "an offset before the block",
        "an address with two holders",
        "a container with two addresses",
        "a second holder of an offset that was skipped to",
        "released another offset",
        "released by another container",
        "released in another block",
        "a block given back with a holder in it",
        "released twice",
        "allocated in a block that is gone",
        "a block given back twice",
    ],
)
def test_a_contradiction_is_refused(before: list[Any], event: Any) -> None:
    """An event that cannot have happened after those before it is an error, in replays as well."""
    state = folded(*(decode_event(encode(earlier)) for earlier in before))

    with pytest.raises(InconsistentEventError):
        state.apply(decode_event(encode(event)))


def test_what_is_no_event_is_refused() -> None:
    """An object that is not of the vocabulary is a bug, not a contradiction."""
    with pytest.raises(TypeError, match="not of the vocabulary"):
        Projection().apply(object())


def test_blocks_and_holdings_are_what_the_events_say() -> None:
    """A short history, fact by fact."""
    state = folded(
        pools_changed(1, POOLS),
        acquired(time=2),
        allocated("c0", 0, time=3),
        allocated("c1", 1, time=4),
        released("c0", 0, time=5),
    )
    block = state.blocks[BLOCK]

    assert POOLS == state.pools
    assert [BLOCK] == list(state.blocks)
    assert {"c1": "10.0.0.9"} == {key: held.address for key, held in state.holdings.items()}
    assert ("10.0.0.8/29", "default", 1, 2) == (
        str(block.subnet),
        block.pool,
        block.held,
        block.next_offset,
    )
    assert [(0, 5)] == list(block.released)
    assert (5, 5) == (state.sequence, state.time)


def test_facts_about_the_daemon_change_no_address() -> None:
    """Starts, stops and repairs count as events, and leave the state as it was."""
    state = folded(pools_changed(1, POOLS), acquired(), allocated())
    before = state.digest()
    state.apply(DaemonStarted(7, "1.0", "node", "boot"))
    state.apply(DaemonStopped(8, "1.0", "node"))
    state.apply(JournalRepaired(9, "segment", 1, 2, "kept"))

    assert before == state.digest()
    assert (6, 9) == (state.sequence, state.time)


@pytest.mark.parametrize(
    ("pools", "configured"),
    [
        ({"default": pool(3, "10.0.0.0/24")}, True),
        ({"default": pool(0, "10.0.0.0/24")}, True),
        ({"default": pool(0, "10.0.0.8/29")}, True),
        ({"default": pool(0, "10.0.0.8/30")}, False),
        ({"default": pool(3, "10.0.1.0/24")}, False),
        ({"default": pool(3, "fd00::/64")}, False),
        ({"web": pool(3, "10.0.0.0/24")}, False),
        ({}, False),
    ],
)
def test_a_block_is_in_force_while_its_pool_has_all_of_it(pools: Any, *, configured: bool) -> None:
    """Whether a block is in force is decided by the newest pools, whichever came first."""
    block_first = folded(acquired(), pools_changed(2, pools))
    pools_first = folded(pools_changed(1, pools), acquired())

    assert configured == block_first.blocks[BLOCK].configured
    assert configured == pools_first.blocks[BLOCK].configured


@given(st.lists(st.integers(0, 7), max_size=40))
def test_any_free_offset_can_be_taken(offsets: list[int]) -> None:
    """Whatever order addresses come and go in, what is free is free and what is held is held."""
    state = folded(acquired())
    block = state.blocks[BLOCK]
    held: set[int] = set()
    used: dict[int, int] = {}
    for time, offset in enumerate(offsets, 2):
        if offset in held:
            state.apply(released(f"c{offset}", offset, time=time))
            held.remove(offset)
            used[offset] = time
        else:
            state.apply(allocated(f"c{offset}", offset, time=time))
            held.add(offset)
            used.pop(offset, None)

        assert len(held) == block.held
        assert held == set(range(block.next_unused)) - {offset for offset, _ in block.released}
        times = [time for _, time in block.released]
        assert sorted(times) == times
        # Those that were skipped count as released at the beginning of time.
        assert used == {offset: time for offset, time in block.released if time}
    if len(held) < block.size:
        fresh_first = min(set(range(8)) - held - set(used), default=None)

        assert block.next_offset not in held
        assert fresh_first is None or block.next_offset not in used


def test_skipped_offsets_come_before_released_ones() -> None:
    """An offset that a history skipped is as good as one that was never used, lowest first."""
    block = Block(BLOCK, "default", 0)
    block.take(7)

    assert 1 == block.held
    taken = []
    while block.held < block.size:
        taken.append(block.next_offset)
        block.take(block.next_offset)

    assert list(range(7)) == taken


@st.composite
def histories(draw: st.DrawFn) -> list[Any]:
    """A consistent history, not only one that the allocator would make."""
    text = st.text(max_size=5)
    events: list[Any] = [pools_changed(0, POOLS)]
    blocks: dict[bytes, set[int]] = {}
    holders: dict[str, tuple[bytes, int]] = {}
    for time in range(1, draw(st.integers(1, 40))):
        kind = draw(st.integers(0, 9))
        if kind <= 1 and len(blocks) < 8:
            base = draw(st.sampled_from([n for n in range(8, 24) if subnet_key(n) not in blocks]))
            blocks[subnet_key(base)] = set()
            events.append(BlockAcquired(time, subnet_key(base), draw(text)))
        elif kind == 2 and (empty := [key for key, held in blocks.items() if not held]):
            key = draw(st.sampled_from(empty))
            del blocks[key]
            events.append(BlockReleased(time, key, "default"))
        elif kind == 3:
            events.append(
                draw(
                    st.sampled_from(
                        [
                            PoolsChanged(time, {"web": PoolSpec([OTHER], 2)}),
                            pools_changed(time, POOLS),
                            DaemonStarted(time, "1.0", "node", ""),
                            DaemonStopped(time, "1.0", "node"),
                            JournalRepaired(time, "segment", 1, 2, "kept"),
                        ]
                    )
                )
            )
        elif kind <= 5 and holders:
            container_id = draw(st.sampled_from(sorted(holders)))
            key, offset = holders.pop(container_id)
            blocks[key].remove(offset)
            events.append(released(container_id, offset, key, time))
        elif free := [(k, n) for k, held in blocks.items() for n in range(4) if n not in held]:
            key, offset = draw(st.sampled_from(free))
            container_id = draw(text.filter(lambda name: name not in holders))
            blocks[key].add(offset)
            holders[container_id] = (key, offset)
            events.append(
                AddressAllocated(time, key, offset, container_id, draw(text), draw(text), "default")
            )
    return events


def subnet_key(number: int) -> bytes:
    """The key of one of many disjoint blocks of four; every second one is IPv6."""
    text = f"10.0.0.{number * 4}/30" if number % 2 else f"fd00::{number:x}0/126"
    return Subnet.parse(text).key


@given(histories())
def test_replay_sees_the_state_as_it_was_appended(events: list[Any]) -> None:
    """Events as appended and as they are read from disk are the same, and fold to one state."""
    read = [decode_event(encode(event)) for event in events]
    appended, state = folded(*events), folded(*read)

    assert events == read
    assert appended.digest() == state.digest()
    assert (len(events), events[-1].time) == (state.sequence, state.time)
    assert {key: block.configured for key, block in appended.blocks.items()} == {
        key: block.configured for key, block in state.blocks.items()
    }


@pytest.mark.parametrize(
    ("event", "on_disk"),
    [
        (pools_changed(1, {"web": POOLS["default"]}), [1, 1, {"web": [[POOLS_KEY], 3]}]),
        (BlockAcquired(time=1, block=BLOCK, pool="default"), [2, 1, BLOCK, "default"]),
        (BlockReleased(time=1, block=BLOCK, pool="default"), [3, 1, BLOCK, "default"]),
        (
            replace(allocated(offset=5, time=1), pod_namespace="space"),
            [4, 1, BLOCK, 5, "c0", "space", "web-0", "default"],
        ),
        (
            replace(released(offset=5, time=1), pod_namespace="space"),
            [5, 1, BLOCK, 5, "c0", "space", "web-0", "default", "requested"],
        ),
        (
            DaemonStarted(time=1, version="1.0", node_name="node", boot_id="boot"),
            [6, 1, "1.0", "node", "boot"],
        ),
        (DaemonStopped(time=1, version="1.0", node_name="node"), [7, 1, "1.0", "node"]),
        (
            JournalRepaired(time=1, segment="segment", offset=2, size=3, kept="kept"),
            [8, 1, "segment", 2, 3, "kept", "", "recovery"],
        ),
    ],
)
def test_events_on_disk_keep_their_order(event: Any, on_disk: list[Any]) -> None:
    """An event is its tag and then its fields in this order, for ever: journals hold them."""
    assert on_disk == msgspec.msgpack.decode(encode(event))


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda events: events, True),
        (lambda events: [*events, DaemonStopped(9, "1.0", "node")], True),
        (lambda events: events[:-1], False),
        (lambda events: [events[1], events[0], *events[2:]], False),
        (lambda events: [*events[:-1], allocated("c1", 1)], False),
        (lambda events: [*events[:-1], allocated("c0", 2)], False),
        (lambda events: [pools_changed(0, POOLS), *events], False),
        (lambda events: [*events, allocated("c1", 2), released("c1", 2)], False),
    ],
    ids=[
        "nothing",
        "a fact about the daemon",
        "an address less",
        "the order of the blocks",
        "another container",
        "another offset",
        "the pools",
        "an address that rests",
    ],
)
def test_a_digest_names_the_state(change: Callable[[list[Any]], list[Any]], *, same: bool) -> None:
    """Equal states have equal digests, and any difference in what matters shows."""
    events = [acquired(BLOCK), acquired(OTHER), allocated("c0", 1)]

    assert same == (folded(*events).digest() == folded(*change(events)).digest())


def test_addresses_are_shown_in_either_family() -> None:
    """A holding's address is its block's network plus its offset."""
    state = folded(acquired(OTHER), allocated("c0", 63, OTHER))
    network = ipaddress.ip_network("fd00:48::40/122")

    assert str(network[63]) == state.holdings["c0"].address
