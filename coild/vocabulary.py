"""The vocabulary as the journal package takes it: for the daemon and every tool.

Here the journal, which knows nothing of addresses, meets what does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from coild.rules.addresses import BITS
from coild.rules.events import (
    OPERATOR,
    RECOVERY,
    SCHEMA,
    AddressAllocated,
    AddressReleased,
    AttachmentAllocated,
    BlockAcquired,
    BlockReleased,
    Event,
    JournalRepaired,
    SegmentsIndexed,
    SnapshotTaken,
)
from journal import Keys, Recovered, SetAside, SnapshotRecord, Vocabulary

_decode = msgspec.msgpack.Decoder(Event).decode
_NONE: Mapping[int, bytes] = MappingProxyType({})
_OF_ADDRESS = {AddressAllocated, AttachmentAllocated, AddressReleased}


def address_key(version: int, address: int) -> bytes:
    """The key of an address's events in the indexes."""
    return b"a" + address.to_bytes(BITS[version] // 8, "big")


def container_key(container_id: str) -> bytes:
    """The key of a container's events in the indexes."""
    return b"c" + container_id.encode()


def pod_key(namespace: str, name: str) -> bytes:
    """The key of a pod's events in the indexes."""
    return b"p" + f"{namespace}/{name}".encode()


def _keys_of(event: Any) -> Iterable[bytes]:
    if isinstance(event, AddressAllocated | AddressReleased):
        block = event.block
        address = int.from_bytes(block[:-1], "big") + event.offset
        return (
            b"a" + address.to_bytes(len(block) - 1, "big"),
            container_key(event.container_id),
            pod_key(event.pod_namespace, event.pod_name),
        )
    if isinstance(event, BlockAcquired | BlockReleased):
        return (b"b" + event.block,)
    return ()


def _matcher(key: bytes) -> Callable[[Any], bool]:
    kind, rest = key[:1], key[1:]
    if kind == b"c":
        container_id = rest.decode()
        return lambda event: type(event) in _OF_ADDRESS and event.container_id == container_id
    if kind == b"p":
        namespace, _, name = rest.decode().partition("/")
        return lambda event: (
            type(event) in _OF_ADDRESS
            and event.pod_name == name
            and event.pod_namespace == namespace
        )
    if kind == b"a":
        address, size = int.from_bytes(rest, "big"), len(rest)
        return lambda event: (
            type(event) in _OF_ADDRESS
            and len(event.block) == size + 1
            and int.from_bytes(event.block[:size], "big") + event.offset == address
        )
    return lambda event: key in _keys_of(event)


def _digests_of(event: Any) -> Mapping[int, bytes]:
    return event.indexes if type(event) is SegmentsIndexed else _NONE


#: How events are found: by address, container, pod, and the coming and going of blocks by block.
KEYS = Keys(_keys_of, version=1, matcher=_matcher, digests_of=_digests_of)


def record_of(event: Any) -> SnapshotRecord | None:
    """The record of a snapshot that an event is, if it is one."""
    if type(event) is SnapshotTaken:
        return SnapshotRecord(event.sequence, event.digest)
    return None


VOCABULARY = Vocabulary(schema=SCHEMA, event_type=Event, keys=KEYS, record_of=record_of)


def records_of(recovered: Recovered, clock: Callable[[], int]) -> Iterator[Event]:
    """The events by which a journal tells of its repairs, in the order that it wants them."""
    for aside in recovered.set_aside:
        yield repaired(aside, clock())
    for data in recovered.again:
        event = _decode(data)
        yield msgspec.structs.replace(event, time=clock())


def repaired(aside: SetAside, time: int) -> JournalRepaired:
    """The event that says what a repair set aside."""
    by = OPERATOR if aside.ordered else RECOVERY
    return JournalRepaired(time, aside.file, aside.offset, aside.size, aside.kept, aside.reason, by)
