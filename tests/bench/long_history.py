"""A long journal, written as the daemon would but without its flushes: for what reads it."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import msgspec

from coild.rules.addresses import Pool, Subnet
from coild.rules.events import (
    REQUESTED,
    SCHEMA,
    AddressAllocated,
    AddressReleased,
    BlockAcquired,
    DaemonStarted,
)
from coild.rules.pool_events import pools_changed
from journal.write.recovery import recover
from journal.write.segment_writer import Log
from journal.write.spare import Spare
from tests.bench.populate import POOL
from tests.kits.journal import history
from tests.kits.journal.building import opened
from tests.kits.journal.disks import FS

SEGMENT_BYTES = 16 << 20
_PER_FRAME = 32
_START = 1_790_000_000 * 10**9
#: Between two events: ten million of them are a bit more than a day.
_STEP = 10**7


class _Held(msgspec.Struct):
    container_id: str
    pod_name: str
    block: bytes
    offset: int


def write(directory: Path, events: int, held: int) -> _Held:
    """A journal of about so many events with `held` addresses held; one of those that are."""
    directory.mkdir(parents=True)
    clock = iter(range(_START, 2**63, _STEP)).__next__
    recovered = recover(FS, directory, schema=SCHEMA, segment_bytes=SEGMENT_BYTES, now=_START)
    log = Log(FS, recovered, Spare(FS, directory, SEGMENT_BYTES), SCHEMA, clock)
    encode = msgspec.msgpack.Encoder().encode
    pending: list[bytes] = []

    def put(event: msgspec.Struct) -> None:
        pending.append(encode(event))
        if len(pending) == _PER_FRAME:
            log.append(pending)
            pending.clear()

    pool = Pool((Subnet.parse(POOL),), 5)
    put(pools_changed(clock(), {"default": pool}))
    put(DaemonStarted(clock(), "0", "node", ""))
    base = pool.subnets[0].base
    free: deque[tuple[bytes, int]] = deque()
    for number in range(-(-held // 32)):
        key = Subnet(4, base + 32 * number, 27).key
        put(BlockAcquired(clock(), key, "default"))
        free.extend((key, offset) for offset in range(32))
    holding: deque[_Held] = deque()
    serial = 0
    while log.next_sequence + len(pending) <= events:
        if len(holding) >= held:
            gone = holding.popleft()
            put(
                AddressReleased(
                    clock(),
                    gone.block,
                    gone.offset,
                    gone.container_id,
                    "default",
                    gone.pod_name,
                    "default",
                    REQUESTED,
                )
            )
            free.append((gone.block, gone.offset))
        block, offset = free.popleft()
        serial += 1
        new = _Held(f"{serial * 2654435761 % 2**64:032x}", f"web-{serial % 5000}", block, offset)
        put(
            AddressAllocated(
                clock(), block, offset, new.container_id, "default", new.pod_name, "default"
            )
        )
        holding.append(new)
    if pending:
        log.append(pending)
    log.mark()
    log.close()
    return holding[len(holding) // 2]


def compact(directory: Path) -> None:
    """Archive all sealed segments, with their indexes and a snapshot."""
    with opened(
        directory,
        segment_bytes=SEGMENT_BYTES,
        schema=SCHEMA,
        clock=lambda: _START,
        restore=lambda _: None,
    ) as journal:
        history.compact(directory, journal, time=_START)
