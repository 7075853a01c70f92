"""Journals of address events, and `coild-history` with JSON and text output."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from hypothesis import strategies as st

from coild.rules.addresses import Subnet
from coild.rules.events import (
    COLLECTED,
    REBOOTED,
    REQUESTED,
    SCHEMA,
    AddressAllocated,
    AddressReleased,
    AttachmentAllocated,
    BlockAcquired,
    PoolsChanged,
    PoolSpec,
    SegmentsIndexed,
    SnapshotTaken,
)
from coild.rules.projection import Projection
from coild.vocabulary import VOCABULARY
from journal import index_sealed, prepare, retire
from journal.compact.prepare import sealed_segments
from tests.kits.daemon.process import TIMEOUT_SECONDS, environment
from tests.kits.journal.building import SEGMENT_BYTES, Opened, opened
from tests.kits.journal.disks import FS
from tests.kits.system.tool import records, run_here
from tools.history.cli import main

KEYS = [
    *("address", "pool", "block", "pod-namespace", "pod-name", "container-id"),
    *("allocated-at", "released-at", "allocated-seq", "released-seq", "reason"),
]
BLOCKS = {"default": Subnet.parse("10.64.0.0/30"), "web": Subnet.parse("fd00:64::/126")}
ADDRESSES = [
    *(f"10.64.0.{offset}" for offset in range(4)),
    *(f"fd00:64::{offset or ''}" for offset in range(4)),
]
EPOCH = 1_790_000_000 * 10**9
#: So long that few events fill a segment.
NAME = "web-" + "x" * 1500


def beginning() -> list[Any]:
    """The pools, and a block of each."""
    pools = {name: PoolSpec([block.key], 2) for name, block in BLOCKS.items()}
    return [
        PoolsChanged(EPOCH, pools),
        *(BlockAcquired(EPOCH, block.key, pool) for pool, block in BLOCKS.items()),
    ]


def allocated(
    moment: int,
    container_id: str,
    offset: int,
    *,
    pool: str = "default",
    pod: str = NAME,
    network: str = "",
) -> AddressAllocated:
    """An allocation so many ns after the start of these tests, with or without a CNI network."""
    what = (EPOCH + moment, BLOCKS[pool].key, offset, container_id, "default", pod, pool)
    return AttachmentAllocated(*what, network) if network else AddressAllocated(*what)


def released(moment: int, of: AddressAllocated, reason: str = REQUESTED) -> AddressReleased:
    """The release that ends it."""
    return AddressReleased(
        EPOCH + moment,
        of.block,
        of.offset,
        of.container_id,
        of.pod_namespace,
        of.pod_name,
        of.pool,
        reason,
    )


def cycles(count: int, start: int = 0) -> list[Any]:
    """Allocations of one address, each with its release, by different containers."""
    events: list[Any] = []
    for n in range(start, start + count):
        event = allocated(100 * n, f"c{n}", 1)
        events += (event, released(100 * n + 50, event))
    return events


@st.composite
def histories(draw: st.DrawFn) -> list[Any]:
    """Histories that a node may have, with any free address taken next."""
    events = beginning()
    holding: dict[str, AddressAllocated] = {}
    moment = 0
    for number, gap in draw(
        st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), min_size=1, max_size=60)
    ):
        moment += gap
        container_id = f"c{number}"
        held = holding.pop(container_id, None)
        if held is not None:
            reason = draw(st.sampled_from((REQUESTED, COLLECTED, REBOOTED)))
            events.append(released(moment, held, reason))
            continue
        pool = draw(st.sampled_from(sorted(BLOCKS)))
        taken = {event.offset for event in holding.values() if event.pool == pool}
        free = sorted(set(range(4)) - taken)
        if free:
            offset, network = draw(st.sampled_from(free)), draw(st.sampled_from(("", "pods")))
            event = allocated(moment, container_id, offset, pool=pool, network=network)
            holding[container_id] = event
            events.append(event)
    return events


def writing(
    directory: Path,
    clock: Callable[[], int] = time.time_ns,
    segment_bytes: int = SEGMENT_BYTES,
) -> AbstractContextManager[Opened]:
    """A journal of small segments that is being written, from its snapshot on if it has one."""
    restore = Projection().restore
    return opened(
        directory, schema=SCHEMA, clock=clock, segment_bytes=segment_bytes, restore=restore
    )


def write(
    directory: Path,
    events: Iterable[Any],
    *,
    seals: Collection[int] = (),
    clock: Callable[[], int] = time.time_ns,
) -> None:
    """Continue a journal, or begin one: a frame for each event, and a mark.

    A segment ends with each of the sequences `seals`.
    """
    with writing(directory, clock) as journal:
        for event in events:
            journal.append([event])
            if journal.log.next_sequence - 1 in seals:
                journal.log.seal()
        journal.append([])


class Compacted(NamedTuple):
    """The result of a compaction, and the number of segments that it removed."""

    digest: str = ""
    removed: int = 0


def compact(
    directory: Path,
    journal: Opened | None = None,
    *,
    through: int = 0,
    time: int = EPOCH + 3900,
    recorded: bool = True,
    retired: bool = True,
) -> Compacted:
    """Archive the sealed segments, all or `through` a sequence, and remove them; it may stop early.

    It is on record in the `journal`, which is opened for that if it is not given.
    """
    if not sealed_segments(FS, directory):
        return Compacted()
    through = through or int(max(directory.glob("*.seg")).stem) - 1
    done = prepare(FS, directory, through, VOCABULARY, Projection(), now=EPOCH)
    if recorded:
        digest = bytes.fromhex(done.digest)
        records = [
            SegmentsIndexed(time, done.indexes),
            SnapshotTaken(time, through, digest, done.snapshot_bytes),
        ]
        with nullcontext(journal) if journal else writing(directory) as written:
            written.append(records)
            written.append([])
    return Compacted(done.digest, retire(FS, directory, SCHEMA).segments if retired else 0)


def index(directory: Path) -> None:
    """Make the indexes of all sealed segments, on record in the journal."""
    made = index_sealed(FS, directory, VOCABULARY)
    write(directory, [SegmentsIndexed(EPOCH + 3900, made)])


def ask(directory: Path, *arguments: str) -> list[dict[str, Any]]:
    """The rows of a query, as JSON."""
    rows = records(table(directory, "-o", "json", *arguments))
    assert all(list(row) == KEYS for row in rows)
    return rows


def table(directory: Path, *arguments: str) -> str:
    """The rows of a query, as text; notices go to this process's stderr."""
    done = run_here(main, "--journal", str(directory), *arguments)
    sys.stderr.write(done.stderr)
    assert done.returncode == 0
    return done.stdout


def follower(directory: Path, *arguments: str) -> subprocess.Popen[str]:
    """A `coild-history -f` as a process."""
    return subprocess.Popen(
        [
            *(sys.executable, "-W", "error", "-m", "tools.history"),
            *("--journal", str(directory), "-f", *arguments),
        ],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def next_row(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The next line that a follower writes."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "the follower ended"
    row: dict[str, Any] = msgspec.json.decode(line)
    return row


def end(process: subprocess.Popen[str], number: signal.Signals = signal.SIGINT) -> tuple[int, str]:
    """End a follower with a signal; its exit status and its stderr."""
    process.send_signal(number)
    _, stderr = process.communicate(timeout=TIMEOUT_SECONDS)
    return process.returncode, stderr
