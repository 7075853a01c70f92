"""The plugin's run: environment and stdin in, one JSON object out, and an exit status."""

from __future__ import annotations

import sys

# As os._exit, without importing os: there is nothing to clean up, which would take 2 ms.
from posix import _exit, isatty, read, write

from tools.cni.codec import encode
from tools.cni.config import VERSIONS, Config, answer_version, read_document
from tools.cni.environment import Attachment, command, variable
from tools.cni.errors import (
    DECODING_FAILURE,
    INTERNAL,
    IO_FAILURE,
    TRY_AGAIN_LATER,
    CniError,
    NoAnswerError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

_CHUNK = 1 << 16
#: The longest input is that of a GC: 600,000 attachments, three times as many as coild accepts.
_STDIN_BYTES_MAX = 64 * 1024 * 1024


def main() -> NoReturn:
    """Run the command in CNI_COMMAND, or the command line of a user."""
    if is_for_people():
        from tools.cni.people import talk  # noqa: PLC0415 - argparse and all, for no container

        sys.exit(talk())
    _exit(run())


def is_for_people() -> bool:
    """Whether a user started this: without CNI_COMMAND, at a terminal or with arguments."""
    try:
        return not variable("CNI_COMMAND") and (len(sys.argv) > 1 or isatty(0))
    except CniError:
        return False


def run() -> int:
    """One command of a runtime; the exit status. Never raises."""
    said: dict[str, Any] = {}
    try:
        _run(command(), said)
    except CniError as error:
        return _fail(said, error)
    except NoAnswerError as error:
        return _fail(said, CniError(TRY_AGAIN_LATER, str(error)))
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - a runtime reads JSON, no traceback
        what = f"{type(error).__name__}: {error}"
        return _fail(said, CniError(INTERNAL, f"coild-ipam failed: {what}", "this is a bug"))
    return 0


def _run(name: str, said: dict[str, Any]) -> None:
    """Run a command; `said` gets the configuration, for an error that may follow."""
    if name == "VERSION":
        _tell_versions()
        return
    said.update(read_document(_read_all()))
    config = Config(said, name)
    if name in {"GC", "STATUS"}:
        from tools.cni.network import collect, tell_status  # noqa: PLC0415 - no container waits

        if name == "STATUS":
            tell_status(config)
            return
        collect(config)
    else:
        from tools.cni.commands import add, check, delete  # noqa: PLC0415 - STATUS comes often

        attachment = Attachment(name)
        if name == "ADD":
            # Before the spool is read: whatever happens there, the container can start.
            _print(add(config, attachment))
        elif name == "CHECK":
            check(config, attachment)
        elif not delete(config, attachment):
            return
    from tools.cni.spooling import drain  # noqa: PLC0415 - imported by now

    drain(config)


def _tell_versions() -> None:
    """VERSION, in the requested version (CNI spec 1.1.0, section "VERSION")."""
    try:
        document = read_document(_read_all())
    except CniError:
        document = {}
    _print({"cniVersion": answer_version(document), "supportedVersions": list(VERSIONS)})


def _read_all() -> bytes:
    parts = []
    missing = _STDIN_BYTES_MAX
    try:
        while part := read(0, _CHUNK):
            parts.append(part)
            missing -= len(part)
            if missing < 0:
                raise CniError(
                    DECODING_FAILURE,
                    f"the network configuration on stdin has more than {_STDIN_BYTES_MAX} bytes",
                    "nothing was done; for GC, have the runtime forget attachments that are gone",
                )
    except OSError as error:
        raise CniError(IO_FAILURE, f"stdin cannot be read: {error.strerror}") from None
    return b"".join(parts)


def _print(answer: dict[str, Any]) -> None:
    """Write to stdout, all of it."""
    data = encode(answer).encode() + b"\n"
    try:
        while data:
            data = data[write(1, data) :]
    except OSError as error:
        raise CniError(IO_FAILURE, f"stdout cannot be written: {error.strerror}") from None


def _fail(document: dict[str, Any], error: CniError) -> int:
    """Print the error (CNI spec 1.1.0, section "Error"); the exit status."""
    answer = {"cniVersion": answer_version(document), "code": error.code, "msg": error.msg}
    if error.details:
        answer["details"] = error.details
    try:  # noqa: SIM105 - contextlib takes longer to import than this
        _print(answer)
    except CniError:
        pass  # stdout has no reader; the status says so
    return 1
