"""The real daemon and the routes of a network namespace: what it makes, says and survives."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.kits.daemon.process import Daemon, command, ended, environment, wait_for
from tests.kits.system.routes import health, routes, set_lo

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may make network namespaces")

POOL = "default=10.64.0.0/16,fd00:64::/64"
FOREIGN = 99
#: Drops the capability, and leaves the rest of root's.
WITHOUT = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")


class Unprivileged(Daemon):
    """One that may not change routes."""

    runner = WITHOUT


def blocks(daemon: Daemon, protocol: int = 30) -> set[tuple[str, int]]:
    """What should be there: a route to each block."""
    held = daemon.status()["address-blocks"].get("default", [])
    return {(block, protocol) for block in held}


def blocks_of(found: set[tuple[str, int]]) -> set[str]:
    """The destinations of our protocol."""
    return {destination for destination, protocol in found if protocol == 30}


@pytest.mark.parametrize(
    ("arguments", "table"),
    [
        (("--export-routes",), 119),
        (("--table-id", "120"), 120),
        (("--protocol-id", "31"), 119),
        (("--export-routes", "--table-id", "120"), 120),
    ],
)
def test_routes_that_are_asked_for_need_the_right(
    netlink: Any, tmp_path: Path, arguments: tuple[str, ...], table: int
) -> None:
    """Asked for routes without the capability, coild exits 1 with one line that says what to do."""
    variables = environment()
    del variables["COILD_EXPORT_ROUTES"]
    done = ended(
        [
            *WITHOUT,
            *command("--data-dir", str(tmp_path / "data"), "--http", "127.0.0.1:0", *arguments),
        ],
        env=variables,
    )

    last = done.stderr.splitlines()[-1]
    assert 1 == done.returncode
    assert (
        f"coild: export-routes: cannot export routes to table {table}: this process has not the "
        "capability CAP_NET_ADMIN; give coild CAP_NET_ADMIN, or start it with --no-export-routes"
    ) == last
    assert "Traceback" not in done.stderr
    assert set() == routes(netlink, table)


def test_by_default_it_serves_without(netlink: Any, tmp_path: Path) -> None:
    """Who asked for nothing gets one notice, and addresses."""
    with Unprivileged(tmp_path / "data", COILD_EXPORT_ROUTES="auto") as daemon:
        status = daemon.allocate("c0").status_code
        said = health(daemon)
        ended = daemon.stop()
        log = daemon.log

    assert (200, "off", 0) == (status, said, ended)
    assert 1 == log.count("exported")
    assert (
        "blocks are not exported as routes: this process has not the capability CAP_NET_ADMIN "
        "(see --export-routes)"
    ) in log


def test_by_default_it_exports_where_it_may(netlink: Any, tmp_path: Path) -> None:
    """Who asked for nothing but may gets the routes."""
    with Daemon(tmp_path / "data", "--pool", POOL, COILD_EXPORT_ROUTES="auto") as daemon:
        daemon.allocate("c0")
        daemon.allocate("c1", **{"address-type": "ipv6"})
        wait_for(lambda: 2 == len(routes(netlink)), "the routes")

        assert blocks(daemon) == routes(netlink)
        assert "exported" == health(daemon)


def test_a_start_makes_the_table_equal(netlink: Any, tmp_path: Path) -> None:
    """Stale routes of coild's are gone when it serves, those of others and its own are there."""
    for destination, protocol in (("10.64.9.0/27", 30), ("10.9.0.0/27", FOREIGN)):
        netlink.route("add", dst=destination, oif=1, table=119, proto=protocol)
    netlink.route("add", dst="10.64.8.0/27", oif=1, table=120, proto=30)
    foreign = {("10.9.0.0/27", FOREIGN)}
    with Daemon(tmp_path / "data", "--export-routes", "--pool", POOL) as daemon:
        at_first = routes(netlink)
        daemon.allocate("c0")
        daemon.allocate("c1", **{"address-type": "ipv6"})
        made = foreign | blocks(daemon)
        wait_for(lambda: made == routes(netlink), "the routes")
        daemon.kill()
        after_a_crash = routes(netlink)
        netlink.route("del", dst=min(blocks_of(made)), oif=1, table=119, proto=30)
        daemon.start()
        # At once: a start is not over before the table is equal.
        after_a_start = routes(netlink)
        ended = daemon.stop()

    assert foreign == at_first
    assert 3 == len(made)
    assert made == after_a_crash == after_a_start
    # A stop leaves the routes, for the pods are there.
    assert (0, made) == (ended, routes(netlink))
    assert {("10.64.8.0/27", 30)} == routes(netlink, 120)


