"""The REST API as its specification and the design's table have it, against the real process."""

from __future__ import annotations

import ipaddress
import itertools
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from coild.rules.events import AddressAllocated, AddressReleased
from tests.kits.daemon.process import Daemon
from tests.kits.daemon.wire import address_of, allocate_body, error_of, request_bytes, target_of

_serial = itertools.count()

FAMILIES = {"ipv4": "10.64.0.0/16", "ipv6": "fd00:64::/64"}
EVERY_FAMILY = pytest.mark.parametrize("family", FAMILIES)
#: The longest characters there are in UTF-8.
WIDE = "\N{LINEAR B SYLLABLE B008 A}"


def unique(prefix: str = "c") -> str:
    """A name that no other test uses."""
    return f"{prefix}-{next(_serial)}"


@pytest.fixture
def container(shared_daemon: Daemon) -> Iterator[str]:
    """A container ID that is released after the test."""
    name = unique()
    yield name
    shared_daemon.release(name)


def post(daemon: Daemon, body: Any) -> httpx.Response:
    """POST a body: bytes as they are, anything else as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return daemon.client.post("/ip", content=content)


@EVERY_FAMILY
def test_an_address_is_allocated_found_and_released(shared_daemon: Daemon, family: str) -> None:
    """POST, GET and DELETE answer with the same address, of the family that was asked for."""
    container_id = unique()
    allocated = address_of(shared_daemon.allocate(container_id, **{"address-type": family}))
    found = address_of(shared_daemon.get(container_id))
    released = address_of(shared_daemon.release(container_id))

    assert ipaddress.ip_address(allocated) in ipaddress.ip_network(FAMILIES[family])
    assert allocated == found == released
    error_of(shared_daemon.get(container_id), 404)


def test_the_default_family_is_ipv4(shared_daemon: Daemon, container: str) -> None:
    """A POST without `address-type` gets an IPv4 address."""
    address = address_of(shared_daemon.allocate(container))

    assert ipaddress.ip_address(address).version == 4


@EVERY_FAMILY
def test_the_first_address_of_a_block_is_handed_out(daemon: Daemon, family: str) -> None:
    """The network address of the first block is the first address of all."""
    network = ipaddress.ip_network(FAMILIES[family])

    assert str(network[0]) == address_of(daemon.allocate("c", **{"address-type": family}))


@EVERY_FAMILY
def test_a_block_has_two_to_the_block_size_addresses(daemon: Daemon, family: str) -> None:
    """A block of size 5 has 32 addresses, of which one is the gateway; the next is a second's."""
    network = ipaddress.ip_network(FAMILIES[family])
    prefix = network.max_prefixlen - 5
    blocks = [str(block) for block in itertools.islice(network.subnets(new_prefix=prefix), 2)]
    for index in range(31):
        daemon.allocate(f"c{index}", **{"address-type": family})
    full = daemon.status()["address-blocks"]
    daemon.allocate("c32", **{"address-type": family})

    assert {"default": blocks[:1]} == full
    assert {"default": blocks} == daemon.status()["address-blocks"]


def test_every_event_has_all_that_history_needs(daemon: Daemon) -> None:
    """The journal says of an allocation and a release whose, which, from where and why."""
    daemon.allocate("cid", pod="web-1", namespace="shop")
    daemon.release("cid", pod="web-1", namespace="shop")
    allocated, released = (event for _, event in daemon.events()[-2:])

    assert isinstance(allocated, AddressAllocated)
    assert isinstance(released, AddressReleased)
    for event in (allocated, released):
        assert (
            event.container_id,
            event.pod_namespace,
            event.pod_name,
            event.pool,
        ) == ("cid", "shop", "web-1", "default")
        assert (ipaddress.ip_address("10.64.0.0").packed + b"\x1b", 0) == (
            event.block,
            event.offset,
        )
    assert released.reason == "requested"
    assert 0 < allocated.time <= released.time


