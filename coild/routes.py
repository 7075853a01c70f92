"""The paths of the API and their methods: the router, the errors and the document go by these."""

from __future__ import annotations

STATUS = "/status"
ADDRESSES = "/ip"
ADDRESS = "/ip/<namespace>/<pod>/<container>"
COMPACT = "/compact"
COLLECT = "/gc"
HEALTH = "/health"
DOCUMENT = "/openapi.json"

#: The methods of each path.
METHODS: dict[str, tuple[str, ...]] = {
    STATUS: ("GET",),
    ADDRESSES: ("POST",),
    ADDRESS: ("GET", "DELETE"),
    COMPACT: ("POST",),
    COLLECT: ("POST",),
    HEALTH: ("GET",),
    DOCUMENT: ("GET",),
}
