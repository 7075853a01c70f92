"""Others and the routes of a network namespace: a second coild, and whoever changes the table."""

# expected == actual

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coild.routing.route_watch import Changes, RouteWatch
from coild.routing.table_lock import TableLock, TableTakenError
from coild.rules.addresses import Subnet
from tests.kits.daemon.process import Daemon, wait_for
from tests.kits.system.netns import Namespace
from tests.kits.system.routes import health
from tests.kits.system.routes import routes as all_routes

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may make network namespaces")

FIRST, SECOND = "default=10.64.0.0/24,fd00:64::/64", "default=10.65.0.0/24"
#: Much sooner than the table is compared without word of a change, and on a slow machine.
SOON_SECONDS = 15.0
#: Binds the name of the lock and waits to be killed; with an argument, it listens.
_SQUATTER = """
import ctypes, socket, sys, time
if "namespace" in sys.argv and ctypes.CDLL(None).unshare(0x10000000):  # CLONE_NEWUSER
    sys.exit("not permitted")
open("/proc/self/comm", "wb").write(bytes([255, 254]))
s = socket.socket(socket.AF_UNIX)
s.bind("\\0coild/table-119/protocol-30")
if len(sys.argv) > 1:
    s.listen(0)
print("there", flush=True)
time.sleep(600)
"""


def routes(netlink: Any, table: int = 119, protocol: int = 30) -> set[str]:
    """The destinations of a table's routes of one protocol on lo."""
    return {where for where, made_by in all_routes(netlink, table) if made_by == protocol}


def blocks(daemon: Daemon) -> set[str]:
    """The blocks that a daemon holds."""
    return set(daemon.status()["address-blocks"].get("default", []))


def soon(condition: Any, what: str) -> None:
    """Wait for what happens because the kernel told of it."""
    began = time.monotonic()
    wait_for(condition, what)

    assert time.monotonic() - began < SOON_SECONDS, f"{what} took as long as without word of it"


def fill(daemon: Daemon, count: int = 3) -> None:
    """Have it hold so many blocks of one address, and one of IPv6."""
    for number in range(count):
        assert 200 == daemon.allocate(f"c{number}").status_code
    daemon.allocate("six", **{"address-type": "ipv6"})


ONE = ("--export-routes", "--block-size", "0", "--pool", FIRST)
TWO = ("--export-routes", "--block-size", "0", "--pool", SECOND)


def test_a_second_coild_leaves_the_routes_of_the_first(netlink: Any, tmp_path: Path) -> None:
    """With another data directory it hands out addresses, changes no route, and says why.

    Neither its start, nor its blocks, nor a block that it gives back touch the table. When the
    first ends, the table is the second's.
    """
    idle = ("--scan-interval", "1s", "--reuse-after", "0s")
    with (
        Daemon(tmp_path / "one", *ONE) as one,
        # The same pool: their blocks are the same, too.
        Daemon(tmp_path / "two", *ONE, *idle) as two,
    ):
        fill(one)
        kept = blocks(one)
        wait_for(lambda: kept == routes(netlink), "the routes of the first")
        fill(two, 2)
        two.release("c1")
        wait_for(lambda: "it is tried again" in two.log, "it to be told")
        time.sleep(2)
        during, said = routes(netlink), (health(one), health(two))
        pid = one.process.pid
        wait_for(lambda: health(one) == "exported", "the first to go on")
        one.kill()
        wait_for(lambda: health(two) == "exported", "the second to take over")
        # The block of c1 may be given back only now that its route can be withdrawn.
        wait_for(lambda: routes(netlink) == blocks(two), "the second's routes alone")
        after = routes(netlink)
        # The first starts again, and is the second now.
        one.start()
        third, later = health(one), routes(netlink)

    assert kept == during
    assert ("exported", "failing") == said
    assert f"another coild (process {pid}) keeps table 119, protocol 30" in two.log
    assert 1 == two.log.count("another coild")
    assert "failing" == third
    # What is gone is what the second gave back.
    assert later <= after


@pytest.mark.parametrize("other", [("--table-id", "120"), ("--protocol-id", "31")])
def test_another_table_or_protocol_is_nobody_else_s(
    netlink: Any, tmp_path: Path, other: tuple[str, str]
) -> None:
    """Two daemons with tables or protocols of their own export both."""
    with Daemon(tmp_path / "one", *ONE) as one, Daemon(tmp_path / "two", *TWO, *other) as two:
        fill(one)
        two.allocate("c0")
        wait_for(lambda: "exported" == health(one) == health(two), "both to export")
        table = 120 if "--table-id" in other else 119
        protocol = 31 if "--protocol-id" in other else 30
        wait_for(lambda: blocks(one) == routes(netlink), "the routes of the first")
        wait_for(lambda: blocks(two) == routes(netlink, table, protocol), "those of the second")


