"""Debian's packages for tests: fetched and unpacked beside the system, never installed into it."""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

#: For one call of apt-get: the largest package is 25 MB.
_FETCH_SECONDS_MAX = 100.0
#: `apt-get update` of our own: lists beside the system's, and none of the hooks for its archives.
_PRIVATE_LISTS = """\
Dir::State::Lists "{0}/lists";
Dir::Cache "{0}/cache";
Acquire::Languages "none";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
"""


def package(name: str) -> Path:
    """The directory with the files of a Debian package, as they would lie below /.

    Skips the test, with the reason, where the package cannot be had. Fetched once: for the first
    time, call it where there is a network, which a namespace of the test's own has not.
    """
    found = _package(name)
    if isinstance(found, str):
        pytest.skip(f"no Debian package {name}: {found}")
    return found


@functools.cache
def _package(name: str) -> Path | str:
    """Where the package is unpacked, or in one line why it is not."""
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        return "this machine has no apt-get"
    try:
        cache = _cache()
        unpacked = cache / name
        with (cache / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not unpacked.exists():
                _fetch(name, cache, unpacked)
    except subprocess.CalledProcessError as error:
        return error.stderr.strip() or str(error)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return unpacked


def _cache() -> Path:
    """The directory that keeps packages from one run of the tests to the next."""
    home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    cache = Path(home) / "coild-tests"
    cache.mkdir(parents=True, exist_ok=True)
    return cache


def _fetch(name: str, cache: Path, unpacked: Path) -> None:
    """Unpack a package at `unpacked`, all of it or nothing. Raises CalledProcessError, OSError."""
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=cache) as made:
        directory = Path(made)
        try:
            _apt_get("download", name, inside=directory)
        except subprocess.CalledProcessError:
            # The system has no lists, or such as name a file that was replaced since.
            config = cache / "apt.conf"
            config.write_text(_PRIVATE_LISTS.format(cache))
            (cache / "lists" / "partial").mkdir(parents=True, exist_ok=True)
            (cache / "cache").mkdir(exist_ok=True)
            told = _apt_get("-c", str(config), "update", inside=directory, check=False)
            try:
                _apt_get("-c", str(config), "download", name, inside=directory)
            except subprocess.CalledProcessError as error:
                # Without lists it only says that it knows no such package.
                error.stderr = _complaint(told) or _complaint(error.stderr)
                raise
        (archive,) = directory.glob("*.deb")
        _run("dpkg-deb", "--extract", str(archive), "root", inside=directory)
        (directory / "root").rename(unpacked)


def _complaint(told: str) -> str:
    """The reason of a failure, from apt-get's stderr."""
    lines = [line for line in told.splitlines() if line.startswith(("E: ", "W: "))]
    return lines[0] if lines else ""


def _apt_get(*arguments: str, inside: Path, check: bool = True) -> str:
    # Its user _apt may not write here.
    user = ("-o", "APT::Sandbox::User=root") if os.geteuid() == 0 else ()
    return _run("apt-get", "-q", *user, *arguments, inside=inside, check=check)


def _run(*command: str, inside: Path, check: bool = True) -> str:
    """Run a command; its stderr."""
    return subprocess.run(
        command,
        cwd=inside,
        env=os.environ | {"LC_ALL": "C"},
        capture_output=True,
        text=True,
        timeout=_FETCH_SECONDS_MAX,
        check=check,
    ).stderr
