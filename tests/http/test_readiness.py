"""What probes are told: /livez, /readyz and its lines, and HEAD wherever GET is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from coild.http.readiness import Check, Readiness, failing, verbose
from tests.failures.test_full_disk import allocate_all, fill_beside
from tests.kits.daemon.openapi import Contract
from tests.kits.daemon.process import Daemon
from tests.kits.plugin.cni import Plugin
from tests.kits.system.small_disks import small_disk

GETS = ("/status", "/health", "/livez", "/readyz", "/readyz?verbose", "/openapi.json")


def told(daemon: Daemon, name: str) -> str:
    """What a check of /readyz has to tell."""
    (check,) = [
        each for each in daemon.client.get("/readyz").json()["checks"] if each["name"] == name
    ]
    assert check["ok"] is not bool(check["reason"])
    return str(check["reason"])


def test_a_daemon_that_serves_is_alive_and_ready(daemon: Daemon) -> None:
    """Both are 200; each check is well, in JSON and as a line of text."""
    assert daemon.client.get("/livez").json() == {"status": 200}
    ready = daemon.client.get("/readyz").json()
    names = [check["name"] for check in ready["checks"]]

    assert ready["status"] == 200
    assert all(check["ok"] and not check["reason"] for check in ready["checks"])
    assert {"alive", "journal", "start", "pools", "routes"} <= set(names)
    for query in ("?verbose", "?verbose=true", "?a=b&verbose="):
        text = daemon.client.get(f"/readyz{query}")

        assert text.headers["content-type"] == "text/plain; charset=utf-8"
        assert text.text.splitlines() == [
            *(f"[+]{name} ok" for name in names),
            "readyz check passed",
        ]


@pytest.mark.parametrize("target", GETS)
def test_head_is_get_without_the_body(daemon: Daemon, target: str) -> None:
    """HEAD has the status and the headers of GET, and no byte of a body."""
    daemon.allocate("c1")
    want, got = daemon.client.get(target), daemon.client.head(target)

    assert want.status_code == got.status_code == 200
    assert dict(want.headers) == dict(got.headers)
    assert int(got.headers["content-length"]) == len(want.content)
    assert got.content == b""


def test_head_of_an_address(daemon: Daemon) -> None:
    """HEAD says whether a container has an address, as GET does; the connection goes on."""
    daemon.allocate("c1")
    with daemon.new_client() as client:
        for container, status in (("c1", 200), ("c2", 404), ("c1", 200)):
            want = client.get(f"/ip/default/web-0/{container}")
            got = client.head(f"/ip/default/web-0/{container}")

            assert (status, dict(want.headers)) == (got.status_code, dict(got.headers))
            assert got.content == b""


@pytest.mark.parametrize("target", ["/livez", "/readyz", "/readyz?verbose"])
def test_a_web_page_is_told_nothing(daemon: Daemon, target: str) -> None:
    """The guard stands before the probes, too."""
    headers = {"Host": "evil.example"}

    assert daemon.client.get(target, headers=headers).status_code == 403
    assert daemon.client.head(target, headers=headers).status_code == 403


def test_an_exhausted_pool_is_told_and_fails_nothing(tmp_path: Path) -> None:
    """The pool and its family are named while it has no address; a release ends that."""
    with Daemon(
        tmp_path / "data", "--pool", "default=10.4.0.0/30,fd00::/126", "--block-size", "1"
    ) as daemon:
        for number in range(4):
            assert told(daemon, "pools") == ""
            daemon.allocate(f"c{number}")
        text = daemon.client.get("/readyz?verbose")

        assert told(daemon, "pools") == "pool 'default' has no free IPv4 address"
        assert text.status_code == 200
        assert "[!]pools told: pool 'default' has no free IPv4 address\n" in text.text
        assert text.text.endswith("readyz check passed\n")
        daemon.release("c0")

        assert told(daemon, "pools") == ""


def test_blocks_of_a_former_configuration_that_fill_a_pool_are_told(tmp_path: Path) -> None:
    """A pool that has no address because blocks of another size stand in it says so."""
    with Daemon(tmp_path / "data", "--pool", "web=10.4.0.0/30", "--block-size", "2") as daemon:
        daemon.allocate("c1", namespace="web")
        daemon.stop()
    with Daemon(tmp_path / "data", "--pool", "default=10.4.0.0/30", "--block-size", "1") as daemon:
        reason = told(daemon, "pools")

    assert reason.startswith("pool 'default' has no free IPv4 address: blocks of a former")
    assert "10.4.0.0/30 of pool 'web'" in reason
    assert "until their 1 addresses are released" in reason


@pytest.fixture(name="disk")
def disk_fixture(tmp_path: Path) -> Iterator[Path]:
    """A disk with little room."""
    with small_disk(tmp_path / "disk", "6m") as path:
        yield path


def test_a_full_disk_fails_readiness_alone(disk: Path, tmp_path: Path, executable: Path) -> None:
    """Without space it is not ready, and says why, in the plugin's STATUS too; and it is alive."""
    with Daemon(disk / "data", "--segment-size", "1MiB", "--compact-after", "0") as daemon:
        contract = Contract(daemon.client.get("/openapi.json").json())
        plugin = Plugin(executable, f"http://{daemon.address}", tmp_path / "spool")
        assert plugin.run("STATUS", "").status == 0
        fill_beside(daemon)
        allocate_all(daemon)
        answer = daemon.client.get("/readyz")
        text = daemon.client.get("/readyz?verbose")

        assert answer.status_code == text.status_code == 503
        assert set(answer.json()) == {"status", "error"}
        assert answer.json()["error"].startswith("journal: no space for the journal: ")
        assert f"[-]journal failed: {answer.json()['error'].removeprefix('journal: ')}\n" in (
            text.text
        )
        assert text.text.endswith("readyz check failed\n")
        contract.check("GET", "/readyz", answer)
        contract.check("GET", "/readyz", text)
        assert daemon.client.head("/readyz").status_code == 503
        assert daemon.client.get("/livez").status_code == 200
        assert daemon.client.get("/health").status_code == 200
        outcome = plugin.run("STATUS", "")

        assert outcome.code == 50
        assert "no space for the journal" in outcome.answer["msg"]


def test_a_check_has_one_line_whatever_it_says() -> None:
    """Line breaks in what is wrong make no further line; what fails is named, what is told not."""
    readiness = Readiness()
    readiness.add("a", lambda: "one\ntwo", fails=True)
    readiness.add("b", lambda: "three\r\nfour")
    readiness.failure = "ends"
    checks = readiness.checks()

    assert Check("a", "one two", fails=True) in checks
    assert failing(checks) == "alive: ends; a: one two"
    assert verbose(checks).splitlines() == [
        "[-]alive failed: ends",
        "[-]a failed: one two",
        "[!]b told: three four",
        "readyz check failed",
    ]
