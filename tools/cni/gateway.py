"""The gateway of pods if the configuration names none.

For IPv6, it is `fe80::1`, as a link-local address is on every link. For IPv4, plugins like `ptp`
need a gateway in the subnet of the pod's address: they put it on the node's end of each pair, and
have the pod send all traffic there. If the pool names none, the plugin allocates an address from
coild for the node, once, as for a container, so the journal shows whose it is. Coild releases it
when all pools name a gateway, and no container is left that may need it.
"""

from __future__ import annotations

from tools.cni.addresses import covering_prefix
from tools.cni.errors import INVALID_CONFIG, CniError
from tools.cni.requests import allocate, held_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tools.cni.addresses import Subnet
    from tools.cni.config import Config

#: On every link (RFC 4291, section 2.5.6).
IPV6_GATEWAY = "fe80::1"
#: Coild's container ID of the node's own address, and its network. A runtime's IDs begin with a
#: letter or a digit, so no container has this one, and no garbage collection releases it.
NODE_KEY = "@coild-ipam/gateway"
_NETWORK = "@coild-ipam"
_DEFAULT_POOL = "default"
_BITS = 32
_HINT = (
    "pods need a gateway: name one in the pool, in coild's configuration (gateway), or set "
    "ipam.subnet and ipam.gateway"
)


class Node:
    """The node as the holder of an address."""

    pod_name = "coild-ipam"

    def __init__(self, pod_namespace: str) -> None:
        self.pod_namespace = pod_namespace


def node_gateway(config: Config, pool: str, subnet: Subnet) -> str:
    """An IPv4 address of the node, in the pod's subnet if possible. Raises as `commands.add`.

    One per pool is enough, unless its subnets were changed since, or it has several.
    """
    first = NODE_KEY if pool == _DEFAULT_POOL else f"{NODE_KEY}/{pool}"
    failure: CniError | None = None
    found = ""
    for key in (first, f"{NODE_KEY}/{pool}/{subnet.text}"):
        try:
            # The namespace with the pool's name gets addresses of that pool.
            gateway = _held(config, key, Node(pool))
        except CniError as error:
            failure = error
            continue
        if gateway in subnet:
            return gateway
        # A larger network may have both this address and the pod's.
        if covering_prefix(subnet.first, gateway) < _BITS:
            found = gateway
        else:
            text = f"{subnet.text} is in no network with the node's {gateway}"
            failure = CniError(INVALID_CONFIG, text)
    if found:
        return found
    assert failure is not None
    raise CniError(failure.code, failure.msg, _HINT)


def _held(config: Config, key: str, node: Node) -> str:
    address = held_address(config.coild, node, key)
    if address is None:
        # Not the first or last address of its subnet either.
        address = allocate(config.coild, node, 4, key, _NETWORK, details=True).address
    return address
