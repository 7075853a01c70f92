"""The state as of the last durable event: questions are answered by it, and wait for no disk."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from coild.allocation.pending import Pending
from coild.allocation.recent_allocations import is_second
from coild.rules.holding import Block, Holding, Status
from coild.rules.projection import Projection
from journal import Journal


class DurableState:
    """The state that no crash undoes. Belongs to one event loop."""

    def __init__(
        self,
        state: Projection,
        journal: Journal,
        holdings: Pending[str, Holding],
        blocks: Pending[bytes, Block],
    ) -> None:
        """`holdings` and `blocks` are the changes to those of `state` that a crash could undo."""
        self._state = state
        self._journal = journal
        self._holdings = holdings
        self._blocks = blocks

    @property
    def sequence(self) -> int:
        """The sequence of the last durable event."""
        return self._journal.durable_sequence

    def holding(self, container_id: str) -> Holding | None:
        """The address that the container holds, whichever pod it is of."""
        return self._holdings.durable(container_id, self._state.holdings.get(container_id))

    def address(self, namespace: str, pod_name: str, container_id: str) -> str | None:
        """The container's address, or None if that pod has none under this container ID."""
        held = self.holding(container_id)
        if held is None or held.pod_name != pod_name or held.pod_namespace != namespace:
            return None
        return held.address

    def unknown(self, valid: Iterable[str], count_max: int) -> list[str]:
        """Those of these containers that hold nothing; no more than `count_max` of them.

        The second ID of an attachment is not told of: see `recent_allocations.is_second`.
        """
        missing = (each for each in valid if not is_second(each) and self.holding(each) is None)
        return list(islice(missing, count_max))

    def status(self) -> Status:
        """All blocks and addresses."""
        durable = self.sequence
        blocks: dict[str, list[str]] = {}
        for _, block in self._blocks.durable_items(self._state.blocks, durable):
            blocks.setdefault(block.pool, []).append(str(block.subnet))
        return Status(blocks, self._holdings.durable_items(self._state.holdings, durable))
