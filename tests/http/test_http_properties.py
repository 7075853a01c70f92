"""Generated bodies and paths: never a 5xx, always the form of the API, never a stray event.

One daemon takes them all. What a body must be answered with is worked out here from the words of
the design, without the daemon's own patterns.
"""

from __future__ import annotations

import string
import unicodedata
from typing import Any
from urllib.parse import quote

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.crash.scale import rounds
from tests.kits.daemon.process import Daemon
from tests.kits.daemon.wire import address_of, error_of, request_bytes, target_of

bounded = settings(
    max_examples=rounds(100, 400),
    deadline=None,
    # The daemon is shared on purpose: each example cleans up after itself.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

REQUIRED = {"pod-namespace": 253, "pod-name": 253, "container-id": 256}

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=10,
)
names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
#: Around the limits and around the characters that matter.
fields = st.one_of(
    names,
    st.text(st.sampled_from("a/.%?#+ ü日\N{LINEAR B SYLLABLE B008 A}"), max_size=10),
    st.text(st.sampled_from("a\n\0\x7f\x85"), max_size=4),
    st.integers(250, 258).map(lambda size: "é" * size),
    scalars,
)
near_valid = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(REQUIRED, fields),
        "address-type": st.sampled_from(["ipv4", "ipv6", "ipv5", "", None, 4]),
        "extra": values,
    },
)
mostly_valid = st.fixed_dictionaries(
    dict.fromkeys(REQUIRED, names | fields),
    optional={"address-type": st.sampled_from(["ipv4", "ipv6"])},
)


def is_valid(body: Any) -> bool:
    """Whether POST has to accept `body`, by the design's table."""
    if not isinstance(body, dict) or body.get("address-type", "ipv4") not in ("ipv4", "ipv6"):
        return False
    for field, length_max in REQUIRED.items():
        value = body.get(field)
        if not isinstance(value, str) or not 1 <= len(value) <= length_max:
            return False
        if any(unicodedata.category(character) == "Cc" for character in value):
            return False
        if "/" in value and field != "container-id":
            return False
    return True


def check_post(daemon: Daemon, content: bytes, *, valid: bool) -> None:
    """POST: a refusal changes nothing; what is accepted can be found, and then released."""
    before = len(daemon.events())
    answer = daemon.ask("POST", "/ip", content)
    if not valid:
        error_of(answer, 400)
        assert before == len(daemon.events())
        return
    address = address_of(answer)
    body = msgspec.json.decode(content)
    target = target_of(body["container-id"], body["pod-name"], body["pod-namespace"])

    assert address == daemon.status()["pods"][body["container-id"]]
    assert address == address_of(daemon.ask("GET", target))
    assert address == address_of(daemon.ask("DELETE", target))
    error_of(daemon.ask("GET", target), 404)


@bounded
@given(body=near_valid)
def test_near_valid_bodies(shared_daemon: Daemon, body: dict[str, Any]) -> None:
    """A body is accepted exactly if the design says so, whatever its fields are."""
    check_post(shared_daemon, msgspec.json.encode(body), valid=is_valid(body))


@bounded
@given(body=mostly_valid)
def test_mostly_valid_bodies(shared_daemon: Daemon, body: dict[str, Any]) -> None:
    """Names of any characters go all the way through POST, GET, /status and DELETE."""
    check_post(shared_daemon, msgspec.json.encode(body), valid=is_valid(body))


@bounded
@given(body=values)
def test_any_json_value(shared_daemon: Daemon, body: Any) -> None:
    """A JSON value that is no allocation is 400, and no event."""
    check_post(shared_daemon, msgspec.json.encode(body), valid=is_valid(body))


@bounded
@given(content=st.binary(max_size=200))
def test_any_bytes(shared_daemon: Daemon, content: bytes) -> None:
    """Bytes that are no JSON are 400, and no event."""
    check_post(shared_daemon, content, valid=False)


@bounded
@given(data=st.data())
def test_any_damage_to_a_body(shared_daemon: Daemon, data: st.DataObject) -> None:
    """A good body with a few bytes changed is either accepted in full or refused."""
    content = bytearray(
        msgspec.json.encode({"pod-namespace": "ns", "pod-name": "pod", "container-id": "cid"})
    )
    places = st.integers(0, len(content) - 1)
    for place, byte in data.draw(
        st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=3)
    ):
        content[place] = byte
    try:
        valid = is_valid(msgspec.json.decode(bytes(content)))
    except ValueError:
        valid = False
    check_post(shared_daemon, bytes(content), valid=valid)


@bounded
@given(
    method=st.sampled_from(["GET", "DELETE"]),
    parts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), max_size=5),
)
def test_any_names_in_a_path(shared_daemon: Daemon, method: str, parts: list[str]) -> None:
    """Three names of any characters are looked up; more or fewer are an unknown path."""
    before = shared_daemon.events()
    target = "/ip/" + "/".join(quote(part, safe="") for part in parts)
    answer = shared_daemon.ask(method, target)
    if len(parts) == 3 and method == "DELETE":
        assert address_of(answer) == ""
    else:
        error_of(answer, 404)
    assert before == shared_daemon.events()


printable = "".join(c for c in string.printable if c.isprintable() and c != " ")


@bounded
@given(
    method=st.sampled_from(["GET", "DELETE", "POST", "HEADER", "x"]),
    target=st.text(st.sampled_from(printable), max_size=60)
    | st.text(st.sampled_from("/ip%af09.~?#"), max_size=20).map(lambda tail: "/ip/a/b/" + tail),
)
def test_any_target(shared_daemon: Daemon, method: str, target: str) -> None:
    """Whatever stands for a path is answered in the form of the API and changes nothing."""
    before = shared_daemon.events()
    answer = shared_daemon.ask(method, target or "x")
    if answer.status_code == 200:
        assert method == "DELETE"
        assert address_of(answer) == ""
    else:
        assert answer.status_code in {400, 404, 405}
        error_of(answer, answer.status_code)
    assert before == shared_daemon.events()


@bounded
@given(
    name=st.sampled_from(
        ["Host", "Origin", "Content-Length", "Transfer-Encoding", "Expect", "Connection", "Upgrade"]
    )
    | st.text(st.sampled_from(string.ascii_letters + "-"), min_size=1, max_size=10),
    value=st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=30),
)
def test_any_header(shared_daemon: Daemon, name: str, value: str) -> None:
    """Whatever a header says, the answer is in form, and no 5xx."""
    before = shared_daemon.events()
    data = request_bytes("GET", "/status", headers=(f"{name}: {value}",))
    for answer in shared_daemon.send(data, hang_up=True):
        if answer.status_code != 200:
            assert 400 <= answer.status_code < 500
            error_of(answer, answer.status_code)
    assert before == shared_daemon.events()
