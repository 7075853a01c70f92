"""`coild` with a wall clock that a test sets while it runs.

    python -m tests.kits.variants.stepped_clock ARGUMENTS

The nanoseconds in the file that COILD_TEST_CLOCK names (8 bytes, signed, little-endian) are added
to the time. The kernel has no namespace for the wall clock, and the machine's is not for tests.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
import time
from pathlib import Path

VARIABLE = "COILD_TEST_CLOCK"
_OFFSET = struct.Struct("<q")


def make_clock(path: Path) -> None:
    """Make the file, with the right time."""
    path.write_bytes(_OFFSET.pack(0))


def set_clock(path: Path, offset_ns: int) -> None:
    """Step the clock of whoever uses the file."""
    with path.open("r+b") as file:
        file.write(_OFFSET.pack(offset_ns))


def _install(path: Path) -> None:
    with path.open("rb") as file:
        shared = mmap.mmap(file.fileno(), _OFFSET.size, prot=mmap.PROT_READ)
    real_ns, real = time.time_ns, time.time
    time.time_ns = lambda: real_ns() + _OFFSET.unpack_from(shared)[0]
    time.time = lambda: real() + _OFFSET.unpack_from(shared)[0] / 1e9


if __name__ == "__main__":
    _install(Path(os.environ[VARIABLE]))
    # Only now: whoever binds the clock when it is imported must get this one.
    from coild.cli import main

    sys.exit(main())
