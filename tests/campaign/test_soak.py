"""A long life changes nothing: neither the daemon's memory nor its open files nor its pace."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.daemon.soak import soak
from tests.crash.scale import LONG, report, rounds
from tests.kits.daemon.process import Daemon, fold, status_of

OPERATIONS = rounds(40_000, 5_000_000)
HELD = rounds(1_000, 20_000)
#: Small in the short version, so that segments roll over and compactions run there too.
SIZES = () if LONG else ("--segment-size=1MiB", "--compact-after=1MiB")
GROWTH_MAX = 1.1


@pytest.mark.timeout(3600)
def test_a_long_life(tmp_path: Path) -> None:
    """At the end, memory and open files are what they were after the first tenth."""
    with Daemon(tmp_path / "data", *SIZES) as daemon:
        soaked = soak(daemon, OPERATIONS, HELD)
        archived = list((daemon.data_dir / "journal" / "archive").glob("*.zst"))
        status = daemon.status()
        state = fold(daemon.events()) if not LONG else None
    last = soaked.samples[-1]
    growth = {of: soaked.growth(of) for of in ("resident", "open_files", "p99")}
    ratios = ", ".join(f"{of} {ratio:.3f}" for of, ratio in growth.items())
    report(
        "soak",
        last.operations,
        last.operations,
        f"{last.resident / 2**20:.1f} MiB, {last.open_files} open files, p99 {last.p99 * 1e3:.1f} "
        f"ms; of those after the first tenth: {ratios}; {len(archived)} segments archived",
    )

    assert not status["pods"]
    assert archived
    assert growth["open_files"] <= GROWTH_MAX
    # In a short life, memory is still being touched for the first time, and p99 is one hiccup.
    if state is not None:
        assert status_of(state) == status
    else:
        assert growth["resident"] <= GROWTH_MAX
        assert growth["p99"] <= GROWTH_MAX
