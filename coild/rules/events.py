"""The vocabulary of the journal: every fact about addresses that can be written down.

Facts are in the past tense and complete by themselves, so that history can be read without state.
`time` is in ns since the epoch and never runs backwards. A block is its network address and prefix
length as bytes (`addresses.Subnet.key`); an address is a block and an offset into it.

On disk an event is a msgpack array: tag, then the fields in the order written here. The rules for
changing anything:

- fields are only ever added, at the end, with a default;
- a changed meaning is a new class with a new tag;
- with either, `SCHEMA` grows by one, so that an older program refuses what it cannot know.
"""

from __future__ import annotations

import msgspec

#: The number of this vocabulary; written into each segment's header.
SCHEMA = 6

#: Why an address was released: its container asked, the runtime does not know the container any
#: more, or the node has been booted since.
REQUESTED, COLLECTED, REBOOTED = "requested", "garbage-collected", "rebooted"
#: Or it was the node's own, as the gateway of pods, and no pod needs it any more.
UNNEEDED = "not-needed"

#: Who repaired a journal.
RECOVERY, OPERATOR = "recovery", "operator"


class PoolSpec(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A pool as journalled: its subnets as keys, and the exponent of its block size."""

    subnets: list[bytes]
    block_size: int


class _Fact(msgspec.Struct, array_like=True, frozen=True, gc=False):
    time: int


class _OfBlock(_Fact, frozen=True):
    block: bytes
    pool: str


class _OfAddress(_Fact, frozen=True):
    block: bytes
    offset: int
    container_id: str
    pod_namespace: str
    pod_name: str
    pool: str


class OfJournal(_Fact, frozen=True):
    """A fact about the journal and its files, not about addresses."""


class PoolsChanged(_Fact, tag=1, frozen=True, gc=True):
    """From now on these pools are in force, and no other."""

    pools: dict[str, PoolSpec]


class ApartSpec(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The addresses that a pool sets apart, as in `addresses.Pool`; spans are `Span.key`s."""

    reserved: list[bytes]
    reserve_edges: bool
    gateways: list[bytes]
    unusable: list[bytes]


class ReservingPoolsChanged(PoolsChanged, tag=14, frozen=True):
    """As PoolsChanged, where pools set addresses apart: these do, by name."""

    apart: dict[str, ApartSpec]


class BlockAcquired(_OfBlock, tag=2, frozen=True):
    """The node holds this block of the pool."""


class BlockReleased(_OfBlock, tag=3, frozen=True):
    """The node gave this block, which had no address held, back to the pool."""


class AddressAllocated(_OfAddress, tag=4, frozen=True):
    """The container of the pod holds the address."""


class AttachmentAllocated(AddressAllocated, tag=13, frozen=True):
    """As AddressAllocated, for the container's attachment to the CNI network of this name."""

    network: str


class AddressReleased(_OfAddress, tag=5, frozen=True):
    """The container of the pod holds the address no more; `reason` is one of those above."""

    reason: str


class DaemonStarted(_Fact, tag=6, frozen=True):
    """A daemon of this version begins to serve. The boot ID is the kernel's."""

    version: str
    node_name: str
    boot_id: str


class NodeBooted(_Fact, tag=12, frozen=True):
    """The node runs since a boot of this ID (the kernel's); what was held before is dealt with.

    `init_start` is when PID 1 started, as the container runtime sees it, in ns since the kernel
    did; None if that was not known.
    """

    boot_id: str
    init_start: int | None = None


class DaemonStopped(_Fact, tag=7, frozen=True):
    """The daemon ended in good order."""

    version: str
    node_name: str


class JournalRepaired(OfJournal, tag=8, frozen=True):
    """A part of a file was set aside; by recovery, the unacknowledged end of a segment.

    `size` bytes from `offset` of the file `segment` are kept in the file `kept` beside it. `reason`
    is what was found to be the matter; `by` is OPERATOR if someone ordered it: then more than an
    unfinished write may have gone, whole segments and snapshots too, with one event for each.
    """

    segment: str
    offset: int
    size: int
    kept: str
    reason: str = ""
    by: str = RECOVERY


class SnapshotTaken(OfJournal, tag=9, frozen=True):
    """The state after the event `sequence` was kept. `digest` is that of the state, in bytes."""

    sequence: int
    digest: bytes
    size: int


class JournalCompacted(OfJournal, tag=10, frozen=True):
    """Segments with the events up to `through` were moved to the archive. Sizes are in bytes."""

    through: int
    segments: int
    segment_bytes: int
    archive_bytes: int


class HistoryPruned(OfJournal, tag=11, frozen=True):
    """The events up to `through` are being removed from the archive, by the order `policy`."""

    through: int
    segments: int
    size: int
    policy: str


class SegmentsIndexed(OfJournal, tag=15, frozen=True):
    """Indexes were made from sealed segments: their digests, by the segments' first sequences."""

    indexes: dict[int, bytes]


#: Any event.
Event = (
    AddressAllocated
    | AddressReleased
    | PoolsChanged
    | BlockAcquired
    | BlockReleased
    | DaemonStarted
    | NodeBooted
    | DaemonStopped
    | JournalRepaired
    | SnapshotTaken
    | JournalCompacted
    | HistoryPruned
    | SegmentsIndexed
    | AttachmentAllocated
    | ReservingPoolsChanged
)
