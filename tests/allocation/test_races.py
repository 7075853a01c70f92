"""Many clients at once, and clients that hang up: one winner, nothing leaked."""

from __future__ import annotations

import asyncio
import itertools
import socket
import struct
from collections import Counter
from typing import Any

import pytest

from coild.rules.events import AddressAllocated
from tests.kits.daemon.process import Daemon, fold, status_of, wait_for
from tests.kits.daemon.wire import (
    AsyncConnection,
    allocate_body,
    connect,
    exchange,
    request_bytes,
    target_of,
)

Answer = tuple[int, dict[str, Any]]


def post_of(container_id: str, **more: Any) -> bytes:
    """The request that allocates for a container of pod `p`."""
    return request_bytes("POST", "/ip", allocate_body(container_id, "p", **more))


def delete_of(container_id: str) -> bytes:
    """The request that releases it."""
    return request_bytes("DELETE", target_of(container_id, "p"))


def at_once(daemon: Daemon, requests: list[bytes]) -> list[Answer]:
    """Send each request over a connection of its own, all open before the first is sent."""

    async def send() -> list[Answer]:
        address = (daemon.host, daemon.port)
        connections = [await AsyncConnection.open(address) for _ in requests]
        try:
            return await asyncio.gather(
                *(
                    connection.ask(request)
                    for connection, request in zip(connections, requests, strict=True)
                )
            )
        finally:
            for connection in connections:
                connection.drop()

    return asyncio.run(send())


def assert_sound(daemon: Daemon) -> None:
    """What /status shows is what the journal says, and no address has two holders."""
    events = daemon.events()
    status = daemon.status()

    # Folding raises if an address is allocated twice.
    assert status_of(fold(events)) == status
    assert len(status["pods"]) == len(set(status["pods"].values()))


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_of_identical_posts_one_wins(daemon: Daemon, family: str) -> None:
    """Of 64 identical POSTs at once one is 200, 63 are 409 and name the winner's address."""
    answers = at_once(daemon, [post_of("cid", **{"address-type": family})] * 64)
    address = daemon.status()["pods"]["cid"]

    assert Counter({200: 1, 409: 63}) == Counter(status for status, _ in answers)
    assert all(address in str(body) for _, body in answers)
    assert sum(isinstance(event, AddressAllocated) for _, event in daemon.events()) == 1
    assert_sound(daemon)


def test_of_posts_for_one_container_one_wins(daemon: Daemon) -> None:
    """Of 64 POSTs for one container, of different pods and families, exactly one is 200."""
    requests = [
        request_bytes(
            "POST",
            "/ip",
            allocate_body("cid", f"p{index}", **{"address-type": f"ipv{4 + index % 2 * 2}"}),
        )
        for index in range(64)
    ]
    answers = at_once(daemon, requests)

    assert Counter({200: 1, 409: 63}) == Counter(status for status, _ in answers)
    assert len(daemon.status()["pods"]) == 1
    assert_sound(daemon)


