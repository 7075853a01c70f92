"""Fixtures for the tests of the plugin."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kits.daemon.process import Daemon
from tests.kits.plugin.cni import Plugin, new_id
from tests.kits.system.small_disks import small_disk


@pytest.fixture
def container() -> str:
    """The ID of a container that nobody else has."""
    return new_id()


@pytest.fixture
def plugin(executable: Path, shared_daemon: Daemon, tmp_path: Path) -> Plugin:
    """The plugin with the module's daemon."""
    return Plugin(executable, f"http://{shared_daemon.address}", tmp_path / "spool")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    with small_disk(tmp_path / "disk", "64k") as path:
        yield path
