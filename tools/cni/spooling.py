"""The commands' use of the spool; `coild.spool` is imported only if it is needed."""

from __future__ import annotations

from posix import (
    O_CLOEXEC,
    O_CREAT,
    O_EXCL,
    O_NOFOLLOW,
    O_NONBLOCK,
    O_RDONLY,
    O_WRONLY,
    close,
    getpid,
    listdir,
    mkdir,
    read,
    rename,
    write,
)
from posix import open as open_file
from time import monotonic

from tools.cni.client import quoted
from tools.cni.errors import IO_FAILURE, TRY_AGAIN_LATER, CniError, notice
from tools.cni.requests import refusal, release, release_by_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from coild.spool import releases as spool
    from tools.cni.client import Coild
    from tools.cni.config import Config
    from tools.cni.environment import Attachment

#: The longest time that a container's start waits for the spool.
_DRAIN_SECONDS = 0.5
_DRAINED_MAX = 64
_JOURNAL_DIGITS = 32
#: ENAMETOOLONG and ELOOP, without importing errno: no directory can be there.
_NOWHERE = (36, 40)


def settle(config: Config, key: str) -> None:
    """Apply the release of this container ID in the spool, before the ID is used again.

    On return the spool has none for this coild, and no other process is applying one. Raises
    CniError, NoAnswerError.
    """
    if _is_empty(config.spool):
        return
    from coild.spool import releases as spool  # noqa: PLC0415 - the spool is empty nearly always

    try:
        claim = spool.claim(config.spool, key, config.coild.deadline, _tell_rejected)
        if claim is None:
            return
        try:
            if not config.coild.journal:
                # Any answer has the ID of coild's journal.
                config.coild.ask("GET", "/health")
            status, error = _told(config.coild, claim)
            if status != 200:
                raise refusal(status, {"error": error})
        finally:
            claim.close()
    except spool.SpoolBusyError as error:
        raise CniError(TRY_AGAIN_LATER, str(error)) from None
    except spool.SpoolError as error:
        raise CniError(IO_FAILURE, str(error)) from None


def keep(config: Config, attachment: Attachment, key: str, reason: str) -> None:
    """Keep a release for the next process that reaches coild. Raises CniError if that fails too.

    An entry of the container's first ID stands for both.
    """
    from coild.spool import releases as spool  # noqa: PLC0415 - coild answers nearly always

    # Do not wait if the time is over: other processes hold an entry for moments only.
    deadline = max(config.coild.deadline, monotonic() + _DRAIN_SECONDS)
    journal = config.coild.journal or _remembered(config)
    try:
        spool.add(
            config.spool,
            attachment.pod_namespace,
            attachment.pod_name,
            key,
            deadline,
            _tell_rejected,
            mark=f"={journal}" if journal else f"@{config.coild.where}",
            second=attachment.ipv6_key if key == attachment.key else "",
        )
    except spool.SpoolBusyError as error:
        raise CniError(TRY_AGAIN_LATER, str(error), reason) from None
    except spool.SpoolError as error:
        raise CniError(
            IO_FAILURE, f"coild was not told of the release, and it was not kept: {error}", reason
        ) from None
    notice(f"the release of {key} is kept in {config.spool} until coild is told of it: {reason}")


def drain(config: Config) -> None:
    """Apply entries of the spool, for a moment. Errors are only reported."""
    try:
        if not listdir(config.spool):
            return
    except OSError:
        return  # a DEL that has to write there reports the error
    from coild.spool import releases as spool  # noqa: PLC0415 - the spool is empty nearly always

    deadline = monotonic() + _DRAIN_SECONDS
    coild = config.coild.until(deadline)
    rejected = 0

    def on_rejected(path: str) -> None:
        nonlocal rejected
        rejected += 1
        if rejected == 1:
            _tell_rejected(path)
        if monotonic() >= deadline:
            raise _EnoughError("it has more damaged entries than one run takes, the next goes on")

    try:
        for number, claim in enumerate(spool.claims(config.spool, on_rejected), 1):
            if not _apply(coild, claim) or number >= _DRAINED_MAX:
                break
    except Exception as error:  # noqa: BLE001 - the command has succeeded, whatever this is
        notice(f"the spool {config.spool} is left as it is: {error}")
    if rejected > 1:
        notice(f"{rejected - 1} more damaged releases were set aside in {config.spool}")


class _EnoughError(Exception):
    """The time is over."""


def _apply(coild: Coild, claim: spool.Claim) -> bool:
    """Apply an entry; whether coild still accepts releases."""
    status, error = _told(coild, claim)
    if status != 200:
        notice(f"the spool is left as it is: {error or status}")
    return status == 200


def _told(coild: Coild, claim: spool.Claim) -> tuple[int, str]:
    """Send the release to coild if it is for this one, and note the outcome in the entry.

    Returns the status and its error. Raises NoAnswerError, spool.SpoolError.
    """
    if not claim.marks:
        # An entry of an older plugin is for the daemon that has this pod's container.
        status, error = release_by_names(
            coild, claim.pod_namespace, claim.pod_name, claim.container_id
        )
        had_any = False
    elif claim.is_for(coild.journal, coild.where) or claim.may_be_for(coild.journal):
        status, error, had_any = release(coild, claim.container_ids, coild.journal)
    else:
        return 200, ""  # for another daemon, which gets it when it is reached
    if status == 200:
        claim.applied(claim.left(coild.journal, coild.where, had_any=had_any))
    elif status in {400, 404}:
        _tell_rejected(claim.reject())
        status = 200
    return status, error


def _tell_rejected(path: str) -> None:
    notice(f"a release that cannot be applied was set aside: {path}")


def _is_empty(directory: str) -> bool:
    """Whether there is certainly no entry: usually the directory is missing or empty.

    A directory that this user may not list has no entry of this user: it is another runtime's.
    """
    try:
        return not listdir(directory)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return True
    except OSError as error:
        if error.errno in _NOWHERE:
            return True
        reason = error.strerror or error
        raise CniError(IO_FAILURE, f"the spool {directory}: {reason}") from None


def remember(config: Config) -> None:
    """Note the ID of coild's journal, for a DEL that gets no answer. Errors do not matter.

    An entry without that ID only takes longer to be applied.
    """
    if config.coild.journal == _remembered(config):
        return
    directory = _directory_of_journals(config)
    temporary = f"{directory}/.{getpid()}"
    try:
        try:
            mkdir(directory, 0o700)
        except FileExistsError:
            pass
        except FileNotFoundError:
            # Make the spool's parents, as the first kept release does.
            from coild.spool.files import make  # noqa: PLC0415 - once on a node

            make(directory)
        fd = open_file(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        try:
            write(fd, config.coild.journal.encode() + b"\n")
        finally:
            close(fd)
        rename(temporary, _path_of_journal(config))
    except (OSError, ValueError):
        pass


def _remembered(config: Config) -> str:
    """The ID of the last coild's journal; empty if it is not known."""
    try:
        fd = open_file(_path_of_journal(config), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)
        try:
            journal: str = read(fd, 64).decode().removesuffix("\n")
        finally:
            close(fd)
    except (OSError, ValueError):
        return ""
    return journal if len(journal) == _JOURNAL_DIGITS and journal.isalnum() else ""


def _directory_of_journals(config: Config) -> str:
    return f"{config.spool.rstrip('/')}.journals"


def _path_of_journal(config: Config) -> str:
    return f"{_directory_of_journals(config)}/{quoted(config.coild.where)}"
