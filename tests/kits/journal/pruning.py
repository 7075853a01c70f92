"""An order to prune that is carried out while a tool opens files."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from coild.rules.events import HistoryPruned
from journal import prune
from journal.format.segments import list_history
from tests.kits.journal.disks import FS, HookedFileSystem
from tests.kits.journal.history import (
    EPOCH,
    allocated,
    beginning,
    compact,
    cycles,
    released,
    write,
    writing,
)
from tests.kits.system.tool import Main, run_here


class Answer(NamedTuple):
    """The result of a run of the tool."""

    status: int
    stdout: str
    stderr: str


def run_tool(main: Main, directory: Path, *arguments: str) -> Answer:
    """Run a tool in this process, for scripts."""
    done = run_here(main, "--journal", str(directory), "-o", "json", *arguments)
    return Answer(done.returncode, done.stdout, done.stderr)


class Interrupting(HookedFileSystem):
    """A disk on which something else happens before each call that looks for a file, from one on.

    It happens once for each step in `steps`.
    """

    def __init__(self, call: int, steps: list[Callable[[], object]]) -> None:
        super().__init__()
        self.left = call
        self.steps = iter(steps)
        self.before({"open", "list_directory"}, self._look)

    def _look(self) -> None:
        self.left -= 1
        if self.left < 0:
            next(self.steps, lambda: None)()


def interrupted_calls(
    main: Main,
    monkeypatch: pytest.MonkeyPatch,
    place: Path,
    steps: Callable[[Path], list[Callable[[], object]]],
    *arguments: str,
) -> Iterator[tuple[Path, Answer]]:
    """Answers with the steps before each call that looks for a file, each on a copy of its own."""
    for number in range(1000):
        copy = Path(shutil.copytree(place, place.with_name(f"copy-{number}")))
        disk = Interrupting(number, steps(copy))
        with monkeypatch.context() as patched:
            patched.setattr("journal.read.reader.OsFileSystem", lambda disk=disk: disk)
            yield copy, run_tool(main, copy, *arguments)
        shutil.rmtree(copy)
        if disk.left >= 0:
            return
    raise AssertionError("the question never ends")


def legal_answers(main: Main, place: Path, through: list[int], *arguments: str) -> set[Answer]:
    """What is answered before, between and after prunes, on a copy."""
    pruned = Path(shutil.copytree(place, place.with_name("pruned")))
    legal = {run_tool(main, pruned, *arguments)}
    for sequence in through:
        prune(FS, pruned, sequence)
        legal.add(run_tool(main, pruned, *arguments))
    return legal


def ends(directory: Path) -> list[int]:
    """The last sequence of each archived segment."""
    firsts = [file.first_sequence for file in list_history(FS, directory)]
    return [first - 1 for first in firsts[1 : len(list((directory / "archive").glob("*.zst"))) + 1]]


def archived_journal(directory: Path, *, order: bool) -> list[int]:
    """A journal with an archive, and on record that all of it goes; the ends of its segments."""
    old, kept = allocated(0, "old", 0), allocated(0, "kept", 2)
    events = [*beginning(), old, kept, *cycles(15), released(1600, old), *cycles(15, start=20)]
    write(directory, events)
    compact(directory)
    through = ends(directory)
    assert len(through) > 4
    if order:
        with writing(directory) as journal:
            journal.append([HistoryPruned(EPOCH + 4000, through[-1], len(through), 0, "all")])
            journal.write(cycles(3, start=50))
    return through
