"""The floors of the house: an import goes down only, and the rules know no input or output."""

# expected == actual

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.conftest import SLOWEST

ROOT = Path(__file__).parent.parent
#: More would not be read in one go.
LINES_MAX = 400

#: The modules of the daemon, the highest floor first. Those of one floor do not know each other.
FLOORS = (
    {"coild.__main__"},
    {"coild.cli"},
    {"coild.daemon"},
    {"coild.routing.setup", "coild.recovery", "coild.upkeep.sealed_watch", "coild.startup.steps"},
    {"coild.startup.kept_releases", "coild.startup.reboot"},
    {"coild.http.api", "coild.allocation.exhaustion", "coild.http.server"},
    {"coild.http.about", "coild.http.openapi", "coild.http.connections"},
    {"coild.http.container_answers"},
    {"coild.http.answers"},
    {"coild.http.operations"},
    {"coild.http.errors", "coild.http.messages"},
    {"coild.process.listen", "coild.process.socket_watch", "coild.http.status"},
    {
        "coild.upkeep.compactor",
        "coild.routing.exporter",
        "coild.routing.netlink",
        "coild.allocation.node_addresses",
        "coild.process.unix_socket",
        "coild.upkeep.worker",
    },
    {"coild.upkeep.compaction_plan"},
    {
        "coild.service",
        "coild.config.config",
        "coild.process.tcp",
        "coild.http.guard",
        "coild.vocabulary",
        "coild.upkeep.prune_orders",
        "coild.http.bodies",
        "coild.http.budget",
        "coild.http.framing",
    },
    {"coild.allocation.by_container", "coild.allocation.keeper"},
    {"coild.allocation.committer"},
    {
        "coild.rules.allocator",
        "coild.blocks.static",
        "coild.config.pools",
    },
    {"coild.process.clock_watch", "coild.routing.others"},
    {"coild.routing.route_watch", "coild.routing.table_lock"},
    {"coild.rules.apart", "coild.rules.unicast"},
    {
        "coild.routing.announcer",
        "coild.process.boot",
        "coild.process.threads",
        "coild.rules.free_list",
        "coild.blocks",
        "coild.config.layers",
        "coild.spool.releases",
    },
    {"coild.upkeep.ages", "coild.rules.gateway_use", "coild.audit.ledger"},
    {"coild.audit.diff", "coild.audit.invariants"},
    {"coild.rules.projection", "coild.audit.times"},
    {"coild.rules.holding"},
    {
        "coild.process.address_file",
        "coild.config.endpoint",
        "coild.rules.events",
        "coild.process.interfaces",
        "coild.process.clock",
        "coild.allocation.recent_allocations",
        "coild.allocation.deadline",
        "coild.rules.limits",
        "coild.process.log_limit",
        "coild.process.logs",
        "coild.allocation.pending",
        "coild.http.readiness",
        "coild.spool.entries",
        "coild.spool.files",
        "coild.process.systemd",
        "coild.startup",
        "coild.rules.units",
        "coild.process.worker_thread",
        "coild.allocation.write_gate",
    },
    {"coild.rules.addresses", "coild.config.files", "coild.process.probe", "coild.process.signals"},
    {"coild.rules.ranges", "coild.rules.printable"},
    {"coild"},
)
FLOOR_OF = {module: height for height, floor in enumerate(reversed(FLOORS)) for module in floor}

#: The rules, which a test or a replay drives a million times a second.
PURE = (
    "allocator",
    "projection",
    "holding",
    "events",
    "addresses",
    "freelist",
    "difference",
    "invariants",
    "apart",
    "ranges",
    "unicast",
)
IMPURE = {
    "asyncio",
    "io",
    "journal",
    "logging",
    "os",
    "pathlib",
    "random",
    "sanic",
    "shutil",
    "socket",
    "subprocess",
    "sys",
    "tempfile",
    "threading",
    "time",
    "tools",
    "uvloop",
}

SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("coild", "journal", "tools")
    for path in sorted((ROOT / package).rglob("*.py"))
}
DAEMON = [module for module in SOURCES if module.partition(".")[0] == "coild"]
JOURNAL = [module for module in SOURCES if module.partition(".")[0] == "journal"]


def imports(module: str) -> set[str]:
    """All that a module imports, wherever in the file; of our own packages, the modules."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(SOURCES[module].read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} has a relative import, which this cannot follow"
            source = node.module or ""
            # `from coild import logs` is a module, `from coild import __version__` is not.
            names = {f"{source}.{alias.name}" for alias in node.names}
            found |= (names & SOURCES.keys()) or {source}
    return found


def packages(module: str) -> set[str]:
    """The top level packages that a module imports."""
    return {name.partition(".")[0] for name in imports(module)}


def test_every_module_of_the_daemon_has_its_floor() -> None:
    """A new module must be given a place; one that is gone has none."""
    assert set(DAEMON) == set(FLOOR_OF)


@pytest.mark.parametrize("module", DAEMON)
def test_imports_go_down_only(module: str) -> None:
    """A module imports only what lies on a lower floor than its own."""
    ours = imports(module) & set(DAEMON)

    assert not {name for name in ours if FLOOR_OF[name] >= FLOOR_OF[module]}


@pytest.mark.parametrize("module", PURE)
def test_the_rules_do_no_input_or_output(module: str) -> None:
    """Allocator, projection, events, addresses and the free list know no clock, disk or loop."""
    assert not packages(f"coild.{module}") & IMPURE


@pytest.mark.parametrize("module", PURE)
def test_the_rules_stand_on_rules(module: str) -> None:
    """Nor do they import one of ours that does."""
    ours = imports(f"coild.{module}") & set(DAEMON)

    assert ours <= {f"coild.{name}" for name in PURE}


@pytest.mark.parametrize("module", JOURNAL)
def test_the_journal_knows_nothing_of_addresses(module: str) -> None:
    """The journal imports neither the daemon nor the tools nor a web server."""
    assert not packages(module) & {"coild", "tools", "tests", "sanic", "uvloop"}


def test_the_codec_of_the_journal_touches_no_file() -> None:
    """Bytes to frames and back: the codec does no input or output."""
    assert not packages("journal.format.codec") & (IMPURE - {"journal"})


@pytest.mark.parametrize("module", DAEMON)
def test_the_daemon_knows_nothing_of_the_tools(module: str) -> None:
    """Tools stand on top of the daemon and of the journal, and nothing stands on them."""
    assert not packages(module) & {"tools", "tests"}


@pytest.mark.parametrize("module", DAEMON)
def test_the_journal_is_entered_by_its_front_door(module: str) -> None:
    """The daemon imports the package `journal`, none of its modules."""
    assert not {name for name in imports(module) if name.startswith("journal.")}


@pytest.mark.parametrize("module", SOURCES)
def test_files_stay_short(module: str) -> None:
    """No source file is longer than what is read in one go."""
    assert len(SOURCES[module].read_text().splitlines()) <= LINES_MAX


@pytest.mark.parametrize("name", SLOWEST)
def test_the_slowest_files_are_there(name: str) -> None:
    """What is begun first is a file of tests."""
    assert (ROOT / "tests" / f"test_{name}.py").exists()
