"""Memory stays bounded whatever clients do, and others are served beside them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import msgspec
import pytest

from coild.rules.limits import BODY_BYTES_MAX, BUDGET_BYTES, COLLECT_BYTES_MAX
from tests.bench.populate import POOL, populate
from tests.kits.daemon.memory import (
    CLIENTS,
    GET_STATUS,
    LONG_LIST,
    MIB,
    Clients,
    deaf,
    forget_most_bytes,
    most_bytes,
    push,
)
from tests.kits.daemon.process import Daemon, wait_for
from tests.kits.daemon.wire import address_of, connect, error_of, parse_answers, request_bytes

_HELD = 16_384
#: The daemon with so many addresses is below 90 MiB, and its budget comes on top; an allocator's
#: gaps after other tests do, too. Without a budget it would be gigabytes.
_BOUND_BYTES = 90 * MIB + 2 * BUDGET_BYTES


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A coild with many addresses held."""
    data_dir = tmp_path_factory.mktemp("full") / "data"
    populate(data_dir / "journal", _HELD)
    with Daemon(data_dir, f"--pool=default={POOL}") as running:
        yield running


@pytest.mark.parametrize("clients", CLIENTS.values(), ids=CLIENTS)
def test_memory_is_bounded(full: Daemon, clients: Clients) -> None:
    """However many ask for much, or send much, and never come to an end."""
    forget_most_bytes(full)
    with deaf(full, clients.number, clients.data) as socks:
        for _ in range(8):
            push(socks, clients.more)
            # Another is served beside them.
            address = full.allocate("beside").json()["address"]

            assert address == address_of(full.release("beside"))

        assert most_bytes(full) < _BOUND_BYTES
    # What they kept is free again.
    body = msgspec.json.encode({"sequence": 0, "valid": ["c" * 64] * 200_000})
    wait_for(lambda: full.client.post("/gc", content=body).status_code in {200, 409}, "room")
    assert full.client.get("/status").status_code == 200


def test_one_too_many_is_503_and_told_when_to_ask_again(full: Daemon) -> None:
    """Beyond the budget a long request is refused with Retry-After; a short one never is."""
    with deaf(full, 40, LONG_LIST) as socks:
        refused: list[bytes] = []

        def is_refused() -> bool:
            push(socks, b"a" * MIB)
            for sock in socks:
                with contextlib.suppress(BlockingIOError, ConnectionResetError):
                    refused.append(sock.recv(65536))
            return any(refused)

        wait_for(is_refused, "a refusal")
        short = full.client.get("/ip/default/web-0/none")
    answer = next(answers[0] for data in refused if (answers := parse_answers(data)))

    assert "try again" in error_of(answer, 503)
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["connection"] == "close"
    assert short.status_code == 404


def test_those_who_ask_together_see_what_was_answered_before(full: Daemon) -> None:
    """An answer that is shared shows what its asker could know of."""
    with deaf(full, 20, GET_STATUS):
        for number in range(5):
            full.allocate(f"new-{number}")

            assert f"new-{number}" in full.status()["pods"]
    for number in range(5):
        full.release(f"new-{number}")

        assert f"new-{number}" not in full.status()["pods"]


@pytest.mark.parametrize(
    ("path", "size"),
    [("/ip", BODY_BYTES_MAX + 1), ("/ip", 20 * MIB), ("/gc", COLLECT_BYTES_MAX + 1)],
)
def test_a_body_too_large_is_answered_not_reset(full: Daemon, path: str, size: int) -> None:
    """Who sends all of it before reading finds 413, not a connection that was reset."""
    with connect((full.host, full.port)) as sock:
        sock.sendall(request_bytes("POST", path, b" " * size))
        received = b""
        while more := sock.recv(65536):
            received += more
    (answer,) = parse_answers(received)

    assert "too large" in error_of(answer, 413)