def test_different_containers_get_different_addresses(daemon: Daemon) -> None:
    """Two hundred containers at once get two hundred addresses, from no more blocks than needed."""
    answers = at_once(daemon, [post_of(f"c{index}") for index in range(200)])
    addresses = {body["address"] for status, body in answers if status == 200}

    assert len(addresses) == 200
    assert addresses == set(daemon.status()["pods"].values())
    assert len(daemon.status()["address-blocks"]["default"]) == -(-200 // 32)
    assert_sound(daemon)


def test_the_last_addresses_go_to_as_many_winners(tmp_path_factory: pytest.TempPathFactory) -> None:
    """When 64 containers want 16 addresses, 16 get one each and 48 are told that there is none."""
    data_dir = tmp_path_factory.mktemp("few") / "data"
    with Daemon(data_dir, "--pool=default=10.1.0.0/28", "--block-size=2") as daemon:
        answers = at_once(daemon, [post_of(f"c{index}") for index in range(64)])

        assert Counter({200: 16, 503: 48}) == Counter(status for status, _ in answers)
        assert {f"10.1.0.{n}" for n in range(16)} == set(daemon.status()["pods"].values())
        assert_sound(daemon)


def test_of_identical_deletes_one_releases(daemon: Daemon) -> None:
    """Of 64 identical DELETEs at once exactly one has the address; all are 200."""
    address = daemon.allocate("cid", pod="p").json()["address"]
    answers = at_once(daemon, [delete_of("cid")] * 64)

    assert {200} == {status for status, _ in answers}
    assert Counter({address: 1, "": 63}) == Counter(body["address"] for _, body in answers)
    assert_sound(daemon)


def test_post_against_delete_of_one_container(daemon: Daemon) -> None:
    """POSTs and DELETEs of one container at once take turns: never two holders, never a leak."""

    async def clash() -> list[Answer]:
        address = (daemon.host, daemon.port)
        posts = [await AsyncConnection.open(address) for _ in range(4)]
        deletes = [await AsyncConnection.open(address) for _ in range(4)]
        answers: list[Answer] = []
        for _ in range(100):
            answers += await asyncio.gather(
                *(connection.ask(post_of("cid")) for connection in posts),
                *(connection.ask(delete_of("cid")) for connection in deletes),
            )
        for connection in posts + deletes:
            connection.drop()
        return answers

    answers = asyncio.run(clash())
    allocated = [b["address"] for s, b in answers if s == 200 and "error" not in b and b["address"]]
    # An address is in two answers: of its allocation and of its release, but for the last one.
    counts = Counter(allocated)
    held = daemon.status()["pods"].get("cid")

    assert {200, 409} == {status for status, _ in answers}
    assert {address for address, count in counts.items() if count % 2} == ({held} - {None})
    assert_sound(daemon)


def hang_up(sock: socket.socket, *, reset: bool) -> None:
    """Close a connection, in order or by a reset."""
    if reset:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_clients_that_hang_up_before_the_answer(daemon: Daemon, reset: bool) -> None:  # noqa: FBT001
    """A client that hangs up unanswered leaves a whole allocation or none, and a whole release."""
    address = (daemon.host, daemon.port)
    held = [f"held{index}" for index in range(50)]
    at_once(daemon, [post_of(container_id) for container_id in held])
    wanted = [f"c{index}" for index in range(150)]
    requests = [post_of(container_id) for container_id in wanted]
    requests += [delete_of(container_id) for container_id in held]
    for request in requests:
        sock = connect(address)
        sock.sendall(request)
        hang_up(sock, reset=reset)
    assert_whole(daemon, [*wanted, *held])


def test_a_client_that_ends_its_side_is_answered(daemon: Daemon) -> None:
    """What came before the end is answered, all of it, as `nc -N` needs it; then it is over."""
    place = (daemon.host, daemon.port)
    for number in range(20):
        (answer,) = exchange(place, post_of(f"c{number}"), hang_up=True)
        assert answer.status_code == 200
    get = request_bytes("GET", "/status")
    pipelined = exchange(place, get + post_of("c0") + get, answers=4, hang_up=True)
    cut_off = exchange(place, get + post_of("never")[:-1], answers=2, hang_up=True)
    unknown = exchange(place, request_bytes("GET", "/none"), answers=2, hang_up=True)

    assert [[200, 409, 200], [200], [404]] == [
        [answer.status_code for answer in answers] for answers in (pipelined, cut_off, unknown)
    ]
    assert "never" not in daemon.status()["pods"]
    assert_sound(daemon)


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_clients_that_hang_up_before_the_end(
    daemon: Daemon,
    part: float,
    reset: bool,  # noqa: FBT001
) -> None:
    """A client that hangs up in the middle of its request has asked for nothing."""
    address = (daemon.host, daemon.port)
    before = daemon.events()
    wanted = [f"c{index}" for index in range(50)]
    for container_id in wanted:
        sock = connect(address)
        request = post_of(container_id)
        sock.sendall(request[: int(len(request) * part)])
        hang_up(sock, reset=reset)
    assert_whole(daemon, wanted)

    assert before == daemon.events()


def test_clients_that_hang_up_among_clients_that_stay(daemon: Daemon) -> None:
    """While some hang up and some stay, those who stay get what the journal says."""

    async def clash() -> dict[str, str]:
        address = (daemon.host, daemon.port)
        told: dict[str, str] = {}

        async def stay(container_id: str) -> None:
            connection = await AsyncConnection.open(address)
            status, body = await connection.ask(post_of(container_id))
            assert status == 200
            told[container_id] = body["address"]
            connection.drop()

        async def leave(container_id: str) -> None:
            connection = await AsyncConnection.open(address)
            connection.writer.write(post_of(container_id))
            connection.drop(reset=True)

        await asyncio.gather(
            *itertools.chain.from_iterable(
                (stay(f"stay{index}"), leave(f"leave{index}")) for index in range(100)
            )
        )
        return told

    told = asyncio.run(clash())
    assert_whole(daemon, [f"leave{index}" for index in range(100)])
    pods = daemon.status()["pods"]

    assert len(told) == 100
    assert told == {name: pods[name] for name in told}


def assert_whole(daemon: Daemon, container_ids: list[str]) -> None:
    """Every container either holds an address everywhere, or nowhere, and can be used again."""
    # Requests of clients that are gone may still be on their way: who comes later is served later.
    daemon.ask("GET", "/status")
    wait_for(
        lambda: status_of(fold(daemon.events())) == daemon.status(), "the journal to be in step"
    )
    assert_sound(daemon)
    pods = daemon.status()["pods"]
    for container_id in container_ids:
        answer = daemon.get(container_id, pod="p")
        if container_id in pods:
            assert pods[container_id] == answer.json()["address"]
            assert pods[container_id] == daemon.release(container_id, pod="p").json()["address"]
        else:
            assert answer.status_code == 404
            assert daemon.release(container_id, pod="p").json()["address"] == ""
    assert daemon.status()["pods"].keys().isdisjoint(container_ids)
