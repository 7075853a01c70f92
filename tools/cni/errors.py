"""Errors of the plugin: the specification's codes and its own; and notices on stderr."""

from __future__ import annotations

from posix import write

#: CNI spec 1.1.0, section "Error".
INCOMPATIBLE_VERSION = 1
UNKNOWN_CONTAINER = 3
INVALID_ENVIRONMENT = 4
IO_FAILURE = 5
DECODING_FAILURE = 6
INVALID_CONFIG = 7
TRY_AGAIN_LATER = 11
#: CNI spec 1.1.0, section "STATUS".
NOT_AVAILABLE = 50
LIMITED_CONNECTIVITY = 51
#: Codes from 100 on are the plugin's own: coild refuses, and would refuse it again.
REFUSED = 100
#: The address that is held is not the one in prevResult.
OTHER_ADDRESS = 101
#: libcni's code for an internal error: a bug.
INTERNAL = 999


class CniError(Exception):
    """The command failed. `msg` says why, `details` what to do, if there is something."""

    def __init__(self, code: int, msg: str, details: str = "") -> None:
        super().__init__(msg)
        self.code = code
        self.msg = msg
        self.details = details


class NoAnswerError(Exception):
    """There was no answer of a coild; one line with the address and the reason."""


def notice(text: str) -> None:
    """Write a notice to stderr, which runtimes log or drop."""
    try:  # noqa: SIM105 - contextlib takes longer to import than this
        write(2, f"coild-ipam: {text}\n".encode(errors="backslashreplace"))
    except OSError:
        pass  # nobody listens
