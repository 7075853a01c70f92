"""`coild-replay` while an order to prune takes archived history away under it."""

from __future__ import annotations

import re
import shutil
from functools import partial
from pathlib import Path

import pytest

from coild.audit.times import format_utc
from coild.rules.events import HistoryPruned
from journal import prune
from tests.kits.journal.disks import FS
from tests.kits.journal.history import EPOCH, compact, cycles, writing
from tests.kits.journal.pruning import (
    Answer,
    Interrupting,
    archived_journal,
    ends,
    interrupted_calls,
    legal_answers,
    run_tool,
)
from tools.past import lost, open_reader
from tools.replay.cli import main

KEPT = "66"
QUESTIONS = {
    "the end": ["--digest"],
    "an event": ["--until-seq", KEPT],
    "an old event": ["--until-seq", "20"],
    "a time": ["--until", format_utc(EPOCH + 3990)],
    "an old time": ["--until", format_utc(EPOCH + 500)],
    "a difference": ["--diff", "0", KEPT],
    "a check": ["--check"],
    "first steps": ["--step", "-n", "3"],
    "late steps": ["--step", "--from", KEPT],
    "all steps": ["--step"],
    "steps from genesis": ["--step", "--from", "genesis", "-n", "2"],
}


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize(("order", "gradually"), [(True, False), (True, True), (False, False)])
def test_a_replay_while_history_is_pruned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, question: str, *, order: bool, gradually: bool
) -> None:
    """Whenever files go, by order or not: an answer as before or after, and no false alarm."""
    place = tmp_path / "journal"
    through = archived_journal(place, order=order)
    legal = {each[:2] for each in legal_answers(main, place, through, *QUESTIONS[question])}
    steps = through if gradually else through[-1:]
    asked = 0
    for _, answer in interrupted_calls(
        main,
        monkeypatch,
        place,
        lambda copy: [partial(prune, FS, copy, to) for to in steps],
        *QUESTIONS[question],
    ):
        asked += 1
        assert answer[:2] in legal, answer
        if answer.status == 1:
            said = r"the events up to \d+ were pruned; " if order else "are missing"
            assert re.search(said, answer.stderr), answer
        assert not re.search("corrupt|nowhere|No such file", answer.stderr), answer
        assert not re.search("missing" if order else "the events up to", answer.stderr), answer
    assert asked > 5


def _compact_and_prune(directory: Path, answers: list[Answer]) -> None:
    """What `coild-compact --delete` does, after the daemon went on."""
    with writing(directory) as journal:
        journal.write(cycles(10, start=70))
        journal.log.seal()
        compact(directory, journal, time=EPOCH + 8999)
        going = ends(directory)[-1]
        journal.write([HistoryPruned(EPOCH + 9000, going, 1, 0, "all")])
        prune(FS, directory, going)
    answers.append(run_tool(main, directory, "--digest"))


@pytest.mark.parametrize("question", ["the end", "a check", "first steps"])
def test_a_replay_while_the_snapshot_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, question: str
) -> None:
    """The state that it was to begin with is gone, and a newer one is there: no error."""
    place = tmp_path / "journal"
    archived_journal(place, order=True)
    for _, answer in interrupted_calls(
        main,
        monkeypatch,
        place,
        lambda copy: [partial(_compact_and_prune, copy, [])],
        *QUESTIONS[question],
    ):
        assert answer.status == 0, answer
        assert "cannot be used" not in answer.stderr


def test_what_is_said_of_an_order_holds_while_it_is_carried_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever file goes next under the look for the order: the history was pruned, not lost."""
    place = tmp_path / "journal"
    through = archived_journal(place, order=True)
    prune(FS, place, through[0])
    for number in range(1000):
        copy = Path(shutil.copytree(place, tmp_path / f"copy-{number}"))
        disk = Interrupting(number, [partial(prune, FS, copy, to) for to in through[1:]])
        with monkeypatch.context() as patched:
            patched.setattr("journal.read.reader.OsFileSystem", lambda disk=disk: disk)
            said = lost(open_reader(copy))

        assert re.fullmatch(r"the events up to \d+ were pruned", said)
        if disk.left >= 0:
            return
    raise AssertionError("the look never ends")