def test_another_table_and_protocol(netlink: Any, tmp_path: Path) -> None:
    """--table-id and --protocol-id say where, and ask for routes."""
    arguments = ("--table-id", "1000", "--protocol-id", "31", "--pool", POOL)
    variables = {"COILD_EXPORT_ROUTES": "auto"}
    with Daemon(tmp_path / "data", *arguments, **variables) as daemon:
        daemon.allocate("c0")
        wait_for(lambda: routes(netlink, 1000), "the route")

        assert blocks(daemon, 31) == routes(netlink, 1000)
        assert set() == routes(netlink)


def test_a_failure_fails_no_request(netlink: Any, tmp_path: Path) -> None:
    """With lo down addresses are handed out, health says failing, the log once; then it heals."""
    path = tmp_path / "socket"
    arguments = ("--export-routes", "--block-size", "0", "--pool", POOL, "--socket", str(path))
    with Daemon(tmp_path / "data", *arguments) as daemon:
        daemon.ask_by(path)
        set_lo(netlink, "down")
        statuses = [daemon.allocate(f"c{number}").status_code for number in range(3)]
        wait_for(lambda: "failing" == health(daemon), "the failure to be seen")
        statuses += [daemon.allocate(f"d{number}").status_code for number in range(3)]
        wait_for(lambda: "tried again" in daemon.log, "the failure to be told")
        set_lo(netlink, "up")
        wait_for(lambda: "exported" == health(daemon), "it to heal")
        expected, found = blocks(daemon), routes(netlink)
        wait_for(lambda: "exported again" in daemon.log, "that to be told")
        ended = daemon.stop()
        log = daemon.log

    assert [200] * 6 == statuses
    assert 6 == len(found)
    assert expected == found
    assert (1, 1) == (log.count("Network is down; is lo up?"), log.count("exported again"))
    assert 0 == ended


def test_a_foreign_route_in_the_way(netlink: Any, tmp_path: Path) -> None:
    """Another's route to a block is not replaced: it is told with its protocol; pods start."""
    netlink.route("add", dst="10.64.0.0/27", oif=1, table=119, proto=FOREIGN)
    with Daemon(tmp_path / "data", "--export-routes", "--pool", POOL) as daemon:
        status = daemon.allocate("c0").status_code
        wait_for(lambda: "failing" == health(daemon), "the failure to be seen")
        found = routes(netlink)
        wait_for(lambda: "its protocol is 99; remove it" in daemon.log, "it to be told")
        netlink.route("del", dst="10.64.0.0/27", oif=1, table=119, proto=FOREIGN)
        wait_for(lambda: "exported" == health(daemon), "it to heal")

        assert 200 == status
        assert {("10.64.0.0/27", FOREIGN)} == found
        assert {("10.64.0.0/27", 30)} == routes(netlink)


def test_many_blocks(netlink: Any, tmp_path: Path) -> None:
    """Hundreds of blocks one after the other are hundreds of routes; a stop cuts none short."""
    arguments = ("--export-routes", "--block-size", "1", "--pool", POOL)
    with Daemon(tmp_path / "data", *arguments) as daemon:
        statuses = {daemon.allocate(f"c{number}").status_code for number in range(400)}
        ended = daemon.stop(signal.SIGINT)
        daemon.start()
        expected = blocks(daemon)

        assert {200} == statuses
        assert 200 == len(expected)
        assert expected == routes(netlink)
        assert 0 == ended


def test_blocks_are_given_back(netlink: Any, tmp_path: Path) -> None:
    """An empty block goes with its route, and the log has no warning."""
    arguments = ("--export-routes", "--scan-interval", "1s", "--reuse-after", "0s", "--pool", POOL)
    with Daemon(tmp_path / "data", *arguments) as daemon:
        for number in range(3):
            daemon.allocate(f"c{number}", **{"address-type": "ipv6"})
            daemon.release(f"c{number}")
        wait_for(lambda: not blocks(daemon), "the block to be given back")

        assert set() == routes(netlink)
        assert "WARN" not in daemon.log.upper()
