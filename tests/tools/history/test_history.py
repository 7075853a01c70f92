"""`coild-history`: its answers against a replay and a real daemon, and what it refuses."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings

from coild.audit.times import format_local, format_utc
from coild.rules.projection import Projection
from tests.kits.daemon.process import Daemon, ended, wait_for
from tests.kits.journal.history import (
    ADDRESSES,
    BLOCKS,
    EPOCH,
    NAME,
    allocated,
    ask,
    beginning,
    compact,
    cycles,
    histories,
    released,
    table,
    write,
)
from tests.kits.system.tool import run_here
from tools.history.cli import main


def everything_asked(directory: Path) -> list[list[dict[str, Any]]]:
    """The answers to questions of all kinds."""
    questions = [
        *([address] for address in ADDRESSES),
        *(["--container", f"c{n}"] for n in range(5)),
        ["--pod", f"default/{NAME}"],
        *(["--pool", pool] for pool in BLOCKS),
        *(["--block", block] for block in ("10.64.0.0/31", "fd00:64::/64", "10.64.0.2/32")),
        *([], ["-n", "3"], ["--pool", "web", "-n", "1"], ["-n", "0"]),
        *(["--at", format_utc(EPOCH + at)] for at in (0, 3, 9)),
        ["--since", format_utc(EPOCH + 3), "--until", format_utc(EPOCH + 9)],
        ["--since", format_utc(EPOCH + 3), "-n", "2"],
    ]
    return [ask(directory, *question) for question in questions]


@settings(max_examples=40)
@given(histories())
def test_the_rows_of_an_address_agree_with_a_replay_at_every_boundary(events: list[Any]) -> None:
    """They never overlap, and after each event they say what the state says."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "journal"
        write(directory, events)
        rows = {address: ask(directory, address) for address in ADDRESSES}
    for of_address in rows.values():
        for earlier, later in pairwise(of_address):
            assert earlier["released-seq"] < later["allocated-seq"]
            assert earlier["released-at"] <= later["allocated-at"]
    state = Projection()
    for event in events:
        state.apply(event)
        held = {holding.address: holder for holder, holding in state.holdings.items()}
        told = {
            address: row["container-id"]
            for address, of_address in rows.items()
            for row in of_address
            if row["allocated-seq"] <= state.sequence
            and (row["released-seq"] is None or row["released-seq"] > state.sequence)
        }

        assert held == told


@settings(max_examples=15)
@given(histories())
def test_at_a_moment_it_says_what_the_state_was(events: list[Any]) -> None:
    """`--at` is the state after the last event that is not later."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "journal"
        write(directory, events)
        for moment in sorted({event.time for event in events}):
            state = Projection()
            state.apply_all([event for event in events if event.time <= moment])
            held = {holding.address: holder for holder, holding in state.holdings.items()}
            rows = ask(directory, "--at", format_utc(moment))

            assert held == {row["address"]: row["container-id"] for row in rows}


@settings(max_examples=15)
@given(histories())
def test_compaction_changes_no_answer(events: list[Any]) -> None:
    """All questions have the same answers before and after, with indexes and without."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "journal"
        write(directory, events)
        before = everything_asked(directory)
        compact(directory)
        after = everything_asked(directory)
        for path in [*directory.glob("**/*.idx")]:
            path.unlink()

        assert before == after
        assert before == everything_asked(directory)


def test_the_questions_of_the_issue_against_a_daemon(daemon: Daemon) -> None:
    """Who had it, who held it then, and what a pod, a container, a pool and a block had."""
    journal = daemon.data_dir / "journal"
    address = daemon.allocate("c1").json()["address"]
    between = time.time_ns()
    daemon.release("c1")
    nobody = time.time_ns()
    daemon.allocate("c2", pod="web-1")
    first, *_ = rows = ask(journal, "--pool", "default")

    assert ["c1", "c2"] == [row["container-id"] for row in rows]
    assert (address, "default", "default", "web-0") == (
        first["address"],
        first["pool"],
        first["pod-namespace"],
        first["pod-name"],
    )
    assert first["allocated-at"] < format_utc(between) < first["released-at"]
    assert [first] == ask(journal, address)
    assert [first] == ask(journal, address, "--at", format_utc(between))
    assert [first] == ask(journal, "--pod", "default/web-0")
    assert rows[1:] == ask(journal, "--container", "c2", "--pool", "default")
    assert rows == ask(journal, "--block", first["block"])
    assert rows == ask(journal, "--since", "-2h", "--until", "now", "-n", "50")
    # The mark that vouches for the last event follows it soon.
    window = ("--since", "-2h", "--until", "now", "-n", "50", "-f")
    wait_for(lambda: rows == ask(journal, *window), "the mark")
    assert rows[1:] == ask(journal, "-n", "1")
    assert [] == ask(journal, address, "--at", format_utc(nobody))
    assert [] == ask(journal, "--container", "c1", "--pool", "other")
    assert rows[1]["released-at"] is None


