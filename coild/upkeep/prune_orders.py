"""Orders that a request over HTTP cannot give by itself, from the operator to the daemon.

Others on the node may reach the API; only a user who may write beside the segments may have history
removed, or the journal compacted at any time. So the order is a file there, with a random name, and
the request names it: one order, one request. The daemon takes the file away before it acts, so that
an order is never carried out later.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from pathlib import Path
from typing import Annotated

import msgspec

from coild.rules.units import format_duration, format_size
from journal import OsFileSystem, Policy

_TOKEN = re.compile(r"[0-9a-f]{32}")
_BYTES_MAX = 4096


class OrderError(Exception):
    """There is no such order, or the file is not an order."""


class _Order(msgspec.Struct, forbid_unknown_fields=True):
    keep_age: Annotated[int, msgspec.Meta(ge=0)] | None = None
    keep_bytes: Annotated[int, msgspec.Meta(ge=0)] | None = None
    delete: bool = False
    trust_clock: bool = False
    #: To compact, now. One that orders to prune says so already.
    compact: bool = False


def order_path(directory: Path, token: str) -> Path:
    """Where the order with this token is."""
    return directory / f"prune-{token}.order"


def give_order(directory: Path, policy: Policy | None) -> str:
    """Leave an order to compact, and to prune if there is a policy; its token. Raises OSError."""
    fs = OsFileSystem()
    token = secrets.token_hex(16)
    fd = fs.create(order_path(directory, token))
    try:
        fs.write(fd, msgspec.json.encode(policy or {"compact": True}), 0)
    finally:
        fs.close(fd)
    return token


def take_order(directory: Path, token: str) -> Policy | None:
    """Read an order, and take it away; None if nothing is to be pruned. Raises OrderError."""
    if not _TOKEN.fullmatch(token):
        raise OrderError("an order is named by 32 hexadecimal digits")
    path = order_path(directory, token)
    try:
        # Neither a link nor a pipe in its place may mislead or hold up the daemon.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OrderError(f"{path} is no file")
            data = os.read(fd, _BYTES_MAX)
        finally:
            os.close(fd)
        path.unlink()
        order = msgspec.json.decode(data, type=_Order)
    except OSError as error:
        raise OrderError(f"cannot read the order {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise OrderError(f"{path} is no order to prune: {error}") from None
    policy = Policy(order.keep_age, order.keep_bytes, order.delete, order.trust_clock)
    if not policy.prunes:
        if not order.compact:
            raise OrderError(f"{path} orders nothing")
        return None
    return policy


def describe(policy: Policy) -> str:
    """A policy as the flags of coild-compact."""
    flags = []
    if policy.keep_age is not None:
        flags.append(f"--keep-archive {format_duration(policy.keep_age)}")
    if policy.keep_bytes is not None:
        flags.append(f"--keep-size {format_size(policy.keep_bytes)}")
    if policy.delete:
        flags.append("--delete")
    if policy.trust_clock:
        flags.append("--trust-clock")
    return " ".join(flags)
