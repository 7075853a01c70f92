"""The node's name, given or not, the same or another; and bytes that are no text."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from coild.cli import main
from tests.kits.daemon.process import Daemon, run

BAD = os.fsdecode(b"a\xffb")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (BAD, r"'a\\xffb' is not UTF-8"),
        ("rack/1", "without '/'"),
        ("a\tb", "control characters"),
        ("", "1 to 253 characters"),
        ("x" * 254, "1 to 253 characters"),
    ],
)
def test_a_host_name_is_checked_like_a_given_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, told: str
) -> None:
    """A host name that is no node name is a line that says what to give; given, it is not read."""
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    monkeypatch.delenv("COILD_NODE_NAME", raising=False)
    monkeypatch.delenv("COIL_NODE_NAME", raising=False)
    status = main(["--check-config"])
    refused = capsys.readouterr().err

    assert status == 2
    assert refused.startswith("coild: node-name: none is given, and the host name will not do: ")
    assert told.replace(r"\\", "\\") in refused
    assert "give --node-name" in refused
    assert len(refused.splitlines()) == 1
    assert main(["--check-config", "--node-name", "node-1"]) == 0


@pytest.mark.parametrize(
    ("arguments", "variables", "key"),
    [
        (("--node-name", BAD), {}, "--node-name: "),
        ((), {"COIL_NODE_NAME": BAD}, "COIL_NODE_NAME: "),
        (("--data-dir", f"/{BAD}"), {}, "--data-dir: "),
        ((), {"COILD_SOCKET": f"/{BAD}"}, "COILD_SOCKET: "),
        (("--proc", f"/{BAD}"), {}, "--proc: "),
        (("--allowed-hosts", f"good,{BAD}"), {}, "--allowed-hosts: "),
        ((), {"COILD_POOL": f"{BAD}=10.0.0.0/24"}, "COILD_POOL: "),
    ],
)
def test_bytes_that_are_not_utf_8_are_named(
    arguments: tuple[str, ...], variables: dict[str, str], key: str
) -> None:
    """Whichever value has them, the start ends with 2 and a line that shows the bytes."""
    done = run(*arguments, "--check-config", **variables)

    assert done.returncode == 2
    assert done.stderr.startswith(f"coild: {key}")
    assert r"a\xffb" in done.stderr
    assert "is not UTF-8\n" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_file_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    """The configuration's first byte that is no text is shown, with its place; also by its path."""
    file = tmp_path / f"{BAD}.toml"
    file.write_bytes(b'node-name = "\xff"\n')
    done = run("--config", str(file), "--check-config")

    assert done.returncode == 2
    assert "it is not UTF-8: byte 0xff at offset 13\n" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_another_name_than_at_the_last_start_is_told(tmp_path: Path) -> None:
    """A journal that another name wrote last gets one warning with both, and then none."""
    words = "at the last start with this journal it was "
    before = ""
    for name, former, end in (
        ("one", "", Daemon.kill),
        ("one", "", Daemon.stop),
        ("two", "one", Daemon.kill),
        ("two", "", Daemon.stop),
        ("one", "two", Daemon.stop),
    ):
        with Daemon(tmp_path / "data", "--node-name", name) as daemon:
            end(daemon)
            log = daemon.log.removeprefix(before)
            before = daemon.log

        assert "listening on" in log
        assert log.count(words) == bool(former)
        assert not former or f"this node is {name}, {words}{former}: " in log
