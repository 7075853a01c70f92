"""The gateway of pods where the configuration names none.

For IPv6, `fe80::1`: a link-local address is on every link. For IPv4, plugins like `ptp` want a
gateway in the subnet of the pod's address: they put that on the node's end of each pair, and have
the pod send everything there. No address of a pool is set apart, so the node takes one from coild,
once, as a container does, and keeps it: the journal shows whose it is.
"""

from __future__ import annotations

from tools.cni.errors import CniError
from tools.cni.requests import allocate, held_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tools.cni.config import Config

#: On every link (RFC 4291, section 2.5.6).
IPV6_GATEWAY = "fe80::1"
#: Coild's container ID of the node's own address, and its network. A runtime's begin with a letter
#: or a digit: so it is no container's, and no garbage collection's.
NODE_KEY = "@coild-ipam/gateway"
_NETWORK = "@coild-ipam"


class Node:
    """Who holds it, as coild has it."""

    pod_namespace = "default"
    pod_name = "coild-ipam"


def node_gateway(config: Config) -> str:
    """The node's IPv4 address of the pool `default`. Raises CniError, NoAnswerError."""
    address = held_address(config.coild, Node, NODE_KEY)
    if address is None:
        try:
            address, _ = allocate(config.coild, Node, 4, NODE_KEY, _NETWORK)
        except CniError as error:
            hint = "pods need a gateway: name one that coild does not hand out, by ipam.subnet and"
            raise CniError(error.code, error.msg, f"{hint} ipam.gateway") from None
    return address
