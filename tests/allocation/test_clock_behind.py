"""A journal that is ahead of the system's clock is told of: by the log, /readyz and the tools."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from coild.audit.times import format_utc
from coild.process.clock import Clock
from coild.process.clock_watch import ClockWatch
from coild.rules.events import BlockAcquired, BlockReleased
from tests.http.test_readiness import told
from tests.kits.daemon.process import Daemon, command, ended, environment, wait_for
from tests.kits.journal.history import EPOCH, allocated, beginning, write
from tests.kits.variants import stepped_clock
from tools.history import cli as history
from tools.replay import cli as replay

SECOND = 10**9
YEAR = 365 * 86400 * SECOND
AHEAD = "is ahead of this system's clock"


class SteppedDaemon(Daemon):
    """A coild whose wall clock the test sets."""

    module = stepped_clock.__name__


def future(events_of: int = 1) -> list[object]:
    """Events of which the newest are three years ahead of the clock."""
    ahead = time.time_ns() + 3 * YEAR - EPOCH
    return [*beginning(), *(allocated(ahead, f"c{n}", n) for n in range(events_of))]


def test_a_start_on_a_journal_of_the_future_is_told(tmp_path: Path) -> None:
    """The log and /readyz?verbose give both times at once; the daemon serves and is ready."""
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "journal", future())
    pools = ("--pool", "default=10.64.0.0/30", "--block-size", "2")
    with Daemon(tmp_path / "data", *pools) as daemon:
        log = daemon.log
        text = daemon.client.get("/readyz?verbose")
        reason = told(daemon, "clock")
        address = daemon.allocate("new").json()["address"]
        daemon.stop()

        assert daemon.log.count(AHEAD) == 1

    assert address
    assert text.status_code == 200
    assert "[!]clock told: the journal's time, " in text.text
    when = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
    assert re.search(rf"time, {when}, {AHEAD}, which says {when}, by 109[45] days$", reason)
    (line,) = [line for line in log.splitlines() if AHEAD in line]
    assert "coild-history --at now may say nobody" in line
    assert "a clock that does not step" in line
    assert log.index(AHEAD) < log.index("listening on")


def test_steps_while_the_daemon_runs_are_told_once_each(tmp_path: Path) -> None:
    """One warning for each step back behind an event, none for one that no event saw."""
    path = tmp_path / "clock"
    stepped_clock.make_clock(path)
    with SteppedDaemon(tmp_path / "data", **{stepped_clock.VARIABLE: str(path)}) as daemon:
        # Ahead for a while, in which no event is stamped: nothing follows from that.
        stepped_clock.set_clock(path, YEAR)
        assert told(daemon, "clock") == ""
        stepped_clock.set_clock(path, 0)
        assert told(daemon, "clock") == ""
        stepped_clock.set_clock(path, YEAR)
        daemon.allocate("c1")
        stepped_clock.set_clock(path, 0)
        wait_for(lambda: AHEAD in daemon.log, "the first warning")
        assert "by 365 days" in told(daemon, "clock") or "by 364 days" in told(daemon, "clock")
        stepped_clock.set_clock(path, 2 * YEAR)
        wait_for(lambda: "caught up with the journal" in daemon.log, "the clock to catch up")
        assert told(daemon, "clock") == ""
        # Idle since: what was answered last is a year ahead again.
        stepped_clock.set_clock(path, 0)
        wait_for(lambda: daemon.log.count(AHEAD) == 2, "the second warning")
        daemon.stop()

        assert daemon.log.count(AHEAD) == 2


def test_a_watch_warns_again_only_for_another_step(caplog: pytest.LogCaptureFixture) -> None:
    """Up to a minute is no matter; a further step back is told, the way back to good time once."""
    caplog.set_level(logging.INFO, "coild.process.clock_watch")
    now = [0, 10**18]
    watch = ClockWatch(Clock(10**18, wall=lambda: now[1], monotonic=lambda: now[0]))

    def lines(step: int, passed: int = 0) -> Sequence[str]:
        now[0] += passed
        now[1] += passed + step
        before = len(caplog.messages)
        watch.look()
        return [message.partition(":")[0] for message in caplog.messages[before:]]

    assert lines(-60 * SECOND) == []
    assert watch.reason == ""
    assert len(lines(-SECOND)) == 1
    assert watch.reason
    assert lines(0, passed=10 * SECOND) == []
    assert len(lines(-YEAR)) == 1
    assert lines(0, passed=10 * SECOND) == []
    assert lines(2 * YEAR) == ["the system's clock has caught up with the journal's time"]
    assert lines(0, passed=SECOND) == []


@pytest.mark.parametrize(
    ("arguments", "tells"),
    [
        (("history", "--at", "now"), True),
        (("history", "10.64.0.1", "--at", "now", "-o", "json"), True),
        (("history", "--until", "now"), True),
        (("history", "--held", "--since-before", "7d"), True),
        (("history", "--held"), False),
        (("history",), False),
        (("replay", "--until", "now"), True),
        (("replay", "--until", "now", "--digest", "-o", "json"), True),
        (("replay", "--diff", "2", "now"), True),
        (("replay", "--diff", "2", "3"), False),
        (("replay", "--step", "--until", "now"), True),
        (("replay",), False),
    ],
)
def test_the_tools_tell_when_a_time_may_mislead(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    tells: bool,  # noqa: FBT001 - a column of the table
) -> None:
    """A question with a time has one line more on stderr if the journal's time is ahead."""
    write(tmp_path / "journal", future(events_of=3))
    name, *rest = arguments
    tool = {"history": history, "replay": replay}[name]
    status = tool.main(["--journal", str(tmp_path / "journal"), *rest])
    lines = [line for line in capsys.readouterr().err.splitlines() if AHEAD in line]

    assert status == 0
    assert len(lines) == int(tells)
    assert all(line.startswith(f"coild-{name}: the journal's time, ") for line in lines)
    assert all("or none for its end" in line for line in lines)


