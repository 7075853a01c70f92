"""Which containers need an address of the node as gateway, where no pool named a gateway."""

from __future__ import annotations

from collections.abc import Mapping

from coild.rules.holding import Holding

#: What the plugin's container IDs of the node's own addresses begin with.
NODE_KEY = "@coild-ipam/gateway"


class GatewayUse:
    """The node's own addresses, and the containers that surely need none of them."""

    def __init__(self, holdings: Mapping[str, Holding]) -> None:
        """`holdings` are those of the state, now and later."""
        self._holdings = holdings
        self._keys = {key for key in holdings if key.startswith(NODE_KEY)}
        # They were told of their pool's gateway, or have one of their network's.
        self._placed: set[str] = set()

    def note(self, container_id: str, *, placed: bool) -> None:
        """Take note of an allocation."""
        if container_id.startswith(NODE_KEY):
            self._keys.add(container_id)
        elif placed and self._keys:
            self._placed.add(container_id)

    def taken(self) -> list[tuple[str, Holding]]:
        """The addresses that the node holds as gateway of pods."""
        self._keys &= self._holdings.keys()
        return [(key, self._holdings[key]) for key in sorted(self._keys)]

    def is_needed(self) -> bool:
        """Whether a container may have one of them as its gateway."""
        self._placed &= self._holdings.keys()
        return any(
            held.block.version == 4 and key not in self._placed and key not in self._keys
            for key, held in self._holdings.items()
        )
