"""The commands' requests to coild, and the meaning of its refusals for a runtime."""

from __future__ import annotations

from tools.cni.client import container_path, holder_path
from tools.cni.errors import REFUSED, TRY_AGAIN_LATER, CniError, NoAnswerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from tools.cni.client import Coild
    from tools.cni.environment import Attachment

    class Pod(Protocol):
        """The pod that is named as the holder of an address: an attachment's, or the node's."""

        pod_namespace: str
        pod_name: str


_ADDRESS_TYPES = {4: "ipv4", 6: "ipv6"}


def keys(attachment: Attachment, families: tuple[int, ...]) -> list[tuple[int, str]]:
    """The families and coild's container IDs of the attachment."""
    if len(families) == 1:
        return [(families[0], attachment.key)]
    return [(4, attachment.key), (6, attachment.ipv6_key)]


class Given:
    """An address from coild, with its pool, its subnet and that subnet's gateway.

    These are empty if they were not requested; the gateway also if the pool names none.
    """

    def __init__(self, answer: dict[str, Any], address: str, *, is_new: bool) -> None:
        """`is_new`: it was allocated just now."""
        self.address = address
        self.is_new = is_new
        self.pool = _text(answer, "pool")
        self.subnet = _text(answer, "subnet")
        self.gateway = _text(answer, "gateway")


def allocate(
    coild: Coild,
    pod: Pod,
    family: int,
    key: str,
    network: str,
    *,
    details: bool = False,
    unusable: tuple[str, ...] = (),
) -> Given:
    """Get an address from coild, a new one or the held one. Raises CniError, NoAnswerError.

    With `details`, the answer has a subnet, and the address is neither its first or last nor
    `unusable`, unless the container has it already.
    """
    body: dict[str, Any] = {
        "pod-namespace": pod.pod_namespace,
        "pod-name": pod.pod_name,
        "container-id": key,
        "address-type": _ADDRESS_TYPES[family],
        "network": network,
    }
    if details:
        body["details"] = True
    if unusable:
        body["unusable"] = list(unusable)
    status, answer = coild.ask("POST", "/ip", body)
    if status == 200:
        return Given(answer, _address(coild, answer), is_new=True)
    if status != 409:
        raise refusal(status, answer)
    # The answer to an earlier ADD was lost, or the container ID is another's.
    holder = held_by(coild, key)
    if holder is None or not holder.is_same(pod, network):
        raise refusal(status, answer)
    path = holder_path(holder.pod_namespace, holder.pod_name, key)
    found = _found(coild, f"{path}?details=true" if details else path)
    if found is None:
        raise refusal(status, answer)
    held = _address(coild, found)
    if (":" in held) != (family == 6):
        raise CniError(
            REFUSED,
            f"container {key} holds {held}, which is not of the family that is asked for",
            "address-type was changed while the container ran: remove the container first",
        )
    return Given(found, held, is_new=False)


class HeldAddress:
    """A container that holds an address, as coild knows it."""

    def __init__(self, answer: dict[str, Any], address: str) -> None:
        self.address = address
        self.pod_namespace = _text(answer, "pod-namespace")
        self.pod_name = _text(answer, "pod-name")
        self.network = _text(answer, "network")

    def is_same(self, pod: Pod, network: str) -> bool:
        """Whether it is this attachment.

        Network, container ID and interface identify it (CNI spec 1.1.0, section "Attachment"): the
        pod's names are informative, and may differ in a repeated ADD. If the holder has another
        network or none, the names have to be the same too.
        """
        names = self.pod_namespace, self.pod_name
        return self.network == network or names == (pod.pod_namespace, pod.pod_name)


def held_by(coild: Coild, key: str) -> HeldAddress | None:
    """The holder with this container ID, whatever its pod. Raises CniError, NoAnswerError."""
    answer = _found(coild, container_path(key))
    return None if answer is None else HeldAddress(answer, _address(coild, answer))


def held_address(coild: Coild, pod: Pod, key: str) -> str | None:
    """The address that the container has. Raises CniError, NoAnswerError."""
    answer = _found(coild, holder_path(pod.pod_namespace, pod.pod_name, key))
    return None if answer is None else _address(coild, answer)


def _found(coild: Coild, path: str) -> dict[str, Any] | None:
    status, answer = coild.ask("GET", path)
    if status == 404:
        return None
    if status != 200:
        raise refusal(status, answer)
    return answer


def release(coild: Coild, container_ids: list[str], journal: str = "") -> tuple[int, str, bool]:
    """Have coild release the addresses of these containers, whatever their pods.

    Only the coild with the journal `journal` may, if that is given. Returns the status, its error,
    and whether anything was released. Raises NoAnswerError.
    """
    body: dict[str, Any] = {"container-ids": container_ids}
    if journal:
        body["journal"] = journal
    status, answer = coild.ask("POST", "/release", body)
    return status, _error(answer), bool(answer.get("released"))


def release_by_names(coild: Coild, pod_namespace: str, pod_name: str, key: str) -> tuple[int, str]:
    """As `release`, if the container belongs to this pod. Raises NoAnswerError."""
    status, answer = coild.ask("DELETE", holder_path(pod_namespace, pod_name, key))
    return status, _error(answer)


def refusal(status: int, answer: dict[str, Any]) -> CniError:
    """The error for an answer that is not 200."""
    code = TRY_AGAIN_LATER if status >= 500 else REFUSED
    return CniError(code, _error(answer) or f"coild answered {status}", f"coild answered {status}")


def _error(answer: dict[str, Any]) -> str:
    return _text(answer, "error")


def _text(answer: dict[str, Any], key: str) -> str:
    text = answer.get(key, "")
    return text if isinstance(text, str) else ""


def _address(coild: Coild, answer: dict[str, Any]) -> str:
    address = answer.get("address")
    if not isinstance(address, str) or not address:
        raise NoAnswerError(f"the answer from {coild.where} is not coild's: it has no address")
    return address
