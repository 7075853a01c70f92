"""Network namespaces of the test's own; with their loopback interface up and nothing else."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest
from pyroute2 import IPRoute, netns

_NUMBERS = itertools.count()


class Namespace:
    """A network namespace; a context manager that removes it. Skips all users but root."""

    def __init__(self) -> None:
        self._name = f"coild-test-{os.getpid()}-{next(_NUMBERS)}"

    @property
    def path(self) -> str:
        """The file that a runtime names it by."""
        return f"{netns.NETNS_RUN_DIR}/{self._name}"

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Have this thread, and the threads and processes that it starts, in the namespace."""
        with Path("/proc/thread-self/ns/net").open() as before:
            netns.setns(self._name)
            try:
                yield
            finally:
                netns.setns(before.fileno())

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            pytest.skip("only root may make network namespaces")
        netns.create(self._name)
        with self.entered(), IPRoute() as netlink:
            netlink.link("set", ifname="lo", state="up")
        return self

    def __exit__(self, *_: object) -> None:
        netns.remove(self._name)
