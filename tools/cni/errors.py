"""What a plugin fails with: the specification's codes and its own; and what it says besides."""

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
#: From 100 on the codes are the plugin's: coild refuses, and would refuse it again.
REFUSED = 100
#: The address that is held is not the one in prevResult.
OTHER_ADDRESS = 101
#: What libcni calls an internal error: a bug.
INTERNAL = 999


class CniError(Exception):
    """The command failed. `msg` says what is wrong, `details` what to do, where there is more."""

    def __init__(self, code: int, msg: str, details: str = "") -> None:
        super().__init__(msg)
        self.code = code
        self.msg = msg
        self.details = details


class NoAnswerError(Exception):
    """Nobody answered as coild does; one line that says who was asked, and what happened."""


def notice(text: str) -> None:
    """Tell people something: runtimes log what a plugin writes to stderr, or drop it."""
    try:  # noqa: SIM105 - contextlib takes longer to import than this
        write(2, f"coild-ipam: {text}\n".encode(errors="backslashreplace"))
    except OSError:
        pass  # nobody listens
