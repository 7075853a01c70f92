"""Whatever is wrong with the export of routes, pods get addresses, and a stop is a good end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kits.daemon.process import Daemon, wait_for


class FaultyDaemon(Daemon):
    """A coild whose routes have a fault."""

    module = "tests.kits.variants.faulty_routes"


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("bug", "the route to 10.64.0.0/27: KeyError('RTA_DST'); addresses are handed out"),
        ("ends", "a task of the daemon ended, this is a bug"),
    ],
)
def test_a_bug_is_told_once_in_full(tmp_path: Path, fault: str, told: str) -> None:
    """An error that nobody expects is logged with its traceback, and nothing else happens."""
    with FaultyDaemon(tmp_path / "data", "--export-routes", ROUTES=fault) as daemon:
        statuses = [daemon.allocate("c0").status_code]
        wait_for(lambda: told in daemon.log, "the bug to be told")
        statuses.append(daemon.allocate("c1").status_code)
        routes = daemon.client.get("/health").json()["routes"]
        ended = daemon.stop()
        log = daemon.log

    assert [200, 200] == statuses
    assert "failing" == routes
    assert (1, 1) == (log.count(told), log.count("Traceback"))
    assert 0 == ended


def test_a_stop_does_not_wait_for_the_kernel(tmp_path: Path) -> None:
    """A thread that the kernel never returns to keeps neither the journal nor the process open."""
    with FaultyDaemon(tmp_path / "data", "--export-routes", ROUTES="hangs") as daemon:
        status = daemon.allocate("c0").status_code
        wait_for(lambda: "the kernel hangs" in daemon.log, "the kernel to be asked")
        ended = daemon.stop()
        log = daemon.log

    assert (200, 0) == (status, ended)
    assert "the kernel is still busy with the routes, it is left alone" in log
    assert "stopped, head " in log
