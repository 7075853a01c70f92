"""ADD, DEL and CHECK."""

from __future__ import annotations

from tools.cni.errors import (
    INVALID_CONFIG,
    OTHER_ADDRESS,
    UNKNOWN_CONTAINER,
    CniError,
    NoAnswerError,
)
from tools.cni.requests import allocate, held_address, keys, release
from tools.cni.spooling import keep, notice, settle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from tools.cni.config import Config
    from tools.cni.environment import Attachment


def add(config: Config, attachment: Attachment) -> dict[str, Any]:
    """Give the container its addresses; the result to print. Raises CniError, NoAnswerError.

    If one family fails, the address that this run got in the other one is released again. An
    answer that is lost on its way leaves an address allocated: the runtime's DEL releases it.
    """
    from tools.cni.result import Layout  # noqa: PLC0415 - no other command needs it

    layout = Layout(config)
    ips: list[dict[str, Any]] = []
    fresh: list[str] = []
    try:
        for family, key in keys(attachment, config.families):
            settle(config, key)
            given = allocate(
                config.coild,
                attachment,
                family,
                key,
                config.network,
                details=layout.wants_details(family),
                unusable=layout.unusable(family),
            )
            if given.is_new:
                fresh.append(key)
            try:
                ips.append(layout.address(family, given))
            except ValueError as error:
                raise CniError(INVALID_CONFIG, str(error)) from None
    except (CniError, NoAnswerError):
        for key in fresh:
            _undo(config, attachment, key)
        raise
    return layout.result(ips)


def delete(config: Config, attachment: Attachment) -> bool:
    """Release the container's addresses; whether coild answered.

    What coild cannot be told of now is kept. Raises CniError if that fails too.
    """
    wanted = keys(attachment, config.families)
    if len(_previous(config)) > 1 and len(wanted) == 1:
        # It was "dual" when the container was added.
        wanted = keys(attachment, (4, 6))
    reached = True
    for _, key in wanted:
        reason = _release(config, attachment, key)
        if reason:
            reached = False
            keep(config, attachment.pod_namespace, attachment.pod_name, key, reason)
    return reached


def check(config: Config, attachment: Attachment) -> None:
    """Whether the container holds what prevResult says. Raises CniError, NoAnswerError."""
    expected = _previous(config)
    for _, key in keys(attachment, config.families):
        address = held_address(config.coild, attachment, key)
        if address is None:
            raise CniError(
                UNKNOWN_CONTAINER,
                f"container {key} of pod {attachment.pod_namespace}/{attachment.pod_name} "
                "has no address in coild",
            )
        if expected and address not in expected:
            raise CniError(
                OTHER_ADDRESS,
                f"container {key} has {address} in coild, and {', '.join(expected)} in prevResult",
            )


def _release(config: Config, attachment: Attachment, key: str) -> str:
    """Tell coild of a release; why it has to be told again, if so."""
    try:
        status, error = release(config.coild, attachment.pod_namespace, attachment.pod_name, key)
    except NoAnswerError as failure:
        return str(failure)
    if status >= 500 or status == 403:
        return error or f"coild answered {status}"
    if status != 200:
        # Coild has never taken such a container, so it holds nothing.
        notice(f"nothing to release for {key}: {error or status}")
    return ""


def _undo(config: Config, attachment: Attachment, key: str) -> None:
    reason = _release(config, attachment, key)
    if reason:
        try:
            keep(config, attachment.pod_namespace, attachment.pod_name, key, reason)
        except CniError as error:
            # What made this necessary is told; the runtime's DEL comes yet.
            notice(error.msg)


def _previous(config: Config) -> list[str]:
    """The addresses in prevResult, without their prefix lengths."""
    result = config.document.get("prevResult")
    ips = result.get("ips") if isinstance(result, dict) else None
    found = []
    for entry in ips if isinstance(ips, list) else ():
        address = entry.get("address") if isinstance(entry, dict) else None
        if isinstance(address, str):
            found.append(address.partition("/")[0])
    return found