@pytest.mark.parametrize(
    "again",
    [
        {},
        {"address-type": "ipv6"},
        {"pod": "other"},
        {"namespace": "other"},
    ],
    ids=str,
)
def test_a_container_that_holds_an_address_gets_no_other(
    shared_daemon: Daemon, container: str, again: dict[str, Any]
) -> None:
    """A second POST with the same container ID is 409, whatever else it says, and changes none."""
    address = address_of(shared_daemon.allocate(container))
    before = shared_daemon.events()
    text = error_of(shared_daemon.allocate(container, **again), 409)

    assert container in text
    assert address in text
    assert before == shared_daemon.events()
    assert address == address_of(shared_daemon.get(container))


def test_a_pod_may_hold_several_addresses(shared_daemon: Daemon) -> None:
    """One pod gets an address for each container ID, and of each family."""
    first, second, third = unique(), unique(), unique()
    addresses = {
        address_of(shared_daemon.allocate(first)),
        address_of(shared_daemon.allocate(second)),
        address_of(shared_daemon.allocate(third, **{"address-type": "ipv6"})),
    }
    pods = shared_daemon.status()["pods"]

    assert len(addresses) == 3
    assert addresses == {pods[first], pods[second], pods[third]}


def test_a_container_may_come_back_after_its_release(shared_daemon: Daemon, container: str) -> None:
    """A container ID that was released is as good as a new one."""
    first = address_of(shared_daemon.allocate(container))
    shared_daemon.release(container)
    second = address_of(shared_daemon.allocate(container))

    # Never-used addresses come first.
    assert first != second


@pytest.mark.parametrize(
    "asked", [{"pod": "other"}, {"namespace": "other"}, {"container_id": "unknown"}], ids=str
)
def test_get_of_what_is_not_the_pods_is_404(
    shared_daemon: Daemon, container: str, asked: dict[str, str]
) -> None:
    """GET finds nothing unless namespace, pod and container ID all fit; the answer names them."""
    address_of(shared_daemon.allocate(container))
    names = {"container_id": container, "pod": "web-0", "namespace": "default"} | asked
    text = error_of(shared_daemon.get(**names), 404)

    for name in names.values():
        assert name in text


@pytest.mark.parametrize(
    "asked", [{"pod": "other"}, {"namespace": "other"}, {"container_id": "unknown"}], ids=str
)
def test_delete_of_what_is_not_the_pods_releases_nothing(
    shared_daemon: Daemon, container: str, asked: dict[str, str]
) -> None:
    """DELETE of another pod's or an unknown container is 200 with no address, and no event."""
    address = address_of(shared_daemon.allocate(container))
    before = shared_daemon.events()
    names = {"container_id": container, "pod": "web-0", "namespace": "default"} | asked

    assert address_of(shared_daemon.release(**names)) == ""
    assert before == shared_daemon.events()
    assert address == address_of(shared_daemon.get(container))


def test_delete_again_releases_nothing(shared_daemon: Daemon) -> None:
    """CNI repeats DEL: the second DELETE is 200 with an empty address, and no event."""
    container_id = unique()
    address = address_of(shared_daemon.allocate(container_id))

    assert address == address_of(shared_daemon.release(container_id))
    before = shared_daemon.events()
    assert address_of(shared_daemon.release(container_id)) == ""
    assert before == shared_daemon.events()


GOOD = {"pod-namespace": "default", "pod-name": "web-0", "container-id": "cid"}


def without(field: str) -> dict[str, str]:
    """A good body but for one field that is not there."""
    return {name: value for name, value in GOOD.items() if name != field}


