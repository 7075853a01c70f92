"""ADD, DEL and CHECK."""

from __future__ import annotations

from tools.cni.addresses import canonical, version_of
from tools.cni.config import NO_CHOICE
from tools.cni.errors import (
    INVALID_CONFIG,
    INVALID_ENVIRONMENT,
    OTHER_ADDRESS,
    UNKNOWN_CONTAINER,
    CniError,
    NoAnswerError,
    notice,
)
from tools.cni.requests import allocate, held_by, keys, release
from tools.cni.spooling import keep, remember, settle

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

    config.refuse_unknown()
    if attachment.asked:
        raise CniError(
            INVALID_ENVIRONMENT,
            f"CNI_ARGS has {', '.join(attachment.asked)}, which coild-ipam does not honour",
            NO_CHOICE,
        )
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
    remember(config)
    return layout.result(ips)


def delete(config: Config, attachment: Attachment) -> bool:
    """Release the container's addresses; whether coild answered.

    Releases both families by container ID and interface, whatever the configuration is by now. If
    coild does not answer, the release is kept in the spool. Raises CniError if that fails too.
    """
    reason = _release(config, [attachment.key, attachment.ipv6_key])
    if not reason:
        return True
    families = (4, 6) if len(_previous(config)) > 1 else config.families
    for _, key in keys(attachment, families):
        keep(config, attachment, key, reason)
    return False


def check(config: Config, attachment: Attachment) -> None:
    """Check that the container holds prevResult's addresses. Raises CniError, NoAnswerError."""
    expected = _previous(config)
    held: dict[str, str] = {}
    for key in (attachment.key, attachment.ipv6_key):
        holder = held_by(config.coild, key)
        if holder is not None:
            held[key] = holder.address
    # An old runtime does not pass address-type; where it is passed, another plugin of the chain
    # may have added the other address. A pod from before "dual" has one all the same.
    families = config.families if config.names_families or not expected else (4, 6)
    families = families[: len(expected) or None]
    for _, key in keys(attachment, families):
        if key not in held:
            raise CniError(UNKNOWN_CONTAINER, f"container {key} has no address in coild")
    for key, address in held.items():
        if expected and address not in expected:
            raise CniError(
                OTHER_ADDRESS,
                f"container {key} has {address} in coild, and {', '.join(expected)} in prevResult",
            )


def _release(config: Config, container_ids: list[str]) -> str:
    """Send a release to coild; the reason why it has to be sent again, if any."""
    try:
        status, error, _ = release(config.coild, container_ids)
    except NoAnswerError as failure:
        return str(failure)
    if status == 200:
        return ""
    # Coild accepts every container that it may have given an address: this has to be sent again.
    return error or f"coild answered {status}"


def _undo(config: Config, attachment: Attachment, key: str) -> None:
    reason = _release(config, [key])
    if reason:
        try:
            keep(config, attachment, key, reason)
        except CniError as error:
            # The error that made this necessary is reported; the runtime's DEL will follow.
            notice(error.msg)


def _previous(config: Config) -> list[str]:
    """The addresses in prevResult, without their prefix lengths."""
    result = config.document.get("prevResult")
    ips = result.get("ips") if isinstance(result, dict) else None
    found = []
    for entry in ips if isinstance(ips, list) else ():
        address = entry.get("address") if isinstance(entry, dict) else None
        if isinstance(address, str):
            written = address.partition("/")[0]
            # Other plugins may write the same address differently.
            found.append(canonical(written) if version_of(written) else written)
    return found
