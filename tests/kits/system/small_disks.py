"""File systems of a few pages, read-only or full: what only root can have."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kits.daemon.process import ended


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    """A file system of this size, as tmpfs takes it, at a new directory; only in CI it must be."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    path.mkdir()
    mounted = ended(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(path)])
    if mounted.returncode != 0:
        assert not os.environ.get("CI"), f"CI must test a full disk: {mounted.stderr}"
        pytest.skip(f"cannot mount a small file system here: {mounted.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(disk: Path) -> None:
    """Leave no byte of it free."""
    with (disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 10))


def make_read_only(disk: Path) -> None:
    """Refuse to write there from now on."""
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
