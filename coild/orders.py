"""The order to lose history, from the operator to the daemon."""

from __future__ import annotations

from pathlib import Path

import msgspec

from coild.units import format_duration, format_size
from journal import JournalError, OsFileSystem, Policy

#: The order to lose history: a file beside the segments. Whoever may write there may give it; the
#: API, which anyone on the node can reach, only has it carried out.
PRUNE_ORDER = "prune.order"


def give_order(fs: OsFileSystem, directory: Path, policy: Policy) -> None:
    """Leave the order to prune for the daemon. Raises OSError."""
    temporary = directory / f"{PRUNE_ORDER}.tmp"
    fd = fs.create(temporary)
    try:
        fs.write(fd, msgspec.json.encode(policy), 0)
    finally:
        fs.close(fd)
    fs.rename(temporary, directory / PRUNE_ORDER)


def read_order(fs: OsFileSystem, directory: Path) -> Policy | None:
    """The order that someone left, or None. Raises OSError, JournalError for one that is none."""
    path = directory / PRUNE_ORDER
    try:
        fd = fs.open(path)
    except FileNotFoundError:
        return None
    try:
        return msgspec.json.decode(fs.read(fd, fs.size(fd), 0), type=Policy)
    except ValueError as error:
        raise JournalError(f"{path} is no order to prune, remove it: {error}") from None
    finally:
        fs.close(fd)


def describe(policy: Policy) -> str:
    """A policy as the flags of coild-compact."""
    flags = []
    if policy.keep_age is not None:
        flags.append(f"--keep-archive {format_duration(policy.keep_age)}")
    if policy.keep_bytes is not None:
        flags.append(f"--keep-size {format_size(policy.keep_bytes)}")
    if policy.delete:
        flags.append("--delete")
    return " ".join(flags)