def flush(netlink: Any) -> None:
    """`ip route flush table 119`, in both families."""
    netlink.flush_routes(family=socket.AF_INET, table=119)
    netlink.flush_routes(family=socket.AF_INET6, table=119)


def delete(netlink: Any) -> None:
    """Someone deletes a route."""
    netlink.route("del", dst=min(routes(netlink)), oif=1, table=119, proto=30)


def replace(netlink: Any) -> None:
    """Someone replaces a route by another's."""
    destination = min(routes(netlink))
    netlink.route("del", dst=destination, oif=1, table=119, proto=30)
    netlink.route("add", dst=destination, table=119, proto=30, type="blackhole")


def add(netlink: Any) -> None:
    """Someone adds a route of our protocol."""
    netlink.route("add", dst="10.99.0.0/27", oif=1, table=119, proto=30)


def set_lo(netlink: Any) -> None:
    """Loopback goes down and comes up: the kernel tells of no route that goes with it."""
    netlink.link("set", ifname="lo", state="down")
    netlink.link("set", ifname="lo", state="up")


@pytest.mark.parametrize("act", [flush, delete, replace, add, set_lo])
def test_what_others_do_is_put_right_soon(netlink: Any, tmp_path: Path, act: Any) -> None:
    """Whatever is done to the table, it is as it was soon, and the log tells of it once at most."""
    path = tmp_path / "socket"
    with Daemon(tmp_path / "data", *ONE, "--socket", str(path)) as daemon:
        daemon.ask_by(path)
        fill(daemon)
        expected = blocks(daemon)
        wait_for(lambda: expected == routes(netlink), "the routes")
        act(netlink)
        soon(lambda: expected == routes(netlink), "the routes to come back")
        soon(lambda: "exported" == health(daemon), "it to be known")
        log = daemon.log

    assert log.count("was not as coild left it") <= 1


def test_a_table_beyond_a_byte_is_heard_of(netlink: Any, tmp_path: Path) -> None:
    """The kernel tells of the routes of a table with a large number, too."""
    with Daemon(tmp_path / "data", *ONE, "--table-id", "100000") as daemon:
        fill(daemon)
        expected = blocks(daemon)
        wait_for(lambda: expected == routes(netlink, 100_000), "the routes")
        netlink.route("del", dst=min(expected), oif=1, table=100_000, proto=30)
        soon(lambda: expected == routes(netlink, 100_000), "the route to come back")


def test_health_tells_what_the_kernel_has(netlink: Any, tmp_path: Path) -> None:
    """While lo is down and the routes with it, health says failing, also without an allocation."""
    path = tmp_path / "socket"
    with Daemon(tmp_path / "data", *ONE, "--socket", str(path)) as daemon:
        daemon.ask_by(path)
        fill(daemon)
        expected = blocks(daemon)
        wait_for(lambda: expected == routes(netlink), "the routes")
        netlink.link("set", ifname="lo", state="down")
        soon(lambda: "failing" == health(daemon), "the failure to be seen")
        netlink.link("set", ifname="lo", state="up")
        soon(lambda: "exported" == health(daemon), "it to heal")

        assert expected == routes(netlink)


@pytest.fixture
def watch(netlink: Any) -> Iterator[RouteWatch]:
    """What the kernel tells of table 119, protocol 30."""
    watch = RouteWatch(119, 30)
    yield watch
    watch.close()


V4, V6 = Subnet.parse("10.64.0.0/27"), Subnet.parse("fd00:64::/123")


@pytest.mark.parametrize("block", [V4, V6, Subnet.parse("0.0.0.0/0")], ids=str)
def test_each_change_is_told(netlink: Any, watch: RouteWatch, block: Subnet) -> None:
    """Routes that come and go are told with their block, those of others as such."""
    route = {"dst": str(block), "oif": 1, "table": 119}
    netlink.route("add", **route, proto=30)
    made = watch.read()
    netlink.route("del", **route, proto=30)
    gone = watch.read()
    netlink.route("add", **route, proto=99)
    foreign = watch.read()
    netlink.route("add", **(route | {"table": 120}), proto=30)

    assert Changes(made={block}) == made
    assert Changes(gone={block}) == gone
    assert Changes(foreign={block}) == foreign
    assert Changes() == watch.read()