def test_nobody_is_told_with_who_came_before_and_after(directory: Path) -> None:
    """Half-open intervals: at its release nobody holds it, at its allocation the new one does."""
    hour = 3600 * 10**9
    one, two = allocated(hour, "c1", 1, pod="a"), allocated(3 * hour, "c2", 1, pod="b")
    write(directory, [*beginning(), one, released(2 * hour, one), two, released(4 * hour, two)])

    def at(moment: int) -> str:
        return table(directory, "10.64.0.1", "--at", format_utc(EPOCH + moment)).splitlines()[-1]

    local = [format_local(EPOCH + n * hour) for n in range(5)]
    assert at(hour - 1) == f"nobody, before {local[1]} (allocated to default/a, container c1)"
    assert at(2 * hour) == (
        f"nobody, between {local[2]} (released by default/a, container c1) "
        f"and {local[3]} (allocated to default/b, container c2)"
    )
    assert at(4 * hour) == f"nobody, since {local[4]} (released by default/b, container c2)"
    assert at(hour).split()[1:3] == ["default/a", "c1"]
    assert at(2 * hour - 1).split()[1:3] == ["default/a", "c1"]
    assert at(3 * hour).split()[1:3] == ["default/b", "c2"]


def test_that_nobody_held_it_then_is_told_to_scripts_too(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No rows are no JSON, and a line on stderr; a table has the line itself."""
    write(directory, [*beginning(), *cycles(2)])
    moment = EPOCH + 75
    at = ("--at", format_utc(moment))
    questions = [
        *(["--container", "c0"], ["--pod", f"default/{NAME}"], ["--pool", "default"]),
        *(["--block", "10.64.0.0/31"], []),
    ]
    for question in questions:
        said = f"nobody, at {format_local(moment)}\n"
        assert said == table(directory, *question, *at)
        capsys.readouterr()
        assert [] == ask(directory, *question, *at)
        assert f"coild-history: {said}" == capsys.readouterr().err
    assert [] == ask(directory, "10.64.0.1", *at)
    assert "coild-history: nobody, between " in capsys.readouterr().err


def test_no_rows_are_asked_for(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`-n 0` shows none, and does not say that nobody held it."""
    write(directory, [*beginning(), *cycles(2)])
    for question in ([], ["10.64.0.1"], ["--pool", "other"], ["-f", "--until", "now"]):
        capsys.readouterr()

        assert [] == ask(directory, *question, "-n", "0")
        assert capsys.readouterr().err == ""
    assert [] == ask(directory, "--pool", "other")
    assert "nobody" in capsys.readouterr().err


def test_an_ipv4_address_as_ipv6_is_understood(directory: Path) -> None:
    """What a socket of both families shows is the IPv4 address, or block, that it stands for."""
    write(directory, [*beginning(), *cycles(2), allocated(900, "six", 1, pool="web")])
    expected = ask(directory, "10.64.0.1")

    assert ["c0", "c1"] == [row["container-id"] for row in expected]
    for mapped in ("::ffff:10.64.0.1", "::FFFF:a40:1"):
        assert expected == ask(directory, mapped)
    for block in ("::ffff:10.64.0.0/126", "::ffff:0:0/96", "0.0.0.0/0"):
        assert expected == ask(directory, "--block", block)
    # More than what is mapped is a block of IPv6.
    assert ["six"] == [row["container-id"] for row in ask(directory, "--block", "::/0")]


def test_a_value_may_begin_with_a_dash(directory: Path) -> None:
    """A pod, pool or container ID like -x is no option, as long as there is none like it."""
    event = allocated(0, "-x", 1, pod="-y")
    write(directory, [*beginning(), event])
    rows = ask(directory, "--container=-x")

    assert len(rows) == 1
    assert rows == ask(directory, "--container", "-x")
    assert rows == ask(directory, "--pod", "default/-y", "--container", "-x", "-n", "1")
    assert [] == ask(directory, "--pool", "-x")


def test_a_window_has_the_holdings_that_overlap_it(directory: Path) -> None:
    """What ended before it or began after it is left out; what holds on is in."""
    write(directory, [*beginning(), allocated(0, "held", 0), *cycles(5)])

    def within(*bounds: int) -> list[str]:
        options = zip(("--since", "--until"), bounds, strict=False)
        window = [word for name, at in options for word in (name, format_utc(EPOCH + at))]
        return [row["container-id"] for row in ask(directory, *window)]

    assert ["held", "c1", "c2"] == within(149, 200)
    assert ["held", "c2"] == within(150, 200)
    assert ["held"] == within(150, 199)
    assert ["held", "c4"] == within(400)
    assert ["held"] == within(450)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["10.64.0"], "'10.64.0' is no address: write it like 10.64.0.7"),
        (["fe80::1%eth0"], "is no address"),
        (["10.64.0.7/32"], "is no address"),
        (["--pod", "web-0"], "'web-0' is no pod: write it like default/web-0"),
        (["--pod", "a/b/c"], "is no pod"),
        (["--block", "10.64.0.1/27"], "host bits set: did you mean 10.64.0.0/27?"),
        (["--block", "10.64.0.0"], "is no subnet"),
        (["--at", "soon"], "'soon' is no time: write it like"),
        (["--since", "2h"], "'2h' is no time"),
        (["--since", "now", "--until", "-2h"], "swap them"),
        (["--at", "now", "-f"], "leave -f out"),
        (["--at", "now", "-n", "1"], "leave -n out"),
        (["--at", "now", "--since", "-2h"], "leave --since out"),
        (["-n", "x"], "not 'x'"),
        (["-n", "-1"], "not '-1'"),
        (["--container", "-f"], "if it begins with a dash, write --container=VALUE"),
        (["--pod", "--at"], "if it begins with a dash, write --pod=VALUE"),
        (["--pod", "-x"], "'-x' is no pod"),
        (["--block", "-1.2.3.4/5"], "'-1.2.3.4/5' is no subnet"),
        (["--block", "::ffff:10.64.0.1/120"], "has host bits set"),
        (["-o", "xml"], "invalid choice"),
        (["--nonsense"], "unrecognized arguments"),
        (["10.64.0.1", "10.64.0.2"], "unrecognized arguments"),
        (["--since-before", "7d"], "--since-before asks since when one is held: add --held"),
        (["--since-before", "7d", "--at", "now"], "add --held"),
        (["--held", "--at", "now"], "--held asks who holds one now: leave --at out"),
        (["--held", "--since", "-2h"], "leave --since out"),
        (["--held", "--until", "now", "--since-before", "7d"], "leave --until out"),
        (["--held", "-f"], "leave -f out"),
        (["--held", "--since-before", "7"], "'7' is no time: write it like"),
        (["--held", "--since-before", ""], "'' is no time"),
        (["--held", "--since-before", "7y"], "'7y' is no time"),
        (["--held", "--since-before", "99999999w"], "99999999w' is no time"),
        (["--held", "--since-before"], "expected one argument"),
        (["--since", "7d"], "'7d' is no time"),
    ],
)
def test_a_bad_flag_is_one_line_and_exit_2(tmp_path: Path, arguments: list[str], said: str) -> None:
    """Before anything is read, it says what is wrong and how to write it, or what to leave out."""
    done = run_here(main, "--journal", str(tmp_path), *arguments)

    assert (2, "") == (done.returncode, done.stdout)
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_no_journal_is_one_line_and_exit_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The place that was looked at is named."""
    assert main(["--journal", str(tmp_path)]) == 1
    assert str(tmp_path) in capsys.readouterr().err


def test_an_old_journal_is_read() -> None:
    """Whoever holds in the fixture is who its pods are."""
    place = Path(__file__).parents[2] / "old_journals" / "schema-1"
    expected = msgspec.json.decode((place / "expected.json").read_bytes())
    with tempfile.TemporaryDirectory() as scratch:
        # Indexes are made on the way: not in the fixture.
        copy = Path(shutil.copytree(place / "journal", Path(scratch) / "journal"))
        rows = ask(copy, "--at", format_utc(expected["time"]))
        some = ask(copy, "10.64.0.7")

    assert expected["pods"] == {row["container-id"]: row["address"] for row in rows}
    assert some[-1]["container-id"] == "c008b"


def test_it_starts_quickly() -> None:
    """What only the daemon needs is not imported."""
    code = "import sys, tools.history.cli; print(*sys.modules)"
    found = ended([sys.executable, "-c", code], check=True)

    assert not {"sanic", "shtab", "tqdm", "uvloop"} & set(found.stdout.split())
