"""Fixtures for all tests."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.kits.daemon.process import Daemon
from tests.kits.journal.verify import Made
from tests.kits.plugin.cni import NOBODY, Plugin, install_plugin
from tests.kits.plugin.spool import Node

# A slow moment of the machine is no failure: what must be fast is measured by `just bench`.
settings.register_profile("coild", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("coild")
# What the tests start is as in a terminal: a shell's background jobs ignore SIGINT, and some
# environments have Python write each line at once.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.pop("PYTHONUNBUFFERED", None)


#: Files that take longest, the longest first: one that begins last is waited for by all. Whether
#: they still do, `pytest --durations=0` tells.
SLOWEST = (
    *("displaced_schedules", "compact", "full_disk", "cni_real", "process", "displaced"),
    *("crash", "spool_plugin", "reboot_real", "crash_campaign", "set_apart", "socket_file"),
    *("exit_status", "journal_index", "history_pruned", "fuzz_http", "disk_errors", "races"),
    *("http_properties", "memory", "routes_others", "routes_real", "slow_clients", "old_journals"),
    *("cni_plugin", "containerd", "two_nodes", "systemd", "damage", "readiness", "probe", "soak"),
)
_PLACES = {f"test_{name}.py": place for place, name in enumerate(SLOWEST)}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """What `-n auto` is: two for each of a few cores, for most tests wait for disks and clocks."""
    cores = len(os.sched_getaffinity(0))
    return max(cores, min(2 * cores, 8))


def pytest_configure(config: pytest.Config) -> None:
    """Have `--dist loadfile` go by our order of the files, not by how many tests they have."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slowest files first; the others, and what is in a file, stay in random order."""
    items.sort(key=lambda item: _PLACES.get(item.path.name, len(_PLACES)))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI, a test that was skipped is a failure: whatever it misses, the project must install."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter is not None else []
    if os.environ.get("CI") and skipped and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="module", autouse=True)
def garbage() -> Iterator[None]:
    """A file that is left open is told of where it was left, not with whatever runs later."""
    yield
    gc.collect()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where a journal may be made."""
    return tmp_path / "journal"


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """A compacted journal of coild's events."""
    return Made(tmp_path / "journal")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A coild of the test's own, with the embedded default pools."""
    with Daemon(tmp_path / "data") as running:
        yield running


@pytest.fixture(scope="module")
def shared_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One coild for the tests of a module that clean up after themselves or do not mind."""
    data_dir = tmp_path_factory.mktemp("shared") / "data"
    # Small segments: such tests read the whole journal often.
    with Daemon(data_dir, "--segment-size", "1MiB") as running:
        yield running


@pytest.fixture(scope="session")
def executable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plugin, installed."""
    directory = tmp_path_factory.mktemp("bin")
    done = install_plugin(directory)
    assert done.returncode == 0, done.stderr
    return directory / "coild-ipam"


@pytest.fixture
def node(executable: Path, daemon: Daemon) -> Node:
    """A node of the test's own."""
    return Node(executable, daemon)


@pytest.fixture
def alone(executable: Path, tmp_path: Path) -> Plugin:
    """The plugin with no daemon at all."""
    return Plugin(executable, NOBODY, tmp_path / "spool")
