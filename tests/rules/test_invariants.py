"""The checker of `coild-replay --check` passes every true history and finds what is wrong."""

# expected == actual

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coild.audit.invariants import BrokenInvariantError, Checker, Invariant
from coild.rules.addresses import Span, Subnet
from coild.rules.events import (
    REQUESTED,
    AddressAllocated,
    AddressReleased,
    AttachmentAllocated,
    BlockAcquired,
    BlockReleased,
    DaemonStarted,
    HistoryPruned,
    JournalCompacted,
    NodeBooted,
    PoolsChanged,
    PoolSpec,
    SegmentsIndexed,
    SnapshotTaken,
)
from coild.rules.pool_events import pools_changed
from tests.kits.daemon.service import pool
from tests.kits.journal.replay import fold, histories

BLOCK = Subnet.parse("10.0.0.8/29").key
OTHER = Subnet.parse("10.0.0.16/29").key
POOLS = pools_changed(
    1, {"default": pool(3, "10.0.0.0/24"), "web": pool(2, "10.0.0.0/24", "10.0.1.0/24")}
)
RESERVING = pools_changed(
    1,
    {
        "default": msgspec.structs.replace(
            pool(3, "10.0.0.0/24"), reserved=(Span.parse("10.0.0.11-10.0.0.12"),)
        ),
        "web": msgspec.structs.replace(pool(2, "10.0.1.0/24"), reserve_edges=True),
    },
)
WEB = BlockAcquired(1, Subnet.parse("10.0.1.0/30").key, "web")
ACQUIRED = BlockAcquired(1, BLOCK, "default")
ALLOCATED = AddressAllocated(2, BLOCK, 0, "c0", "default", "web-0", "default")
ATTACHED = AttachmentAllocated(2, BLOCK, 0, "c0", "default", "web-0", "default", "pods")
RELEASED = AddressReleased(3, BLOCK, 0, "c0", "default", "web-0", "default", REQUESTED)


def changed(event: Any, **fields: Any) -> Any:
    """The event with other fields."""
    return msgspec.structs.replace(event, **fields)


def checked(*events: Any) -> Checker:
    """A checker that took these events."""
    checker = Checker()
    for event in events:
        checker.check(event)
    return checker


BROKEN = [
    ([POOLS, ACQUIRED], changed(ALLOCATED, time=0), Invariant.TIME),
    ([POOLS], BlockAcquired(1, bytes(4) + b"\xff", "default"), Invariant.SUBNET),
    ([POOLS], BlockAcquired(1, b"", "default"), Invariant.SUBNET),
    ([POOLS], BlockAcquired(1, bytes((10, 0, 0, 9, 29)), "default"), Invariant.SUBNET),
    ([POOLS, ACQUIRED], changed(ALLOCATED, block=bytes(16) + b"\x81"), Invariant.SUBNET),
    ([POOLS], BlockReleased(1, b"\xff", "default"), Invariant.SUBNET),
    ([], PoolsChanged(1, {"default": PoolSpec([bytes(4) + b"\xff"], 3)}), Invariant.SUBNET),
    ([], PoolsChanged(1, {"default": PoolSpec([], 21)}), Invariant.SUBNET),
    ([], PoolsChanged(1, {"default": PoolSpec([], -1)}), Invariant.SUBNET),
    ([], ACQUIRED, Invariant.POOL),
    ([POOLS], changed(ACQUIRED, pool="none"), Invariant.POOL),
    ([POOLS], changed(ACQUIRED, pool="web"), Invariant.SIZE),
    ([POOLS], BlockAcquired(1, Subnet.parse("10.0.1.0/29").key, "default"), Invariant.PLACE),
    ([POOLS], BlockAcquired(1, Subnet.parse("fd00::/125").key, "default"), Invariant.PLACE),
    ([POOLS, ACQUIRED], ACQUIRED, Invariant.OVERLAP),
    (
        [POOLS, ACQUIRED],
        BlockAcquired(1, Subnet.parse("10.0.0.12/30").key, "web"),
        Invariant.OVERLAP,
    ),
    (
        [POOLS, BlockAcquired(1, Subnet.parse("10.0.0.12/30").key, "web")],
        ACQUIRED,
        Invariant.OVERLAP,
    ),
    ([POOLS], ALLOCATED, Invariant.HELD_BLOCK),
    ([POOLS, ACQUIRED], changed(ALLOCATED, block=OTHER), Invariant.HELD_BLOCK),
    ([POOLS], BlockReleased(1, BLOCK, "default"), Invariant.HELD_BLOCK),
    ([POOLS, ACQUIRED], changed(ALLOCATED, offset=8), Invariant.OFFSET),
    ([POOLS, ACQUIRED], changed(ALLOCATED, offset=-1), Invariant.OFFSET),
    ([POOLS, ACQUIRED, ALLOCATED], changed(ALLOCATED, container_id="c1"), Invariant.ONE_HOLDER),
    ([RESERVING, ACQUIRED], changed(ALLOCATED, offset=3), Invariant.APART),
    ([POOLS, ACQUIRED, RESERVING], changed(ALLOCATED, offset=4), Invariant.APART),
    ([RESERVING, WEB], changed(ALLOCATED, block=WEB.block, pool="web"), Invariant.APART),
    ([POOLS, ACQUIRED, ALLOCATED], changed(ALLOCATED, offset=1), Invariant.ONE_ADDRESS),
    ([POOLS, ACQUIRED], changed(ALLOCATED, pool="web"), Invariant.BLOCK_POOL),
    ([POOLS, ACQUIRED], BlockReleased(1, BLOCK, "web"), Invariant.BLOCK_POOL),
    ([POOLS, ACQUIRED, ALLOCATED], changed(RELEASED, pool="web"), Invariant.BLOCK_POOL),
    ([POOLS, ACQUIRED], RELEASED, Invariant.RELEASE),
    ([POOLS, ACQUIRED, ATTACHED], changed(ALLOCATED, container_id="c1"), Invariant.ONE_HOLDER),
    ([POOLS, ACQUIRED, ALLOCATED], changed(ATTACHED, offset=1), Invariant.ONE_ADDRESS),
    ([POOLS, ACQUIRED, ATTACHED, RELEASED], RELEASED, Invariant.RELEASE),
    ([POOLS, ACQUIRED, ALLOCATED, RELEASED], RELEASED, Invariant.RELEASE),
    ([POOLS, ACQUIRED, ALLOCATED], changed(RELEASED, container_id="c1"), Invariant.RELEASE),
    ([POOLS, ACQUIRED, ALLOCATED], changed(RELEASED, offset=1), Invariant.RELEASE),
    ([POOLS, ACQUIRED, ALLOCATED], changed(RELEASED, block=b"\xff"), Invariant.RELEASE),
    ([POOLS, ACQUIRED, ALLOCATED], changed(RELEASED, pod_name="web-1"), Invariant.RELEASE),
    ([POOLS, ACQUIRED, ALLOCATED], changed(RELEASED, pod_namespace="web"), Invariant.RELEASE),
    ([POOLS, ACQUIRED, ALLOCATED], BlockReleased(3, BLOCK, "default"), Invariant.EMPTY),
    ([POOLS], SnapshotTaken(1, 2, bytes(16), 0), Invariant.PAST),
    ([POOLS], JournalCompacted(1, 2, 1, 1, 1), Invariant.PAST),
    ([POOLS], HistoryPruned(1, 7, 1, 1, "delete"), Invariant.PAST),
    ([POOLS], SegmentsIndexed(1, {1: bytes(16), 2: bytes(16)}), Invariant.PAST),
]