@pytest.mark.parametrize("block", [V4, V6], ids=str)
def test_another_kind_of_route_in_the_place_of_ours_is_told(
    netlink: Any, watch: RouteWatch, block: Subnet
) -> None:
    """Ours is gone, though a route of our protocol came before either was read."""
    route = {"dst": str(block), "table": 119, "proto": 30}
    netlink.route("add", **route, oif=1)
    watch.read()
    netlink.route("del", **route, oif=1)
    netlink.route("add", **route, type="blackhole")

    assert Changes(gone={block}, foreign={block}) == watch.read()


def test_lo_is_told_of(netlink: Any, watch: RouteWatch) -> None:
    """A loopback interface that goes down takes all routes with it; up again, it has to be seen."""
    netlink.link("set", ifname="lo", state="down")
    down = watch.read()
    netlink.link("set", ifname="lo", state="up")
    up = watch.read()

    assert (True, True) == (down.down, down.unsure)
    assert (False, True) == (up.down, up.unsure)


def test_what_was_too_much_is_told(netlink: Any, watch: RouteWatch) -> None:
    """When the kernel dropped messages, only a look at the whole table tells; then it goes on."""
    watch._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    for number in range(50):
        netlink.route("add", dst=f"10.64.{number}.0/24", oif=1, table=119, proto=30)
    told = watch.read()
    netlink.route("add", dst=str(V4), oif=1, table=119, proto=30)

    assert told.unsure
    assert V4 in watch.read().made


def test_other_tables_cost_nothing(netlink: Any, watch: RouteWatch) -> None:
    """What other daemons do to their tables does not even reach the process."""
    for number in range(50):
        netlink.route("add", dst=f"10.64.{number}.0/24", oif=1, table=120, proto=12)

    with pytest.raises(BlockingIOError):
        watch._socket.recv(1 << 16)


@pytest.mark.parametrize(
    "arguments",
    [(), ("listen",), ("listen", "namespace")],
    ids=["binds", "listens", "listens with the rights of a namespace of its own"],
)
def test_who_may_not_change_routes_cannot_keep_the_table(
    netlink: Any, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """A user without rights who takes the lock's name is told of, and not heeded.

    The name of its process is no text.
    """
    squatter = subprocess.Popen(
        [
            *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
            *(sys.executable, "-I", "-c", _SQUATTER, *arguments),
        ],
        stdout=subprocess.PIPE,
        cwd="/",
    )
    try:
        assert squatter.stdout is not None
        there = squatter.stdout.readline()
        if "namespace" in arguments and not there:
            pytest.skip("no user may make a user namespace here")
        assert b"there\n" == there
        with Daemon(tmp_path / "data", *ONE) as daemon:
            fill(daemon)
            wait_for(lambda: blocks(daemon) == routes(netlink), "the routes")
            said = health(daemon)
            log = daemon.log
    finally:
        squatter.kill()
        squatter.wait()
        assert squatter.stdout is not None
        squatter.stdout.close()

    assert "exported" == said
    assert 1 == log.count("it is not heeded")


def test_the_lock_ends_with_its_holder(netlink: Any) -> None:
    """One at a time has a table's lock; it is free as soon as it is closed."""
    one, two = TableLock(119, 30), TableLock(119, 30)
    one.claim()
    with pytest.raises(TableTakenError, match=f"process {os.getpid()}"):
        two.claim()
    for _ in range(300):
        # However many ask, those who come later are answered.
        one.accept()
        with pytest.raises(TableTakenError):
            two.claim()
    one.close()
    two.claim()
    with pytest.raises(TableTakenError):
        one.claim()
    one.close()
    two.close()


def test_a_holder_that_is_stopped_holds_on(netlink: Any) -> None:
    """However often it is asked, a holder that does not answer for a while has the lock still."""
    one, two = TableLock(119, 30), TableLock(119, 30)
    one.claim()
    for _ in range(1000):
        with pytest.raises(TableTakenError):
            two.claim()
    one.close()
    two.claim()

    assert two.fileno() is not None
    assert "" == two.squatter
    two.close()


def test_each_network_namespace_has_tables_of_its_own(netlink: Any) -> None:
    """What is locked in one namespace is free in another."""
    one, two = TableLock(119, 30), TableLock(119, 30)
    one.claim()
    with Namespace() as other, other.entered():
        two.claim()
    one.close()
    two.close()
