"""Until when a request may be carried out: what its client gave up must not happen later.

The CNI plugin waits for so long, fails, and the runtime sends DEL: a request for an address that
waited in a socket's queue meanwhile would leave an address that is never released. So a request may
say when its client gives up, in nanoseconds of the kernel's CLOCK_MONOTONIC, and which clock that
is: the boot ID and the time namespace. Two processes with the same clock on one kernel agree to the
nanosecond. A deadline by another clock (another machine's, another time namespace's) says nothing
here, and does not count.
"""

from __future__ import annotations

import re
import time
from functools import cache
from pathlib import Path

from coild.config.files import read_limited

#: `Coild-Deadline: NANOSECONDS [CLOCK]`.
HEADER = "coild-deadline"
RULE = "nanoseconds of CLOCK_MONOTONIC, and the clock's name if it is not surely this kernel's"
_BOOT_ID_BYTES_MAX = 64
_VALUE = re.compile(r"([0-9]{1,20})(?: ([!-~]{1,128}))?")


class DeadlineError(Exception):
    """The request came, or would be carried out, after its client gave up. Nothing was changed."""


class Deadline:
    """The moment after which a request must not change anything."""

    __slots__ = ("_nanoseconds",)

    def __init__(self, nanoseconds: int) -> None:
        """`nanoseconds` is of CLOCK_MONOTONIC."""
        self._nanoseconds = nanoseconds

    def check(self) -> None:
        """Raises DeadlineError if it is over."""
        late = time.monotonic_ns() - self._nanoseconds
        if late >= 0:
            raise DeadlineError(
                f"the request's deadline was {late / 1e9:.3f} s ago, so its client has given up: "
                "nothing was changed; ask again with a new deadline"
            )


def read_deadline(text: str) -> Deadline | None:
    """The deadline in a header; None if it is by a clock of another kernel or time namespace.

    Raises ValueError, with the rule.
    """
    found = _VALUE.fullmatch(text)
    if found is None:
        raise ValueError(f"Coild-Deadline is {text!r}: it must be {RULE}")
    if found[2] is not None and found[2] != clock_name():
        return None
    return Deadline(int(found[1]))


@cache
def clock_name() -> str:
    """Which CLOCK_MONOTONIC this process reads, as `tools.cni.client` names it; empty if unknown.

    A client that cannot know it sends another name.
    """
    try:
        boot = read_limited(Path("/proc/sys/kernel/random/boot_id"), _BOOT_ID_BYTES_MAX)
        return f"{boot.decode('ascii').strip()}/{_time_namespace()}"
    except (OSError, ValueError):
        return ""


def _time_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/time").readlink())
    except FileNotFoundError:
        return "time:[]"  # a kernel before 5.6 has one clock