NO_OBJECTS = [
    pytest.param(b"", "empty", id="nothing"),
    pytest.param(b" ", "JSON", id="white space"),
    pytest.param(b"{", "JSON", id="truncated"),
    pytest.param(b"pod-name=web-0", "JSON", id="a form"),
    pytest.param(json.dumps(GOOD).encode() + b" x", "JSON", id="trailing garbage"),
    pytest.param(json.dumps(GOOD).encode() * 2, "JSON", id="two objects"),
    pytest.param(json.dumps(GOOD).encode().replace(b"cid", b"\xff"), "JSON", id="bad UTF-8"),
    pytest.param(json.dumps(GOOD).encode("utf-16"), "JSON", id="UTF-16"),
    pytest.param(b"\xef\xbb\xbf" + json.dumps(GOOD).encode(), "JSON", id="byte order mark"),
    pytest.param(json.dumps(GOOD).encode().replace(b"cid", b"\\ud800"), "JSON", id="surrogate"),
    pytest.param(b'{"other":' + b"[" * 30_000, "nested", id="deep"),
    pytest.param([GOOD], "object", id="array"),
    pytest.param("cid", "object", id="string"),
    pytest.param(1, "object", id="number"),
    pytest.param(None, "object", id="null"),
    pytest.param(True, "object", id="boolean"),
]


@pytest.mark.parametrize(("body", "word"), NO_OBJECTS)
def test_a_body_that_is_no_json_object_is_refused(
    shared_daemon: Daemon, body: Any, word: str
) -> None:
    """What is not one JSON object and nothing else is 400, and no event."""
    before = shared_daemon.events()

    assert word in error_of(post(shared_daemon, body), 400)
    assert before == shared_daemon.events()


BAD_VALUES = [
    pytest.param("", id="empty"),
    pytest.param(None, id="null"),
    pytest.param(1, id="number"),
    pytest.param(["a"], id="array"),
    pytest.param({"a": "b"}, id="object"),
    pytest.param(True, id="boolean"),
    pytest.param("a\0b", id="NUL"),
    pytest.param("a\nb", id="line break"),
    pytest.param("a\n", id="line break at the end"),
    pytest.param("\ta", id="tab"),
    pytest.param("a\x7f", id="DEL"),
    pytest.param("a\x85b", id="C1 control"),
]


@pytest.mark.parametrize("field", GOOD)
@pytest.mark.parametrize("value", BAD_VALUES)
def test_a_bad_field_is_refused(shared_daemon: Daemon, field: str, value: Any) -> None:
    """A field that is empty, of another type or has a control character is 400 and named."""
    before = shared_daemon.events()

    assert field in error_of(post(shared_daemon, GOOD | {field: value}), 400)
    assert before == shared_daemon.events()


@pytest.mark.parametrize("field", GOOD)
def test_a_missing_field_is_refused(shared_daemon: Daemon, field: str) -> None:
    """A body without a field is 400, and the answer says which is missing."""
    before = shared_daemon.events()
    text = error_of(post(shared_daemon, without(field)), 400)

    assert field in text
    assert "missing" in text
    assert before == shared_daemon.events()


@pytest.mark.parametrize("field", ["pod-namespace", "pod-name"])
@pytest.mark.parametrize("value", ["/", "a/b", "/a", "a/"])
def test_a_name_with_a_slash_is_refused(shared_daemon: Daemon, field: str, value: str) -> None:
    """Namespace and pod name are parts of `namespace/name`: a slash in one is 400."""
    text = error_of(post(shared_daemon, GOOD | {field: value}), 400)

    assert field in text
    assert "'/'" in text


@pytest.mark.parametrize("value", ["", "IPv4", "ipv5", "4", 4, None, ["ipv4"], " ipv4"], ids=repr)
def test_another_address_type_is_refused(shared_daemon: Daemon, value: Any) -> None:
    """`address-type` is ipv4 or ipv6, spelled so; anything else is 400 and named."""
    before = shared_daemon.events()
    text = error_of(post(shared_daemon, GOOD | {"address-type": value}), 400)

    assert "address-type" in text
    assert "'ipv4' or 'ipv6'" in text
    assert before == shared_daemon.events()


