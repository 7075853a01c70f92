"""Fixtures for all tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon_kit import Daemon


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A coild of the test's own, with the embedded default pools."""
    with Daemon(tmp_path / "data") as running:
        yield running


@pytest.fixture(scope="module")
def shared_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One coild for the tests of a module that clean up after themselves or do not mind."""
    with Daemon(tmp_path_factory.mktemp("shared") / "data") as running:
        yield running
