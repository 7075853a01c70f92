"""GC and STATUS, the commands that are not about a single container."""

from __future__ import annotations

from tools.cni.environment import attachment_key, ipv6_key
from tools.cni.errors import (
    INVALID_CONFIG,
    LIMITED_CONNECTIVITY,
    NOT_AVAILABLE,
    REFUSED,
    CniError,
    NoAnswerError,
    notice,
)
from tools.cni.requests import refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from tools.cni.config import Config

#: The second is the specification's first name for it; libcni still passes both.
_VALID = ("cni.dev/valid-attachments", "cni.dev/attachments")
#: The status of a request whose body is longer than coild reads.
_TOO_LONG = 413
#: The number of tries with a new sequence, if the first is too old for coild to judge.
_ATTEMPTS = 2
#: Coild names at most so many unknown containers.
_UNKNOWN_MAX = 100


def collect(config: Config) -> None:
    """Have coild release addresses that the runtime does not list. Raises CniError, NoAnswerError.

    While a GC runs, a runtime runs no ADD (CNI spec 1.1.0, section "Lifecycle & Ordering"), so it
    is safe to ask for the sequence after the list was made.
    """
    valid = _valid(config.document)
    for attempt in range(1, _ATTEMPTS + 1):
        status, health = config.coild.ask("GET", "/health")
        sequence = health.get("sequence")
        if status != 200 or not isinstance(sequence, int):
            raise refusal(status, health)
        body = {"sequence": sequence, "network": config.network, "valid": valid}
        status, answer = config.coild.ask("POST", "/gc", body)
        if status == 200:
            _report(answer)
            return
        if status == _TOO_LONG:
            error = answer.get("error")
            raise CniError(
                REFUSED,
                f"the list of {len(valid)} container IDs (two for each valid attachment) is longer "
                f"than coild at {config.coild.where} takes, so nothing was released: {error}",
                "have the runtime forget attachments that are gone, or give this network's pods "
                "several networks, each with a name of its own",
            )
        if status != 409 or attempt == _ATTEMPTS:
            raise refusal(status, answer)


def tell_status(config: Config) -> None:
    """Check that an ADD would get an address now. Raises CniError."""
    try:
        status, ready = config.coild.ask("GET", "/readyz")
    except NoAnswerError as error:
        raise CniError(NOT_AVAILABLE, str(error)) from None
    if status != 200:
        raise CniError(NOT_AVAILABLE, refusal(status, ready).msg)
    checks = ready.get("checks")
    if not isinstance(checks, list):
        raise CniError(NOT_AVAILABLE, f"{config.coild.where} does not answer as coild does")
    for check in checks:
        if isinstance(check, dict) and check.get("name") == "routes" and check.get("ok") is False:
            raise CniError(LIMITED_CONNECTIVITY, f"coild: {check.get('reason')}")


def _valid(document: dict[str, Any]) -> list[str]:
    """Coild's container IDs of all attachments that are valid."""
    # A runtime in Go without attachments passes null.
    given = [[] if document[key] is None else document[key] for key in _VALID if key in document]
    rule = 'a list of objects like {"containerID": "...", "ifname": "eth0"}'
    if not given:
        raise CniError(
            INVALID_CONFIG,
            f"{_VALID[0]} is missing: it must be {rule}",
            "without it, every address of the network would be released",
        )
    if not all(isinstance(each, list) for each in given):
        raise CniError(INVALID_CONFIG, f"{_VALID[0]} must be {rule}")
    # If the two differ, attachments in either are kept.
    found: dict[str, None] = {}
    for item in [item for each in given for item in each]:
        container_id = item.get("containerID") if isinstance(item, dict) else None
        ifname = item.get("ifname") if isinstance(item, dict) else None
        known = isinstance(container_id, str) and isinstance(ifname, str)
        if not known or not container_id or not ifname:
            raise CniError(INVALID_CONFIG, f"{_VALID[0]} must be {rule}")
        # Both, whatever address-type is now: it may have been another when these were added.
        found[attachment_key(container_id, ifname)] = None
        found[ipv6_key(container_id, ifname)] = None
    return list(found)


def _report(answer: dict[str, Any]) -> None:
    released = answer.get("released")
    if isinstance(released, list) and released:
        addresses = [str(each.get("address")) for each in released if isinstance(each, dict)]
        notice(f"released {len(released)} leaked addresses: {', '.join(addresses[:10])}")
    unknown = answer.get("unknown")
    if isinstance(unknown, list) and unknown:
        least = "at least " if len(unknown) >= _UNKNOWN_MAX else ""
        notice(
            f"coild knows no address of {least}{len(unknown)} valid attachments, so it may give "
            f"theirs to others: {', '.join(map(str, unknown[:10]))}; was its journal restored, or "
            "do several runtimes share this network's name?"
        )
