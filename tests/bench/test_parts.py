"""The parts, timed by pytest-benchmark; `python -m tests.bench` makes ratios of them.

Each benchmark does `extra_info["operations"]` operations a round.
"""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop
from pytest_benchmark.fixture import BenchmarkFixture

from coild.rules.addresses import Pool, Subnet
from coild.rules.allocator import Allocator
from coild.rules.events import (
    SCHEMA,
    AddressAllocated,
    AddressReleased,
    BlockAcquired,
    Event,
)
from coild.rules.pool_events import pools_changed
from coild.rules.projection import Projection
from journal import Journal
from journal.format.codec import (
    FRAME_BYTES_MAX,
    GENESIS_DIGEST,
    SEGMENT_HEADER_BYTES,
    SegmentHeader,
    encode_frame,
)
from journal.format.scan import scan

pytestmark = pytest.mark.bench

_EVENTS = 96_000
_APPENDS = 1000
_BLOCK_SIZE = 5
_DECODER = msgspec.msgpack.Decoder(list[Event])


def _history(count: int) -> list[Event]:
    """`count` events like a busy node's: blocks, then allocations and releases with 100 held."""
    subnet = Subnet.parse("10.64.0.0/16")
    events: list[Event] = [pools_changed(0, {"default": Pool((subnet,), _BLOCK_SIZE)})]
    blocks = [Subnet(4, subnet.base + 32 * i, 32 - _BLOCK_SIZE).key for i in range(200 // 32 + 1)]
    events += [BlockAcquired(0, key, "default") for key in blocks]
    time = 0
    for i in range(count):
        # Slots in a ring: each is released 100 allocations after it was taken, and reused in turn.
        for number, allocate in ((i, True), (i - 100, False)):
            if number < 0:
                continue
            time += 1_000_000
            slot = number % 200
            key, offset = blocks[slot // 32], slot % 32
            common = (time, key, offset, f"{number:064x}")
            pod = ("default", f"deployment-{number % 997}-x7k2p")
            events.append(
                AddressAllocated(*common, *pod, "default")
                if allocate
                else AddressReleased(*common, *pod, "default", "requested")
            )
            if len(events) == count:
                return events
    return events


def _segment(events: list[Event], per_frame: int) -> tuple[bytes, SegmentHeader]:
    """The events as a segment of frames of `per_frame` events."""
    header = SegmentHeader(
        journal_id=bytes(16),
        segment_id=bytes(16),
        schema=SCHEMA,
        segment_bytes=0,
        frame_bytes_max=FRAME_BYTES_MAX,
        first_sequence=1,
        previous_sequence=0,
        previous_digest=GENESIS_DIGEST,
        created=0,
    )
    encode = msgspec.msgpack.Encoder().encode
    frames = [bytes(SEGMENT_HEADER_BYTES)]
    offset, digest = SEGMENT_HEADER_BYTES, GENESIS_DIGEST
    for start in range(0, len(events), per_frame):
        frame, digest = encode_frame(
            [encode(event) for event in events[start : start + per_frame]],
            seed=header.seed,
            offset=offset,
            first_sequence=start + 1,
            time=start,
            previous_digest=digest,
        )
        frames.append(frame)
        offset += len(frame)
    return b"".join(frames), msgspec.structs.replace(header, segment_bytes=offset)


@pytest.mark.parametrize("per_frame", [32, 1])
def test_replay(benchmark: BenchmarkFixture, per_frame: int) -> None:
    """Events a second from bytes to state, by the loop that a start runs."""
    segment, header = _segment(_history(_EVENTS), per_frame)
    benchmark.extra_info["operations"] = _EVENTS

    def replay() -> None:
        state = Projection()
        scan(segment, header, _DECODER, state.apply_all)
        assert state.sequence == _EVENTS

    benchmark.pedantic(replay, rounds=15, warmup_rounds=2)


@pytest.mark.parametrize("per_frame", [32, 1])
def test_decode(benchmark: BenchmarkFixture, per_frame: int) -> None:
    """The bound of any replay: the same bytes, each frame's events only decoded."""
    events = _history(_EVENTS)
    bodies = [
        msgspec.msgpack.encode(events[i : i + per_frame]) for i in range(0, _EVENTS, per_frame)
    ]
    benchmark.extra_info["operations"] = _EVENTS

    def decode() -> None:
        for body in bodies:
            _DECODER.decode(body)

    benchmark.pedantic(decode, rounds=15, warmup_rounds=2)


def test_journal_appends(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """Durable appends one by one, through the journal as the daemon uses it."""
    benchmark.extra_info["operations"] = _APPENDS
    event = _history(30)[-1]

    async def append(journal: Journal) -> None:
        for _ in range(_APPENDS):
            await journal.durable(journal.append(event))
            # Requests come in turns of the loop, not in one.
            await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        journal = Journal.open(tmp_path / "journal", Event, schema=SCHEMA, replay=_ignore)

        async def start() -> None:
            journal.start()

        runner.run(start())
        benchmark.pedantic(lambda: runner.run(append(journal)), rounds=7, warmup_rounds=1)
        runner.run(journal.close())


def test_sqlite_commits(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """Durable commits one by one of the same bytes into SQLite."""
    benchmark.extra_info["operations"] = _APPENDS
    data = msgspec.msgpack.encode(_history(30)[-1])
    connection = sqlite3.connect(tmp_path / "journal.db", isolation_level=None)
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma synchronous = full")
    connection.execute("create table events (sequence integer primary key, event blob)")

    def commit() -> None:
        for _ in range(_APPENDS):
            connection.execute("insert into events (event) values (?)", (data,))

    benchmark.pedantic(commit, rounds=7, warmup_rounds=1)
    connection.close()


@pytest.mark.parametrize("held", [100, 1_000_000])
def test_choose(benchmark: BenchmarkFixture, held: int) -> None:
    """Choosing, taking and releasing an address while `held` are held."""
    state = Projection()
    subnet = Subnet.parse("10.0.0.0/8")
    state.apply(pools_changed(0, {"default": Pool((subnet,), _BLOCK_SIZE)}))
    for i in range(held):
        if i % 32 == 0:
            key = Subnet(4, subnet.base + i, 32 - _BLOCK_SIZE).key
            state.apply(BlockAcquired(0, key, "default"))
        state.apply(AddressAllocated(0, key, i % 32, str(i), "default", "web", "default"))
    spare = Subnet(4, subnet.base + (held + 31) // 32 * 32, 32 - _BLOCK_SIZE).key
    state.apply(BlockAcquired(0, spare, "default"))
    allocator = Allocator(state, reuse_after=0)
    benchmark.extra_info["operations"] = 1000

    clock = itertools.count(1)

    def churn() -> None:
        for time in itertools.islice(clock, 1000):
            block = allocator.choose("default", 4, time).block
            assert block is not None
            offset = block.next_offset
            for event in (
                AddressAllocated(time, block.key, offset, "x", "default", "web", "default"),
                AddressReleased(time, block.key, offset, "x", "default", "web", "default", ""),
            ):
                state.apply(event)
                allocator.observe(event)

    benchmark.pedantic(churn, rounds=30, warmup_rounds=2)


def _ignore(_: list[Any]) -> None:
    """The journal is new."""
