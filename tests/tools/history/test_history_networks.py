"""`coild-history` of addresses in CNI networks, and why they were released."""

from __future__ import annotations

from pathlib import Path

import pytest

from coild.rules.events import COLLECTED, REBOOTED, REQUESTED, NodeBooted
from tests.kits.journal.history import (
    EPOCH,
    NAME,
    allocated,
    ask,
    beginning,
    compact,
    cycles,
    end,
    follower,
    next_row,
    released,
    write,
    writing,
)

#: Long names, so that there are several segments.
ATTACHED = allocated(0, "attached", 0, pod=f"a-{NAME}", network="pods")
COLLECTED_ONE = allocated(1, "collected", 2, network="storage")
HELD = allocated(2, "held", 3, pod=f"b-{NAME}", network="pods")
EVENTS = [
    *beginning(),
    *(ATTACHED, COLLECTED_ONE, HELD),
    *cycles(12),
    released(3000, COLLECTED_ONE, COLLECTED),
    *cycles(12, start=40),
    released(6000, ATTACHED, REBOOTED),
    NodeBooted(EPOCH + 6001, "boot"),
    *cycles(12, start=70),
]


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize(
    ("question", "expected"),
    [
        (["10.64.0.0"], [("attached", REBOOTED)]),
        (["10.64.0.2"], [("collected", COLLECTED)]),
        (["--container", "attached"], [("attached", REBOOTED)]),
        (["--pod", f"default/b-{NAME}"], [("held", None)]),
        (["--block", "10.64.0.2/31"], [("collected", COLLECTED), ("held", None)]),
        (["--held"], [("held", None)]),
        (["--container", "c0"], [("c0", REQUESTED)]),
    ],
)
def test_attachments_are_found_in_the_archive(
    directory: Path, question: list[str], expected: list[tuple[str, str | None]], *, indexed: bool
) -> None:
    """By its indexes or without, as by reading everything; the rows say why it was released."""
    write(directory, EVENTS)
    assert compact(directory).removed > 4
    if not indexed:
        for path in directory.glob("**/*.idx"):
            path.unlink()
    everything = {row["container-id"]: row for row in ask(directory)}
    rows = ask(directory, *question)

    assert expected == [(row["container-id"], row["reason"]) for row in rows]
    assert [everything[container_id] for container_id, _ in expected] == rows


def test_a_follower_shows_attachments(directory: Path) -> None:
    """When one is allocated; and, with its allocation looked up in the archive, when released."""
    write(directory, EVENTS)
    compact(directory)
    process = follower(directory, "-n", "1", "-o", "json")
    try:
        assert "c81" == next_row(process)["container-id"]
        with writing(directory) as journal:
            late = allocated(20_000, "late", 0, network="pods")
            journal.append([late])
            journal.write([released(20_001, HELD, COLLECTED)])
            rows = [next_row(process), next_row(process)]
    finally:
        end(process)

    assert ["late", "held"] == [row["container-id"] for row in rows]
    assert [None, COLLECTED] == [row["reason"] for row in rows]
    assert EVENTS.index(HELD) + 1 == rows[1]["allocated-seq"]