def test_unknown_fields_are_ignored(shared_daemon: Daemon, container: str) -> None:
    """A POST with fields that nobody knows, even near misses, is like one without."""
    extra: dict[str, Any] = {"pod_name": 1, "": None, "address_type": "ipv6", "nested": {"a": [1]}}
    address = address_of(shared_daemon.allocate(container, **extra))

    assert ipaddress.ip_address(address).version == 4


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_the_content_type_of_a_post_does_not_matter(
    shared_daemon: Daemon, container: str, kind: str
) -> None:
    """A body is JSON whatever its header says, as `curl -d` has it."""
    body = allocate_body(container, "web-0")

    address_of(shared_daemon.ask("POST", "/ip", body, headers=(f"Content-Type: {kind}",)))


@pytest.mark.parametrize("character", ["a", "é", WIDE, "%", " ", "?"])
def test_the_longest_names_go_all_the_way(shared_daemon: Daemon, character: str) -> None:
    """What POST accepts at its limits, GET and DELETE can name, whatever it is made of."""
    name, container_id = character * 253, character * 256
    body = allocate_body(container_id, name, name)
    target = target_of(container_id, name, name)
    allocated = address_of(shared_daemon.ask("POST", "/ip", body))
    found = address_of(shared_daemon.ask("GET", target))
    listed = shared_daemon.status()["pods"][container_id]
    released = address_of(shared_daemon.ask("DELETE", target))

    assert allocated == found == listed == released


@pytest.mark.parametrize("character", ["a", WIDE])
@pytest.mark.parametrize(
    ("field", "limit"), [("pod-namespace", 253), ("pod-name", 253), ("container-id", 256)]
)
def test_one_character_more_is_refused(
    shared_daemon: Daemon, field: str, limit: int, character: str
) -> None:
    """A field that is a character too long is 400; the answer has the field and the limit."""
    before = shared_daemon.events()
    text = error_of(post(shared_daemon, GOOD | {field: character * (limit + 1)}), 400)

    assert field in text
    assert str(limit) in text
    assert before == shared_daemon.events()


@pytest.mark.parametrize(("size", "status"), [(64 * 1024, 200), (64 * 1024 + 1, 413)])
def test_a_body_has_64_kib_at_most(
    shared_daemon: Daemon, container: str, size: int, status: int
) -> None:
    """A body of 64 KiB is read, a byte more is 413."""
    body = allocate_body(container, "web-0")
    body += b" " * (size - len(body))
    answer = shared_daemon.ask("POST", "/ip", body)

    assert status == answer.status_code
    if status == 413:
        assert "65536" in error_of(answer, 413)
        error_of(shared_daemon.get(container), 404)


CONTAINER_IDS = [
    "a/b",
    "/",
    "..",
    ".",
    "../../status",
    "100%",
    "%41",
    "%2F",
    "%252F",
    "a b",
    "a+b",
    "a?b=c",
    "a#b",
    "a;b",
    "a&b=c",
    "a:b@c",
    'a"b',
    "a\\b",
    "<b>",
    "{container}",
    "ü",
    "日本語",
    WIDE,
    "e\N{COMBINING ACUTE ACCENT}",
    "\N{LINE SEPARATOR}",
    "\N{ZERO WIDTH SPACE}",
    "\N{RIGHT-TO-LEFT OVERRIDE}",
    "\N{NO-BREAK SPACE}",
    "containerd://0123456789abcdef",
]


@pytest.mark.parametrize("container_id", CONTAINER_IDS)
def test_any_container_id_can_be_named(shared_daemon: Daemon, container_id: str) -> None:
    """A container ID is found and released by its percent-encoded form, decoded exactly once."""
    target = target_of(container_id, "web-0")
    body = allocate_body(container_id, "web-0")
    allocated = address_of(shared_daemon.ask("POST", "/ip", body))
    listed = shared_daemon.status()["pods"]
    found = address_of(shared_daemon.ask("GET", target))
    released = address_of(shared_daemon.ask("DELETE", target))

    assert allocated == listed[container_id] == found == released