@pytest.mark.parametrize(("before", "event", "invariant"), BROKEN)
def test_what_breaks_an_invariant_is_found(
    before: list[Any], event: Any, invariant: Invariant
) -> None:
    """The event, its sequence and the invariant are named; the events before it are fine."""
    checker = checked(*before)

    with pytest.raises(BrokenInvariantError) as broken:
        checker.check(event)

    assert (len(before) + 1, event, invariant) == (
        broken.value.sequence,
        broken.value.event,
        broken.value.invariant,
    )


def test_every_invariant_has_a_history_that_breaks_it() -> None:
    """None of them is there for show; two are proven below."""
    proven = {invariant for _, _, invariant in BROKEN}

    assert set(Invariant) == proven | {Invariant.SNAPSHOT, Invariant.PROJECTION}


@pytest.mark.parametrize("event", [ATTACHED, NodeBooted(2, "boot")])
def test_networks_and_boots_are_in_the_books(event: Any) -> None:
    """They agree with a projection of the same events; one that missed this event went astray."""
    checker = checked(POOLS, ACQUIRED, event)
    checker.compare(fold([POOLS, ACQUIRED, event]))

    with pytest.raises(BrokenInvariantError, match="the projection agrees"):
        checker.compare(fold([POOLS, ACQUIRED, DaemonStarted(2, "0", "node", "boot")]))


@pytest.mark.parametrize("same", [True, False])
def test_a_snapshot_must_have_the_digest_of_the_state(*, same: bool) -> None:
    """The record of a snapshot is compared with the state at its sequence, not at its own."""
    digest = bytes.fromhex(fold([POOLS, ACQUIRED]).digest())
    checker = checked(POOLS, ACQUIRED, ALLOCATED)
    checker.digests[2] = digest if same else bytes(16)
    event = SnapshotTaken(2, 2, digest, 0)

    if same:
        checker.check(event)
        return
    with pytest.raises(BrokenInvariantError, match="a snapshot has the digest"):
        checker.check(event)


@given(histories)
def test_a_true_history_breaks_nothing(events: list[Any]) -> None:
    """The checker passes it, and its books agree with the projection."""
    checked(*events).compare(fold(events))


@given(histories, st.data())
def test_the_books_can_begin_with_any_state(events: list[Any], data: st.DataObject) -> None:
    """From a snapshot on, the checker comes to the same books."""
    cut = data.draw(st.integers(0, len(events)))
    checker = Checker()
    checker.begin(fold(events[:cut]))
    for event in events[cut:]:
        checker.check(event)

    checker.compare(fold(events))


@pytest.mark.parametrize(
    "events",
    [
        [POOLS],
        [POOLS, ACQUIRED],
        [POOLS, ACQUIRED, changed(ALLOCATED, offset=1)],
        [POOLS, ACQUIRED, ATTACHED],
        [POOLS, ACQUIRED, ALLOCATED, NodeBooted(2, "boot")],
    ],
)
def test_a_projection_that_went_astray_is_found(events: list[Any]) -> None:
    """The books are compared with the projection's, not only with themselves."""
    with pytest.raises(BrokenInvariantError, match="the projection agrees"):
        checked(POOLS, ACQUIRED, ALLOCATED).compare(fold(events))


@given(histories, st.data())
def test_an_event_that_is_left_out_is_noticed(events: list[Any], data: st.DataObject) -> None:
    """Without an allocation, its release stands alone; the other way round the container has two.

    Or nothing of the kind follows, and the books differ from those of the whole history.
    """
    places = [
        index
        for index, event in enumerate(events)
        if isinstance(event, AddressAllocated | AddressReleased)
    ]
    if not places:
        return
    cut = data.draw(st.sampled_from(places))

    with pytest.raises(BrokenInvariantError):
        checked(*events[:cut], *events[cut + 1 :]).compare(fold(events))
