"""Every kind of event is known wherever kinds are told apart: on disk, in a replay, to people."""

# expected == actual

from __future__ import annotations

import contextlib
from typing import Any, get_args

import msgspec
import pytest

from coild.audit.diff import effect
from coild.rules import events
from coild.rules.addresses import Subnet
from coild.rules.events import Event
from coild.rules.holding import InconsistentEventError
from coild.rules.projection import Projection
from tests.kits.daemon.service import decode_event
from tools.replay.text import event_record, event_text

KINDS = [
    kind
    for kind in vars(events).values()
    if isinstance(kind, type)
    and issubclass(kind, msgspec.Struct)
    and kind.__struct_config__.tag is not None
]
_VALUES: dict[Any, Any] = {int: 1, str: "words", bytes: Subnet.parse("10.0.0.8/29").key}


def sample(kind: type[msgspec.Struct]) -> Any:
    """An event of this kind; what is neither number, text nor bytes is empty."""
    required = [field for field in msgspec.structs.fields(kind) if field.required]
    return kind(*(_VALUES.get(field.type, {}) for field in required))


def test_every_kind_is_an_event() -> None:
    """Of a kind that is not in `Event`, nothing could be read again."""
    assert set(KINDS) == set(get_args(Event)), "a struct with a tag belongs in `Event`"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_as_it_was_written(kind: type[msgspec.Struct]) -> None:
    """It goes through the bytes of the journal."""
    assert sample(kind) == decode_event(msgspec.msgpack.encode(sample(kind)))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_replayed(kind: type[msgspec.Struct]) -> None:
    """The projection has a case for it; a daemon that journals any other does not start again."""
    # It may contradict the events before it: there are none.
    with contextlib.suppress(InconsistentEventError):
        Projection().apply(sample(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_shown(kind: type[msgspec.Struct]) -> None:
    """`coild-replay --step` shows all its fields, as text and as JSON, and its effect."""
    event = sample(kind)
    record = event_record(event)
    fields = {name.replace("_", "-") for name in kind.__struct_fields__}

    assert {"type", *fields} == record.keys()
    assert msgspec.json.encode(record)
    assert event_text(event).startswith(kind.__name__)
    assert isinstance(effect(Projection(), event), list)
