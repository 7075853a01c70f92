"""Random histories that no rule forbids, and journals that have them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from coild.rules.addresses import Subnet
from coild.rules.events import (
    COLLECTED,
    REBOOTED,
    REQUESTED,
    AddressAllocated,
    AddressReleased,
    AttachmentAllocated,
    BlockAcquired,
    BlockReleased,
    DaemonStarted,
    NodeBooted,
)
from coild.rules.pool_events import pools_changed
from coild.rules.projection import Projection
from tests.kits.daemon.service import pool

#: Nine days after the epoch, and a bit, so that no time is zero.
BEGAN = 777_777_000_000_000

CONFIGURATIONS = (
    {"default": pool(2, "10.0.0.0/27"), "web": pool(3, "fd00:48::/120")},
    {"default": pool(2, "10.0.0.0/27", "10.0.1.0/28")},
    {"default": pool(1, "10.0.0.0/28"), "web": pool(3, "10.0.4.0/26")},
)


class _Model:
    """The state from which a history goes on: blocks with their pool and their addresses."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.time = BEGAN
        self.pools = CONFIGURATIONS[0]
        self.blocks: dict[bytes, str] = {}
        self.held: dict[str, AddressAllocated] = {}
        self.change_pools(0)

    def change_pools(self, number: int) -> None:
        self.pools = CONFIGURATIONS[number % len(CONFIGURATIONS)]
        self.events.append(pools_changed(self.time, self.pools))

    def acquire(self, number: int) -> None:
        names = sorted(self.pools)
        name = names[number % len(names)]
        subnets = self.pools[name].subnets
        subnet = subnets[number // len(names) % len(subnets)]
        prefix = self.pools[name].block_prefix(subnet.version)
        size = 1 << self.pools[name].block_size
        base = subnet.base + number % (subnet.size // size) * size
        block = Subnet(subnet.version, base, prefix)
        if not any(block.overlaps(Subnet.from_key(other)) for other in self.blocks):
            self.blocks[block.key] = name
            self.events.append(BlockAcquired(self.time, block.key, name))

    def allocate(self, number: int) -> None:
        taken = {(event.block, event.offset) for event in self.held.values()}
        free = [
            (key, offset)
            for key in self.blocks
            for offset in range(Subnet.from_key(key).size)
            if (key, offset) not in taken
        ]
        container_id = f"c{number % 12}"
        if free and container_id not in self.held:
            key, offset = free[number % min(len(free), 5)]
            pod = f"pod-{number % 3}"
            what = (self.time, key, offset, container_id, "default", pod, self.blocks[key])
            network = ("", "", "pods", "storage")[number % 4]
            event = AttachmentAllocated(*what, network) if network else AddressAllocated(*what)
            self.held[container_id] = event
            self.events.append(event)

    def release(self, number: int) -> None:
        if self.held:
            held = self.held.pop(sorted(self.held)[number % len(self.held)])
            self.events.append(
                AddressReleased(
                    self.time,
                    held.block,
                    held.offset,
                    held.container_id,
                    held.pod_namespace,
                    held.pod_name,
                    held.pool,
                    (REQUESTED, COLLECTED, REBOOTED)[number % 3],
                )
            )

    def give_back(self, number: int) -> None:
        used = {event.block for event in self.held.values()}
        empty = [key for key in self.blocks if key not in used]
        if empty:
            key = empty[number % len(empty)]
            self.events.append(BlockReleased(self.time, key, self.blocks.pop(key)))

    def start(self, number: int) -> None:
        self.events.append(DaemonStarted(self.time, "0", f"node-{number % 2}", "boot"))

    def boot(self, number: int) -> None:
        self.events.append(NodeBooted(self.time, f"boot-{number % 2}", (None, 0, 5)[number % 3]))


_STEPS = (
    *(_Model.allocate,) * 5,
    *(_Model.release,) * 4,
    *(_Model.acquire,) * 2,
    _Model.give_back,
    _Model.change_pools,
    _Model.start,
    _Model.boot,
)


def history(seed: int, steps: int) -> list[Any]:
    """A consistent history; times stand still now and then, and never run backwards."""
    model = _Model()
    number = seed
    for _ in range(steps):
        # As random does, but the same on every machine and version.
        number = int.from_bytes(hashlib.blake2b(b"%d" % number, digest_size=8).digest(), "big")
        model.time += number % 3 * 1_000_000_000
        _STEPS[number // 7 % len(_STEPS)](model, number // 101)
    return model.events


histories: st.SearchStrategy[list[Any]] = st.builds(
    history, st.integers(0, 1 << 32), st.integers(0, 120)
)


def fold(events: Sequence[Any]) -> Projection:
    """The state after these events."""
    state = Projection()
    state.apply_all(events)
    return state
