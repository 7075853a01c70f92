"""Whether the daemon can do its work, as a list of named checks: what /livez and /readyz tell.

A check is made when a request asks for it, and answers at once: a probe waits for no disk. One
that fails readiness says that no address can be had from this daemon, and why. One that is only
told says what people should look at; the daemon does its work all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Check(NamedTuple):
    """How a check came out."""

    name: str
    #: What is wrong; empty if nothing is.
    reason: str
    #: Whether that keeps the daemon from its work, or is only told.
    fails: bool


class Readiness:
    """The checks of a daemon."""

    def __init__(self) -> None:
        self._asked: list[tuple[str, Callable[[], str], bool]] = []
        #: Why the daemon ends by itself; empty while it does not.
        self.failure = ""

    def add(self, name: str, ask: Callable[[], str], *, fails: bool = False) -> None:
        """One more check. `ask` gives what is wrong, or an empty text, and never waits."""
        self._asked.append((name, ask, fails))

    def checks(self) -> list[Check]:
        """All checks as they are now, in the order in which they were added."""
        found = [Check(name, " ".join(ask().split()), fails) for name, ask, fails in self._asked]
        return [Check("alive", self.failure, fails=True), *found]


def failing(checks: list[Check]) -> str:
    """The failing checks, as one line; empty if none fails."""
    return "; ".join(f"{check.name}: {check.reason}" for check in checks if _fails(check))


def verbose(checks: list[Check]) -> str:
    """A line for each check and one for all, as the probes of Kubernetes have it."""
    lines = []
    for check in checks:
        if not check.reason:
            lines.append(f"[+]{check.name} ok")
        elif check.fails:
            lines.append(f"[-]{check.name} failed: {check.reason}")
        else:
            lines.append(f"[!]{check.name} told: {check.reason}")
    lines.append(f"readyz check {'failed' if any(map(_fails, checks)) else 'passed'}")
    return "".join(f"{line}\n" for line in lines)


def _fails(check: Check) -> bool:
    return check.fails and bool(check.reason)