@pytest.mark.parametrize("name", ["100%", "a b", "%2F", "..", "?", "#", "ü", "日本語", WIDE])
def test_any_pod_and_namespace_can_be_named(shared_daemon: Daemon, name: str) -> None:
    """Namespace and pod name are decoded like the container ID."""
    target = target_of("cid", name, name)
    allocated = address_of(shared_daemon.ask("POST", "/ip", allocate_body("cid", name, name)))

    assert allocated == address_of(shared_daemon.ask("GET", target))
    assert allocated == address_of(shared_daemon.ask("DELETE", target))


def test_escaping_more_than_needed_is_the_same(shared_daemon: Daemon) -> None:
    """`%61` in a path is `a`, in either case of its digits and in any part."""
    address = address_of(shared_daemon.allocate("jkl", pod="jkl", namespace="jkl"))

    assert address == address_of(shared_daemon.ask("GET", "/ip/%6a%6b%6c/%6A%6B%6C/j%6bl"))
    assert address == address_of(shared_daemon.ask("DELETE", "/ip/j%6Bl/jk%6c/%6akl"))


def test_a_decoded_name_is_not_decoded_again(shared_daemon: Daemon) -> None:
    """DELETE of `%2541` is of container `%41`, never of container `A`."""
    address = address_of(shared_daemon.allocate("A"))

    assert address_of(shared_daemon.ask("DELETE", "/ip/default/web-0/%2541")) == ""
    assert address == address_of(shared_daemon.release("A"))


@pytest.mark.parametrize("part", range(3), ids=["namespace", "pod", "container"])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize(
    "sequence", ["%ff", "%C0%AF", "%ED%A0%80", "%E2%82", "%F4%90%80%80", "a%80"]
)
def test_escapes_that_are_no_utf8_are_refused(
    shared_daemon: Daemon, method: str, part: int, sequence: str
) -> None:
    """A part of the path that is not UTF-8 is 400: it never stands for some other name."""
    # What an indulgent decoder would make of it is there, and must stay there.
    lenient = ["%ff", "�", "��", "���", "����", "a�"]
    for container_id in lenient:
        shared_daemon.ask("POST", "/ip", allocate_body(container_id, "�", "�"))
    before = shared_daemon.events()
    parts = ["%EF%BF%BD"] * 3
    parts[part] = sequence
    text = error_of(shared_daemon.ask(method, "/ip/" + "/".join(parts)), 400)

    assert "UTF-8" in text
    assert ["namespace", "pod", "container ID"][part] in text
    assert before == shared_daemon.events()


@pytest.mark.parametrize("sequence", ["%", "%4", "%zz", "%%41"])
def test_a_percent_that_escapes_nothing_stands_for_itself(
    shared_daemon: Daemon, sequence: str
) -> None:
    """A `%` without two hexadecimal digits is a character like any other (WHATWG URL, 1.3)."""
    container_id = sequence.replace("%41", "A")
    address = address_of(
        shared_daemon.ask("POST", "/ip", allocate_body(container_id, "web-0", "default"))
    )

    assert address == address_of(shared_daemon.ask("DELETE", f"/ip/default/web-0/{sequence}"))


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/ip/",
        "/ip/a",
        "/ip/a/b",
        "/ip/a/b/",
        "/ip/a/b/c/",
        "/ip/a/b/c/d",
        "/ip//b/c",
        "/ip/a//c",
        "/status/",
        "//status",
        "/Status",
        "/%73tatus",
        "/favicon.ico",
        "/ip/../status",
        "*",
    ],
)
@pytest.mark.parametrize("method", ["GET", "DELETE", "POST", "PUT"])
def test_an_unknown_path_is_404(shared_daemon: Daemon, method: str, target: str) -> None:
    """A path that is none of the API's is 404 for every method, and the answer has those."""
    text = error_of(shared_daemon.ask(method, target), 404)

    assert "GET and HEAD /status" in text
    assert "POST /ip" in text


