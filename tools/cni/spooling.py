"""The spool as the commands use it; `coild.spool` is imported only if there is something to do."""

from __future__ import annotations

from posix import listdir, write
from time import monotonic

from tools.cni.errors import IO_FAILURE, TRY_AGAIN_LATER, CniError
from tools.cni.requests import refusal, release

TYPE_CHECKING = False
if TYPE_CHECKING:
    from coild import spool
    from tools.cni.client import Coild
    from tools.cni.config import Config

#: A container's start waits for no more than this.
_DRAIN_SECONDS = 0.5
_DRAINED_MAX = 64


def notice(text: str) -> None:
    """Tell people something: runtimes log what a plugin writes to stderr, or drop it."""
    try:  # noqa: SIM105 - contextlib takes longer to import than this
        write(2, f"coild-ipam: {text}\n".encode(errors="backslashreplace"))
    except OSError:
        pass  # nobody listens


def settle(config: Config, key: str) -> None:
    """Apply the release of this container ID that is in the spool, before it is used again.

    On return there is none, and nobody is about to apply one. Raises CniError, NoAnswerError.
    """
    if _is_empty(config.spool):
        return
    from coild import spool  # noqa: PLC0415 - the spool is empty nearly always

    try:
        claim = spool.claim(config.spool, key, config.coild.deadline, _tell_rejected)
        if claim is None:
            return
        try:
            status, error = release(
                config.coild, claim.pod_namespace, claim.pod_name, claim.container_id
            )
            if status == 200:
                claim.done()
            elif status in {400, 404}:
                _tell_rejected(claim.reject())
            else:
                raise refusal(status, {"error": error})
        finally:
            claim.close()
    except spool.SpoolBusyError as error:
        raise CniError(TRY_AGAIN_LATER, str(error)) from None
    except spool.SpoolError as error:
        raise CniError(IO_FAILURE, str(error)) from None


def keep(config: Config, pod_namespace: str, pod_name: str, key: str, reason: str) -> None:
    """Leave a release to whoever reaches coild. Raises CniError if that cannot be kept either."""
    from coild import spool  # noqa: PLC0415 - coild answers nearly always

    # Without waiting any longer, if the time is over: an entry is held by others for moments only.
    deadline = max(config.coild.deadline, monotonic() + _DRAIN_SECONDS)
    try:
        spool.add(config.spool, pod_namespace, pod_name, key, deadline, _tell_rejected)
    except spool.SpoolBusyError as error:
        raise CniError(TRY_AGAIN_LATER, str(error), reason) from None
    except spool.SpoolError as error:
        raise CniError(
            IO_FAILURE, f"coild was not told of the release, and it was not kept: {error}", reason
        ) from None
    notice(f"the release of {key} is kept in {config.spool} until coild is told of it: {reason}")


def drain(config: Config) -> None:
    """Apply what is in the spool, for a moment. Whatever happens, it is only told."""
    try:
        if not listdir(config.spool):
            return
    except OSError:
        return  # who must write there, says what is wrong
    from coild import spool  # noqa: PLC0415 - the spool is empty nearly always

    coild = config.coild.until(monotonic() + _DRAIN_SECONDS)
    try:
        for number, claim in enumerate(spool.claims(config.spool, _tell_rejected), 1):
            if not _apply(coild, claim) or number >= _DRAINED_MAX:
                return
    except Exception as error:  # noqa: BLE001 - the command has succeeded, whatever this is
        notice(f"the spool {config.spool} is left as it is: {error}")


def _apply(coild: Coild, claim: spool.Claim) -> bool:
    """Whether coild still takes releases."""
    status, error = release(coild, claim.pod_namespace, claim.pod_name, claim.container_id)
    if status == 200:
        claim.done()
    elif status in {400, 404}:
        _tell_rejected(claim.reject())
    else:
        notice(f"the spool is left as it is: {error or status}")
        return False
    return True


def _tell_rejected(path: str) -> None:
    notice(f"a release that cannot be applied was set aside: {path}")


def _is_empty(directory: str) -> bool:
    """Whether there surely is no entry: most often there is no directory, or nothing in it."""
    try:
        return not listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError as error:
        reason = error.strerror or error
        raise CniError(IO_FAILURE, f"the spool {directory}: {reason}") from None
