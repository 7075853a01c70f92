"""The gateway of pods where the configuration names none.

For IPv6, `fe80::1`: a link-local address is on every link. For IPv4, plugins like `ptp` want a
gateway in the subnet of the pod's address: they put that on the node's end of each pair, and have
the pod send everything there. No address of a pool is set apart, so the node takes one from coild,
once, as a container does, and keeps it: the journal shows whose it is.
"""

from __future__ import annotations

from tools.cni.addresses import covering_prefix
from tools.cni.errors import INVALID_CONFIG, CniError
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
_BITS = 32
_HINT = (
    "pods need a gateway: set ipam.subnet, and ipam.gateway to an address in it that coild does "
    "not hand out"
)


class Node:
    """Who holds it, as coild has it."""

    pod_name = "coild-ipam"

    def __init__(self, pod_namespace: str) -> None:
        self.pod_namespace = pod_namespace


def node_gateway(config: Config, pod_namespace: str, address: str) -> str:
    """An IPv4 address of the node's, of one network with the pod's. Raises CniError, NoAnswerError.

    One of the pool `default` does for all, but for pods whose pool is far from it, or where its own
    was taken before the pool was given other subnets.
    """
    failure: CniError | None = None
    for key, namespace in ((NODE_KEY, "default"), (f"{NODE_KEY}/{pod_namespace}", pod_namespace)):
        try:
            gateway = _held(config, key, Node(namespace))
        except CniError as error:
            failure = error
            continue
        if covering_prefix(address, gateway) < _BITS:
            return gateway
        failure = CniError(INVALID_CONFIG, f"{address} is in no network with the node's {gateway}")
    assert failure is not None
    raise CniError(failure.code, failure.msg, _HINT)


def _held(config: Config, key: str, node: Node) -> str:
    address = held_address(config.coild, node, key)
    if address is None:
        address, _ = allocate(config.coild, node, 4, key, _NETWORK)
    return address
