"""The paths of the API and their methods: the router, the errors and the document go by these."""

from __future__ import annotations

STATUS = "/status"
ADDRESSES = "/ip"
ADDRESS = "/ip/<namespace>/<pod>/<container>"
CONTAINER = "/containers/<container>"
RELEASE = "/release"
COMPACT = "/compact"
COLLECT = "/gc"
HEALTH = "/health"
LIVE = "/livez"
READY = "/readyz"
DOCUMENT = "/openapi.json"

#: The methods of each path. HEAD is answered as GET is, without the body.
METHODS: dict[str, tuple[str, ...]] = {
    STATUS: ("GET", "HEAD"),
    ADDRESSES: ("POST",),
    ADDRESS: ("GET", "HEAD", "DELETE"),
    CONTAINER: ("GET", "HEAD"),
    RELEASE: ("POST",),
    COMPACT: ("POST",),
    COLLECT: ("POST",),
    HEALTH: ("GET", "HEAD"),
    LIVE: ("GET", "HEAD"),
    READY: ("GET", "HEAD"),
    DOCUMENT: ("GET", "HEAD"),
}
