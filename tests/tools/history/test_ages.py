"""An age that decides what history is lost is only counted by clocks that agree."""

from __future__ import annotations

import subprocess
from pathlib import Path

import msgspec
import pytest

from coild.audit.times import format_utc
from coild.process.clock import Clock
from coild.rules.events import HistoryPruned
from coild.upkeep.ages import AgeUnknownError, age_now
from coild.upkeep.prune_orders import OrderError, describe, give_order, take_order
from journal import Policy
from tests.kits.daemon.process import Daemon
from tests.kits.variants import stepped_clock
from tests.tools.test_compact import archived, compact, compacted, kinds

DAY = 86400 * 10**9
NOW = 1_800_000_000 * 10**9
OLD = Policy(keep_age=90 * DAY)


class SteppedDaemon(Daemon):
    """A coild whose wall clock the test sets."""

    module = stepped_clock.__name__


def _made(tmp_path: Path) -> SteppedDaemon:
    """A daemon with an archived segment, and then one event of 100 days later."""
    clock = tmp_path / "clock"
    stepped_clock.make_clock(clock)
    daemon = SteppedDaemon(
        tmp_path / "data", "--compact-after=0", **{stepped_clock.VARIABLE: str(clock)}
    )
    daemon.allocate("before")
    compacted("--data-dir", str(daemon.data_dir))
    stepped_clock.set_clock(clock, 100 * DAY)
    daemon.allocate("glitch")
    stepped_clock.set_clock(clock, 0)
    daemon.allocate("after")
    return daemon


def _refused(done: subprocess.CompletedProcess[str]) -> bool:
    return (
        done.returncode == 1
        and done.stderr.count("Z, ") == 2
        and "the system's clock says" in done.stderr
        and "the journal's newest event is of" in done.stderr
        and "--trust-clock" in done.stderr
        and len(done.stderr.splitlines()) == 1
    )


@pytest.mark.parametrize("running", [True, False])
def test_a_clock_that_was_ahead_for_one_event_takes_no_history(
    tmp_path: Path, *, running: bool
) -> None:
    """The run and its dry run refuse, with both times; the archive is whole, nothing recorded."""
    with _made(tmp_path) as daemon:
        if not running:
            daemon.stop()
        where = ("--data-dir", str(daemon.data_dir), "--keep-archive", "90d")
        before = archived(daemon)
        dry, real = compact(*where, "--dry-run"), compact(*where)

        assert _refused(dry), dry.stderr
        assert _refused(real), real.stderr
        assert before == archived(daemon)
        assert before
        said = compacted(*where, "--trust-clock", "--dry-run")
        done = compacted(*where, "--trust-clock")
        assert (0, 0) == (said["pruned-segments"], done["pruned-segments"])
        assert "--keep-archive 90d --trust-clock" == said["order"]
        assert not kinds(daemon, HistoryPruned)
        sized = compact("--data-dir", str(daemon.data_dir), "--keep-size", "1")
        assert 0 == sized.returncode
        assert not archived(daemon)


@pytest.mark.parametrize("age", ["0s", "90d"])
def test_a_trusted_clock_prunes_what_the_dry_run_says(tmp_path: Path, age: str) -> None:
    """By order the ages are taken as they are, in a run as in its dry run, and that is recorded."""
    with _made(tmp_path) as daemon:
        where = ("--data-dir", str(daemon.data_dir), "--keep-archive", age, "--trust-clock")
        said, done = compacted(*where, "--dry-run"), compacted(*where)

        assert said["pruned-segments"] == done["pruned-segments"] == (2 if age == "0s" else 0)
        policies = [f"--keep-archive {age[:-1] if age == '0s' else age} --trust-clock"]
        records = [
            event.policy for _, event in daemon.events(None) if isinstance(event, HistoryPruned)
        ]
        assert (policies if age == "0s" else []) == records


def test_a_clock_that_stays_ahead_is_refused_by_the_daemon(tmp_path: Path) -> None:
    """A daemon knows that it was set forward while it ran, though events have the same time."""
    clock = tmp_path / "clock"
    stepped_clock.make_clock(clock)
    variables = {stepped_clock.VARIABLE: str(clock)}
    with SteppedDaemon(tmp_path / "data", "--compact-after=0", **variables) as daemon:
        daemon.allocate("before")
        compacted("--data-dir", str(daemon.data_dir))
        stepped_clock.set_clock(clock, 100 * DAY)
        daemon.allocate("ahead")
        token = give_order(daemon.data_dir / "journal", OLD)
        answer = daemon.client.post("/compact", json={"order": token})

        assert 409 == answer.status_code
        assert "was set, while coild ran" in answer.json()["error"]
        assert archived(daemon)


def test_a_day_is_allowed_and_no_more() -> None:
    """Exactly a day ahead is measured by the earlier clock; a nanosecond more is refused."""
    assert NOW == age_now(OLD, NOW, NOW + DAY)
    assert NOW == age_now(OLD, NOW, NOW, stepped=DAY)
    for newest, stepped, other in (
        (NOW + DAY + 1, 0, NOW + DAY + 1),
        (NOW, DAY + 1, NOW - DAY - 1),
    ):
        with pytest.raises(AgeUnknownError) as caught:
            age_now(OLD, NOW, newest, stepped=stepped)
        assert format_utc(NOW) in str(caught.value)
        assert format_utc(other) in str(caught.value)


def test_an_idle_node_keeps_more() -> None:
    """Nothing that happened for a year is no contradiction: ages count from the newest event."""
    assert NOW - 365 * DAY == age_now(OLD, NOW, NOW - 365 * DAY)


@pytest.mark.parametrize(
    "policy", [Policy(keep_bytes=1), Policy(delete=True), Policy(keep_age=0, trust_clock=True)]
)
def test_what_asks_for_no_age_or_trusts_is_not_refused(policy: Policy) -> None:
    """Only where an age decides do the clocks matter."""
    assert NOW == age_now(policy, NOW, NOW + 100 * DAY, stepped=100 * DAY)


def test_the_trust_travels_in_the_order(tmp_path: Path) -> None:
    """It is there and back, is left out where it is not given, and orders nothing by itself."""
    trusted = Policy(keep_age=DAY, trust_clock=True)
    assert trusted == take_order(tmp_path, give_order(tmp_path, trusted))
    assert "--keep-archive 1d --trust-clock" == describe(trusted)
    assert {"keep_age": DAY} == msgspec.json.decode(msgspec.json.encode(Policy(keep_age=DAY)))
    with pytest.raises(OrderError, match="orders nothing"):
        take_order(tmp_path, give_order(tmp_path, Policy(trust_clock=True)))


def test_the_clock_knows_how_far_it_was_set_forward() -> None:
    """Time that passes is no step, nor is one back; to ask makes no time, which would be ahead."""
    wall, passed = [NOW], [0]
    clock = Clock(0, wall=lambda: wall[0], monotonic=lambda: passed[0])
    wall[0], passed[0] = NOW + DAY, DAY
    assert 0 == clock.stepped()
    wall[0] += 100 * DAY
    assert 100 * DAY == clock.stepped()
    wall[0] -= 100 * DAY
    assert (0, NOW + DAY) == (clock.stepped(), clock())
    wall[0] += 100 * DAY
    clock()
    wall[0] -= 100 * DAY
    assert 100 * DAY == clock.stepped()