def test_the_tools_say_nothing_of_a_journal_in_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Less than a minute ahead is the fault of no clock; nor is what was long ago."""
    now = time.time_ns() - EPOCH
    write(tmp_path / "journal", [*beginning(), allocated(now + 30 * SECOND, "c1", 1)])
    history.main(["--journal", str(tmp_path / "journal"), "--at", "now"])
    replay.main(["--journal", str(tmp_path / "journal"), "--until", format_utc(EPOCH)])

    assert capsys.readouterr().err == ""


def test_the_newest_event_may_be_behind_a_seal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A last segment that has no event yet does not hide that those before it are ahead."""
    events = future()
    write(tmp_path / "journal", events, seals={len(events)})
    replay.main(["--journal", str(tmp_path / "journal"), "--until", "now"])

    assert AHEAD in capsys.readouterr().err


def test_a_start_names_blocks_that_keep_a_pool_from_being_used(tmp_path: Path) -> None:
    """The log says at the start which blocks of old leave a pool no address, and until when."""
    with Daemon(tmp_path / "data", "--pool", "web=10.4.0.0/30", "--block-size", "2") as daemon:
        daemon.allocate("c1", namespace="web")
        daemon.stop()
        first = daemon.log
    with Daemon(tmp_path / "data", "--pool", "default=10.4.0.0/30", "--block-size", "1") as daemon:
        log = daemon.log[len(first) :]
    line = "pool 'default' has no free IPv4 address: blocks of a former configuration stand in"

    assert "has no free" not in first
    assert log.count(line) == 1
    assert "10.4.0.0/30 of pool 'web'" in log[log.index(line) :]
    assert log.index(line) < log.index("listening on")


def test_empty_blocks_of_old_keep_no_pool_from_being_used(tmp_path: Path) -> None:
    """What a former configuration left empty is given back: at a start, or when it has rested."""
    data = tmp_path / "data"
    with Daemon(data, "--pool", "web=10.4.0.0/30", "--block-size", "2") as daemon:
        daemon.allocate("c1", namespace="web")
        daemon.release("c1", namespace="web")
    with Daemon(data, "--pool=db=10.4.0.0/30", "--block-size=1", "--reuse-after=0s") as daemon:
        wait_for(lambda: "gave block" in daemon.log, "the block to be given back")
        log = daemon.log
        first = daemon.allocate("c2", namespace="db")
        daemon.release("c2", namespace="db")
    with Daemon(data, "--pool=default=10.4.0.0/30", "--block-size=2", "--reuse-after=5s") as daemon:
        early = daemon.allocate("c3")
        wait_for(lambda: daemon.allocate("c4").is_success, "the rest of an address to be over")
        blocks = daemon.status()["address-blocks"]
        events = [type(event) for _, event in daemon.events()]

    assert "gave block 10.4.0.0/30 back to pool web, it is in no subnet any more" in log
    assert "has no free" not in log
    assert first.is_success
    assert early.status_code in {200, 503}
    assert {"default": ["10.4.0.0/30"]} == blocks
    assert (3, 2) == (events.count(BlockAcquired), events.count(BlockReleased))


def test_a_pool_that_is_only_full_is_no_matter_at_a_start(tmp_path: Path) -> None:
    """Addresses that are all held under this configuration are not the fault of an older one."""
    with Daemon(tmp_path / "data", "--pool", "default=10.4.0.0/31", "--block-size", "1") as daemon:
        daemon.allocate("c1")
        daemon.allocate("c2")
        daemon.stop()
        daemon.start()

        assert told(daemon, "pools")
        assert "has no free" not in daemon.log


def test_a_first_start_before_1970_is_told_in_a_line(tmp_path: Path) -> None:
    """A clock that no journal can hold: status 1, one line, nothing is made."""
    clock = tmp_path / "clock"
    stepped_clock.make_clock(clock)
    stepped_clock.set_clock(clock, -time.time_ns() - YEAR)
    done = ended(
        command("--data-dir", str(tmp_path / "data"), module=stepped_clock.__name__),
        env=environment(**{stepped_clock.VARIABLE: str(clock)}),
    )

    assert done.returncode == 1
    assert done.stderr.startswith("coild: the system's clock says -31")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "data" / "journal").exists()
