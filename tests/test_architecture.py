"""The floors of the house: imports go down only, rooms stay small, and the rules do no I/O."""

# expected == actual

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
#: More would not be read in one go.
LINES_MAX = 400
FILES_MAX = 20
#: What a newcomer sees first of the daemon.
FIRST_LOOK_MAX = 18

#: The folders and files of each package, the highest floor first: all that has to be listed.
FLOORS = {
    "coild": (
        "__main__",
        "cli",
        "daemon",
        "startup",
        "recovery",
        "http",
        "upkeep",
        "allocation",
        "spool",
        "routing",
        "blocks",
        "process",
        "vocabulary",
        "audit",
        "config",
        "rules",
        "__init__",
    ),
    "journal": (
        "__init__",
        "repair",
        "check",
        "compact",
        "write",
        "read",
        "format",
        "fs",
        "errors",
    ),
}

#: The rules are driven a million times a second by tests and replays.
PURE = "coild.rules"
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
FOLDERS = sorted(
    {path.parent for path in SOURCES.values()}
    | {path.parent for path in (ROOT / "tests").rglob("*") if "__pycache__" not in path.parts}
)


def of(package: str) -> list[str]:
    """The modules of a package, by name."""
    return [module for module in SOURCES if f"{module}.".startswith(f"{package}.")]


def imports(module: str) -> set[str]:
    """All that a module imports, wherever in the file; of our own packages, the modules."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(SOURCES[module].read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} has a relative import, which this cannot follow"
            source = node.module or ""
            # `from coild import cli` is a module, `from coild import __version__` is not.
            names = {f"{source}.{alias.name}" for alias in node.names}
            found |= (names & SOURCES.keys()) or {source}
    return found


def packages(module: str) -> set[str]:
    """The top level packages that a module imports."""
    return {name.partition(".")[0] for name in imports(module)}


def room(module: str) -> str:
    """The folder or file of its package that a module is in or is."""
    return [*module.split("."), "__init__"][1]


@pytest.mark.parametrize("package", FLOORS)
def test_every_room_has_its_floor(package: str) -> None:
    """A new folder or file at the top must be given a place; one that is gone has none."""
    assert {room(module) for module in of(package)} == set(FLOORS[package])


@pytest.mark.parametrize("module", [module for package in FLOORS for module in of(package)])
def test_imports_go_down_only(module: str) -> None:
    """A module imports from its own room, or from a room on a lower floor."""
    floors = FLOORS[module.partition(".")[0]]
    ours = imports(module) & set(of(module.partition(".")[0]))

    assert not {name for name in ours if floors.index(room(name)) < floors.index(room(module))}


@pytest.mark.parametrize("package", ["coild", "journal", "tools"])
def test_imports_make_no_circle(package: str) -> None:
    """Within a room, too, there is an order in which the modules can be read."""
    graph = {module: (imports(module) & set(of(package))) - {module} for module in of(package)}

    assert list(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("module", of(PURE))
def test_the_rules_do_no_input_or_output(module: str) -> None:
    """The rules know no clock, disk or event loop."""
    assert not packages(module) & IMPURE


def test_the_codec_of_the_journal_touches_no_file() -> None:
    """Bytes to frames and back: the codec does no input or output."""
    assert not packages("journal.format.codec") & (IMPURE - {"journal"})


@pytest.mark.parametrize("module", of("journal"))
def test_the_journal_knows_nothing_of_addresses(module: str) -> None:
    """The journal imports neither the daemon nor the tools nor a web server."""
    assert not packages(module) & {"coild", "tools", "tests", "sanic", "uvloop"}


@pytest.mark.parametrize("module", of("coild"))
def test_the_daemon_knows_nothing_of_the_tools(module: str) -> None:
    """Tools stand on top of the daemon and of the journal, and nothing stands on them."""
    assert not packages(module) & {"tools", "tests"}


@pytest.mark.parametrize("module", of("coild"))
def test_the_journal_is_entered_by_its_front_door(module: str) -> None:
    """The daemon imports the package `journal`, none of its modules."""
    assert not {name for name in imports(module) if name.startswith("journal.")}


def exported(package: str) -> set[str]:
    """What the `__all__` of a package or room names: its front door."""
    for node in ast.parse(SOURCES[package].read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


def taken(module: str) -> set[tuple[str, str]]:
    """Of the daemon and the journal, what a module imports: from where, and by which name."""
    found: set[tuple[str, str]] = set()
    for node in ast.walk(ast.parse(SOURCES[module].read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name.rpartition(".")[::2] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.update((node.module or "", alias.name) for alias in node.names)
    return {(source, name) for source, name in found if source.partition(".")[0] in FLOORS}


def is_through_a_door(source: str, name: str) -> bool:
    """Whether a room exports the name, or the whole module `source` that has it."""
    if SOURCES[source].name == "__init__.py":
        return name in exported(source)
    room, _, module = source.rpartition(".")
    return module in exported(room)


@pytest.mark.parametrize("module", of("tools"))
def test_the_tools_come_in_by_the_front_doors(module: str) -> None:
    """They take from the daemon and the journal what their rooms export, nothing behind it."""
    assert not {
        (source, name) for source, name in taken(module) if not is_through_a_door(source, name)
    }


def test_the_doors_are_no_wider_than_the_tools_need() -> None:
    """What a room exports, a tool takes: a name, or a module as a whole."""
    used = {each for module in of("tools") for each in taken(module)}
    names = {f"{source}.{name}" for source, name in used} | {source for source, _ in used}
    rooms = [module for module in SOURCES if module.count(".") == 1 and exported(module)]

    assert not {
        f"{room}.{name}"
        for room in rooms
        for name in exported(room)
        if f"{room}.{name}" not in names
    }


@pytest.mark.parametrize("module", SOURCES)
def test_files_stay_short(module: str) -> None:
    """No source file is longer than what is read in one go."""
    assert len(SOURCES[module].read_text().splitlines()) <= LINES_MAX


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_folders_stay_small(folder: Path) -> None:
    """No folder holds more files than are taken in at a glance, the daemon's own fewer entries."""
    entries = [path for path in folder.iterdir() if path.name != "__pycache__"]

    assert sum(path.is_file() for path in entries) <= FILES_MAX
    if folder == ROOT / "coild":
        assert len(entries) <= FIRST_LOOK_MAX