ALLOWED = {
    "/status": {"GET", "HEAD"},
    "/ip": {"POST"},
    "/ip/default/web-0/cid": {"GET", "HEAD", "DELETE"},
}
WRONG = [
    (method, target)
    for target, allowed in ALLOWED.items()
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW", "get"]
    if method not in allowed
]


@pytest.mark.parametrize(("method", "target"), WRONG)
def test_a_wrong_method_is_405(shared_daemon: Daemon, method: str, target: str) -> None:
    """A method that a path does not have is 405, with those it has in Allow, and no event."""
    before = shared_daemon.events()
    answer = shared_daemon.ask(method, target, json.dumps(GOOD).encode())

    assert method in error_of(answer, 405)
    assert ALLOWED[target] == set(answer.headers["allow"].replace(" ", "").split(","))
    assert before == shared_daemon.events()


@pytest.mark.parametrize("target", ["/ip", "/compact", "/gc"])
def test_head_is_405_without_a_body(shared_daemon: Daemon, target: str) -> None:
    """A path without GET has no HEAD; its answer has the headers of the failure, no body."""
    answer = shared_daemon.client.head(target)

    assert answer.status_code == 405
    assert answer.headers["content-type"] == "application/json"
    assert int(answer.headers["content-length"]) > 0
    assert answer.headers["allow"] == "POST"
    assert answer.content == b""


def test_a_query_changes_nothing(shared_daemon: Daemon, container: str) -> None:
    """What follows `?` in a target is ignored."""
    address = address_of(shared_daemon.allocate(container))

    assert address == address_of(shared_daemon.ask("GET", f"/ip/default/web-0/{container}?a=b"))


def test_an_answer_has_no_surplus_headers(shared_daemon: Daemon) -> None:
    """An answer has content type and length, what the connection needs, and two more things.

    What pages of other sites may not do, and the ID of the journal.
    """
    (answer,) = shared_daemon.send(request_bytes("GET", "/status"))

    assert {
        "content-type",
        "content-length",
        "connection",
        "coild-journal",
        "cross-origin-resource-policy",
        "x-content-type-options",
    } == set(answer.headers)


POOLS = [
    "--pool=default=10.1.0.0/24",
    "--pool=shop=10.2.0.0/24,fd00:2::/112",
    "--pool=tiny=10.3.0.0/30",
    "--pool=six=fd00:6::/126",
    "--block-size=1",
    "--reuse-after=0",
]


@pytest.fixture(scope="module")
def pools_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A coild with several pools, of which two have four addresses."""
    data_dir = tmp_path_factory.mktemp("pools") / "data"
    with Daemon(data_dir, *POOLS, "--segment-size=1MiB") as running:
        yield running


@pytest.mark.parametrize(
    ("namespace", "family", "subnet"),
    [
        ("shop", "ipv4", "10.2.0.0/24"),
        ("shop", "ipv6", "fd00:2::/112"),
        ("default", "ipv4", "10.1.0.0/24"),
        ("elsewhere", "ipv4", "10.1.0.0/24"),
        ("Shop", "ipv4", "10.1.0.0/24"),
    ],
)
def test_the_pool_is_the_namespaces_or_the_default(
    pools_daemon: Daemon, namespace: str, family: str, subnet: str
) -> None:
    """A pod's address is from the pool named like its namespace, if there is one, else default."""
    answer = pools_daemon.allocate(unique(), namespace=namespace, **{"address-type": family})

    assert ipaddress.ip_address(address_of(answer)) in ipaddress.ip_network(subnet)


