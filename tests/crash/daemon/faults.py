"""Mutants: faults that are put into the daemon, which its clients' histories must find."""

from __future__ import annotations

from coild.allocation import service
from coild.allocation.committer import Committer
from coild.allocation.durable import DurableState
from journal.write import group_commit as commit
from tests.crash.mutants import Edit, by_function, edited

_Service = service.Service

FAULTS: dict[str, tuple[Edit, ...]] = {
    "POST answers before it is durable": (
        Edit(
            _Service.allocate,
            "await self._journal.durable(sequence)\n                return",
            "return",
        ),
    ),
    "DELETE answers before it is durable": (
        Edit(
            _Service.release,
            "await self._settled(container_id)\n    return held.address",
            "return held.address",
        ),
    ),
    "GET shows what a crash could undo": (
        Edit(DurableState.holding, "self._holdings.durable(container_id, ", "(None or "),
    ),
    "a conflict does not wait for what it shows": (
        Edit(_Service.allocate, "await self._settled(wanted.container_id)", "pass"),
    ),
    "DELETE of nothing does not wait for what it shows": (
        Edit(
            _Service.release,
            "await self._settled(container_id)",
            "held is None or await self._settled(container_id)",
        ),
    ),
    "a full pool does not wait for what filled it": (
        Edit(
            _Service.allocate,
            "await self._journal.durable(self._journal.last_sequence)",
            "pass",
        ),
    ),
    "status shows what a crash could undo": (
        Edit(
            DurableState.status,
            "self._holdings.durable_items(self._state.holdings, durable)",
            "list(self._state.holdings.items())",
        ),
    ),
    "an answer is given before its event is applied": (
        Edit(
            Committer.commit,
            "self._state.apply(event)",
            # A block that is not there at once would be a failure of its own.
            "(self._state.apply(event) if type(event).__name__ == 'BlockAcquired' else "
            "__import__('asyncio').get_running_loop().call_later(0.01, self._state.apply, event))",
        ),
    ),
    "a release is forgotten": (
        Edit(
            _Service._release,
            "sequence = self._committer.commit(",
            "sequence = self._journal.last_sequence\n    self._state.apply(",
        ),
        Edit(_Service._release, "essential=True,\n    )", ")"),
    ),
    "events count as durable when they are queued": (
        Edit(
            commit.GroupCommit.durable,
            "if sequence <= self.durable_sequence:\n        return\n",
            "return\n",
        ),
    ),
    "all who wait are woken by the first flush": (
        Edit(
            commit.GroupCommit._wake_waiters,
            "while waiters and waiters[0][0] <= durable:",
            "while waiters:",
        ),
    ),
    "a batch counts as durable before it is flushed": (
        Edit(
            commit.GroupCommit._drain,
            "log.append(batch)",
            "self.durable_sequence = log.next_sequence - 1 + len(batch)\n"
            "        self.call(self._wake_waiters)\n"
            "        log.append(batch)",
        ),
    ),
}


def switch_on(name: str) -> None:
    """Put a fault into this process, for good."""
    for function, edits in by_function(FAULTS[name]).items():
        function.__code__ = edited(function, edits).__code__
