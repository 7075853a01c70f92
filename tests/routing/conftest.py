"""Fixtures for the tests of routes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyroute2
import pytest

from tests.kits.system.netns import Namespace


@pytest.fixture
def netlink() -> Iterator[Any]:
    """This thread, and what it starts, is in a namespace, which the test looks at by this."""
    with Namespace() as namespace, namespace.entered(), pyroute2.IPRoute() as netlink:
        yield netlink