@pytest.mark.parametrize(
    ("namespace", "family", "words"),
    [
        ("default", "ipv6", ["'default'", "IPv6"]),
        ("elsewhere", "ipv6", ["'default'", "IPv6"]),
        ("six", "ipv4", ["'six'", "IPv4"]),
    ],
)
def test_a_pool_without_the_family_is_503(
    pools_daemon: Daemon, namespace: str, family: str, words: list[str]
) -> None:
    """A pool that has no subnet of the family is 503: no other pool stands in for it."""
    before = pools_daemon.events()
    answer = pools_daemon.allocate(unique(), namespace=namespace, **{"address-type": family})
    text = error_of(answer, 503)

    for word in words:
        assert word in text
    assert before == pools_daemon.events()


@pytest.mark.parametrize(
    ("namespace", "family", "subnet"),
    [("tiny", "ipv4", "10.3.0.0/30"), ("six", "ipv6", "fd00:6::/126")],
)
def test_a_full_pool_is_503_until_an_address_is_released(
    pools_daemon: Daemon, namespace: str, family: str, subnet: str
) -> None:
    """Every address of a pool is handed out once, then POST is 503; a release makes room again."""
    kind = {"address-type": family}
    ids = [unique() for _ in range(4)]
    addresses = [
        address_of(pools_daemon.allocate(container_id, namespace=namespace, **kind))
        for container_id in ids
    ]
    before = pools_daemon.events()
    text = error_of(pools_daemon.allocate(unique(), namespace=namespace, **kind), 503)

    assert f"'{namespace}'" in text
    assert subnet in text
    assert before == pools_daemon.events()
    assert {str(address) for address in ipaddress.ip_network(subnet)} == set(addresses)
    pools_daemon.release(ids[2], namespace=namespace)
    late = unique()
    assert addresses[2] == address_of(pools_daemon.allocate(late, namespace=namespace, **kind))
    for container_id in [*ids, late]:
        pools_daemon.release(container_id, namespace=namespace)


def test_no_pool_at_all_is_500(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Without a pool of the namespace's name and without a default, 500 names both."""
    data_dir = tmp_path_factory.mktemp("nodefault") / "data"
    with Daemon(data_dir, "--pool", "shop=10.2.0.0/24") as daemon:
        before = daemon.events()
        text = error_of(daemon.allocate("c", namespace="elsewhere"), 500)

        assert "'elsewhere'" in text
        assert "'default'" in text
        assert before == daemon.events()
        address_of(daemon.allocate("c", namespace="shop"))


def test_status_of_a_node_without_anything(daemon: Daemon) -> None:
    """A node that holds nothing says so with empty objects."""
    answer = daemon.client.get("/status")

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {"address-blocks": {}, "pods": {}, "status": 200}


def test_status_has_blocks_by_pool_and_addresses_by_container(daemon: Daemon) -> None:
    """`pods` has container IDs, not pods, and `address-blocks` what the node holds by pool."""
    daemon.allocate("zero", pod="p")
    daemon.allocate("four", pod="p")
    daemon.allocate("six", pod="p", **{"address-type": "ipv6"})
    held = daemon.status()
    daemon.release("four", pod="p")
    daemon.release("zero", pod="p")

    assert held == {
        "address-blocks": {"default": ["10.64.0.0/27", "fd00:64::/123"]},
        "pods": {"zero": "10.64.0.0", "four": "10.64.0.2", "six": "fd00:64::"},
        "status": 200,
    }
    # A block that is empty is kept for a while.
    assert daemon.status() == {
        "address-blocks": {"default": ["10.64.0.0/27", "fd00:64::/123"]},
        "pods": {"six": "fd00:64::"},
        "status": 200,
    }


def test_status_has_the_pools_apart(pools_daemon: Daemon) -> None:
    """Each pool that the node has blocks of is a key of `address-blocks`."""
    pools_daemon.allocate(unique(), namespace="shop")
    pools_daemon.allocate(unique(), namespace="default")
    blocks = pools_daemon.status()["address-blocks"]

    assert "10.2.0.0/31" in blocks["shop"]
    assert "10.1.0.0/31" in blocks["default"]
