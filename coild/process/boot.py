"""Which boot the node runs since: the kernel's boot ID, and the start of PID 1.

Either alone deceives. A node that is a container (kind, LXC) keeps the machine's boot ID when it
restarts and all its containers end. And a coild that is alone in a container of its own may see a
boot ID of that container, while the runtime's containers go on. So the node was booted if both say
so; where they disagree, nothing is concluded.

PID 1 has to be the one that the container runtime sees: `proc` of the configuration may name the
proc file system of the runtime's PID namespace. If PID 1 is coild itself, its start says nothing of
the runtime; then the start of the kernel stands in for it.
"""

from __future__ import annotations

import enum
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from coild.config.files import read_limited
from coild.process.clock import boottime

#: Beside `stat` of PID 1: proc_pid_stat(5), field 22, counted behind the name in parentheses.
_START_FIELD = 22 - 3
#: Neither file has more than a line.
_BYTES_MAX = 4096


class Boot(msgspec.Struct, frozen=True):
    """A boot of the node, as the kernel and PID 1 show it."""

    #: The kernel's name for it; empty where there is none.
    boot_id: str
    #: When PID 1 started, in ns since the kernel did; None if that is not known.
    init_start: int | None
    #: When PID 1, or if that is not known the kernel, started, by the wall as it is set now; in ns.
    began: int


class Verdict(enum.Enum):
    """Whether the node was booted since the journal's last allocation or start."""

    SAME = "same"
    BOOTED = "booted"
    #: The boot ID is another one; PID 1 runs since before that.
    ONLY_ID = "only the boot ID is another"
    #: PID 1 is another one; the boot ID is the same.
    ONLY_INIT = "only PID 1 is another"


def read_boot(
    proc: Path,
    *,
    wall: Callable[[], int] = time.time_ns,
    since_boot: Callable[[], int] = boottime,
) -> Boot:
    """The boot that a proc file system shows now."""
    start = _init_start(proc)
    began = wall() - since_boot() + (start or 0)
    try:
        # random(4): a UUID. Whatever else is there, `proc` is not what it should be.
        content = read_limited(proc / "sys/kernel/random/boot_id", _BYTES_MAX)
        boot_id = content.decode("ascii").strip()
    except (OSError, ValueError):
        boot_id = ""
    return Boot(boot_id, start, began)


def compare(boot: Boot, boot_id: str, init_start: int | None, last: int) -> Verdict:
    """Compare what is seen now with what the journal says.

    `boot_id` and `init_start` are the journal's, as of Boot, and `last` is the time of its last
    allocation or start of a daemon. PID 1 is another one if it started at another moment after the
    kernel, or if it started after `last`. The latter is the one proof where PID 1 is the machine's
    own, which always starts at the same moment; it does not depend on what the journal says of it.
    """
    known = boot.init_start is not None and init_start is not None
    moved = known and boot.init_start != init_start
    if boot.boot_id == boot_id:
        # Within one boot the moment is exact, whatever was done to the wall.
        newer = boot.init_start is not None and boot.began > last and not known
        return Verdict.ONLY_INIT if moved or newer else Verdict.SAME
    return Verdict.BOOTED if moved or boot.began > last else Verdict.ONLY_ID


def _init_start(proc: Path) -> int | None:
    try:
        if (proc / "self").readlink() == Path("1"):
            return None
        stat = read_limited(proc / "1/stat", _BYTES_MAX)
        # The name may hold anything, parentheses and blanks too.
        ticks = int(stat.rpartition(b")")[2].split()[_START_FIELD])
    except (OSError, ValueError, IndexError):
        return None
    return ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
