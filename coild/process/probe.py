"""One question to /livez or /readyz over the daemon's unix socket, for a probe that is a command.

The kubelet's own probes speak HTTP over TCP alone. Only the standard library, for each probe is a
start of Python: `python3 -m coild.process.probe livez --socket /run/coild/coild.sock`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import sys
import time
from collections.abc import Sequence

from coild.rules.printable import printable

#: Shorter than what the manifest gives the command, so that its own words are what is logged.
TIMEOUT_SECONDS = 5.0
#: No answer to a probe is longer.
_ANSWER_BYTES_MAX = 1024 * 1024
#: A unix socket whose queue is full says so at once, rather than let one wait.
_RETRY_SECONDS = 0.05


def ask(path: str, target: str, timeout_seconds: float) -> tuple[int, bytes]:
    """The status and body of the answer to GET. Raises OSError, or ValueError if it is not HTTP."""
    deadline = time.monotonic() + timeout_seconds
    received = b""
    with socket.socket(socket.AF_UNIX) as sock:
        _connect(sock, path, deadline)
        request = f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        sock.sendall(request.encode())
        while len(received) <= _ANSWER_BYTES_MAX:
            sock.settimeout(_remaining(deadline))
            more = sock.recv(65536)
            if not more:
                break
            received += more
    head, end, body = received.partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    if not end or len(words) < 3 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        raise ValueError("the answer is not HTTP: something else listens there, or it was cut off")
    return int(words[1]), body


def _connect(sock: socket.socket, path: str, deadline: float) -> None:
    while True:
        sock.settimeout(_remaining(deadline))
        try:
            sock.connect(path)
        except BlockingIOError:
            time.sleep(_RETRY_SECONDS)
        else:
            return


def _remaining(deadline: float) -> float:
    """Seconds until then. Raises TimeoutError if it is over."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _reason(body: bytes) -> str:
    """The text of the error in an answer."""
    import json  # noqa: PLC0415 - a probe that goes well does without

    try:
        return str(json.loads(body)["error"])
    except (ValueError, LookupError, TypeError):
        return body.decode(errors="replace")


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask, and print one line. The exit status is 0 if the answer is 200, 1 if not."""
    parser = argparse.ArgumentParser(
        prog="python3 -m coild.process.probe",
        description="Asks coild whether it lives or is ready; exit status 0 or 1, and one line.",
    )
    parser.add_argument("question", choices=["livez", "readyz"])
    parser.add_argument("--socket", required=True, metavar="PATH", help="coild's unix socket")
    parser.add_argument(
        "--timeout",
        type=float,
        default=TIMEOUT_SECONDS,
        metavar="SECONDS",
        help="how long to wait for the answer (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    try:
        status, body = ask(options.socket, f"/{options.question}", options.timeout)
    except TimeoutError:
        said, well = f"no answer within {options.timeout:g} s (replaying, or stuck)", False
    except OSError as error:
        said, well = f"{error.strerror or error} (is coild running, with this socket?)", False
    except ValueError as error:
        said, well = str(error), False
    else:
        well = status == 200
        said = "ok" if well else f"{status} {_reason(body)}"
    line = f"{options.question} of {options.socket}: {said}"
    _say(f"{printable(' '.join(line.split()))}\n")
    return 0 if well else 1


def _say(text: str) -> None:
    """Write to stdout; what became of it says nothing of coild, and the exit status must not."""
    with contextlib.suppress(OSError):
        # Not by Python's buffer, which would complain at the end.
        os.write(1, text.encode(errors="backslashreplace"))


if __name__ == "__main__":
    sys.exit(main())
