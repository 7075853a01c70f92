"""The result of ADD: addresses, gateways, routes and DNS by the configuration."""

from __future__ import annotations

from tools.cni.addresses import Subnet, canonical, covering_prefix, version_of
from tools.cni.config import wrong
from tools.cni.gateway import IPV6_GATEWAY, node_gateway

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from tools.cni.config import Config
    from tools.cni.requests import Given

_DEFAULT_ROUTES = {4: "0.0.0.0/0", 6: "::/0"}
#: CNI spec 1.1.0, section "ADD Success": the optional keys of a route.
_ROUTE_NUMBERS = ("mtu", "advmss", "priority", "table", "scope")
_DNS_LISTS = ("nameservers", "search", "options")


class Layout:
    """Makes a result from addresses, by family."""

    def __init__(self, config: Config) -> None:
        """Check the keys that only ADD needs. Raises CniError, naming the key."""
        ipam = config.ipam
        self._version = config.version
        self._subnets = _by_family(ipam, "subnet", config.families)
        self._config = config
        self._gateways = _by_family(ipam, "gateway", config.families)
        self._routes = self._read_routes(config)
        self._dns = _dns(config)

    def wants_details(self, family: int) -> bool:
        """Whether coild has to give a subnet, because the configuration names none."""
        return family not in self._subnets

    def unusable(self, family: int) -> tuple[str, ...]:
        """Addresses that no pod can have in this network: gateway, and the subnet's edges."""
        subnet, gateway = self._subnets.get(family), self._gateways.get(family)
        found = Subnet(subnet).edges() if subnet else ()
        return (*found, gateway) if gateway else found

    def address(self, family: int, given: Given) -> dict[str, Any]:
        """One of `ips`.

        Raises ValueError if a pod could not use the address; CniError and NoAnswerError if there is
        no gateway.
        """
        address = given.address
        subnet = self._subnets.get(family)
        gateway = self._gateways.get(family, "")
        if subnet:
            parsed = Subnet(subnet)
            if address not in parsed:
                raise ValueError(f"coild's address {address} is not in ipam.subnet {subnet}")
        else:
            parsed = _told_subnet(given)
            if not gateway:
                gateway = given.gateway or (
                    IPV6_GATEWAY if family == 6 else node_gateway(self._config, given.pool, parsed)
                )
        prefix = parsed.prefix
        if address == gateway:
            raise ValueError(f"coild's address {address} is the one of the gateway")
        if address in parsed.edges():
            raise ValueError(
                f"coild's address {address} is an edge of {parsed.text}, which no pod can use: "
                "remove the container and start it again, it gets another"
            )
        if not subnet and gateway not in parsed and gateway != IPV6_GATEWAY:
            # The smallest network that has both, which is the same for all of the pool's addresses.
            prefix = covering_prefix(address, gateway)
        entry: dict[str, Any] = {"address": f"{address}/{prefix}"}
        if self._version.startswith("0."):
            entry = {"version": str(family), **entry}
        if gateway:
            entry["gateway"] = gateway
        return entry

    def result(self, ips: list[dict[str, Any]]) -> dict[str, Any]:
        """The result of an IPAM plugin, without interfaces (CNI spec 1.1.0, section 4)."""
        return {
            "cniVersion": self._version,
            "ips": ips,
            "routes": self._routes,
            "dns": self._dns,
        }

    def _read_routes(self, config: Config) -> list[dict[str, Any]]:
        ipam = config.ipam
        if ipam.get("routes") is None:
            families = [family for family in config.families if family not in self._subnets]
            return [{"dst": _DEFAULT_ROUTES[family]} for family in families]
        rule = 'a list of routes like {"dst": "0.0.0.0/0", "gw": "169.254.1.1"}'
        if not isinstance(ipam["routes"], list):
            raise wrong(ipam, "routes", rule)
        try:
            return [self._read_route(route) for route in ipam["routes"]]
        except ValueError as error:
            raise wrong(ipam, "routes", f"{rule}: {error}") from None

    def _read_route(self, route: Any) -> dict[str, Any]:
        if not isinstance(route, dict) or not isinstance(route.get("dst"), str):
            raise ValueError("a route is an object with a dst")  # noqa: TRY004 - told as one
        found: dict[str, Any] = {"dst": Subnet(route["dst"]).text}
        if route.get("gw") is not None:
            if not isinstance(route["gw"], str):
                raise ValueError("gw is an IP address")
            found["gw"] = canonical(route["gw"])
        if self._version != "1.1.0":
            return found
        for key in _ROUTE_NUMBERS:
            value = route.get(key)
            if value is not None:
                if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                    raise ValueError(f"{key} is a number")
                found[key] = value
        return found


def _told_subnet(given: Given) -> Subnet:
    """The subnet in coild's answer. Raises ValueError."""
    try:
        found = Subnet(given.subnet)
    except ValueError:
        found = None
    if found is None or given.address not in found:
        raise ValueError(
            f"coild does not say in which subnet {given.address} is: no pool has it any more, or "
            "coild is older than coild-ipam; remove the container, restart coild and try again"
        )
    return found


def _by_family(ipam: dict[str, Any], key: str, families: tuple[int, ...]) -> dict[int, str]:
    """The values of a key that has one, or a list with one per family."""
    value = ipam.get(key)
    if value is None:
        return {}
    what = "a subnet like 10.1.0.0/16" if key == "subnet" else "an IP address"
    rule = f"{what}, or a list with one for each family of address-type"
    found: dict[int, str] = {}
    for text in value if isinstance(value, list) else [value]:
        if not isinstance(text, str):
            raise wrong(ipam, key, rule)
        try:
            written = Subnet(text).text if key == "subnet" else canonical(text)
        except ValueError as error:
            raise wrong(ipam, key, f"{rule}: {error}") from None
        family = version_of(written.partition("/")[0])
        if family not in families or family in found:
            raise wrong(ipam, key, rule)
        found[family] = written
    return found


def _dns(config: Config) -> dict[str, Any]:
    """The network's `dns`, or that of the file `ipam.resolvConf`, if it is given."""
    path = config.ipam.get("resolvConf")
    if path is not None and path != "":
        from tools.cni.resolv import read_resolv_conf  # noqa: PLC0415 - few name one

        if not isinstance(path, str):
            raise wrong(config.ipam, "resolvConf", "the path of a file")
        return read_resolv_conf(path)
    dns = config.document.get("dns")
    found: dict[str, Any] = {}
    if isinstance(dns, dict):
        for key, value in dns.items():
            lists = isinstance(value, list) and all(isinstance(item, str) for item in value)
            if (key in _DNS_LISTS and lists and value) or (
                key == "domain" and isinstance(value, str) and value
            ):
                found[key] = value
    return found
