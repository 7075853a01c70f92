"""Durations and sizes as people write them."""

from __future__ import annotations

import re

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
_NS = {"ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9, "d": 86400 * 10**9}
#: As in Go: what fits into 63 bits of ns, 292 years.
_DURATION_MAX = 2**63 - 1
_SIZE = re.compile(r"(\d+)\s*([KMG]?)(?:i?B)?", re.ASCII)
_BYTES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def parse_duration(text: str) -> int:
    """A duration in ns, from what Go calls one: `30s`, `10m`, `1h30m`; `0` needs no unit.

    Raises ValueError that says how to write it.
    """
    if text == "0":
        return 0
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is no duration: write it like 30s, 10m or 1h30m")
    counts = [float(number) * _NS[unit] for number, unit in parts]
    if sum(counts) > _DURATION_MAX:
        raise ValueError(f"{text!r} is too long: {_DURATION_MAX // _NS['d']}d at most")
    return sum(map(round, counts))


def format_duration(duration: int) -> str:
    """The shortest way to write a duration in ns that `parse_duration` reads back."""
    if not duration:
        return "0"
    text = ""
    for unit in ("d", "h", "m", "s"):
        count, duration = divmod(duration, _NS[unit])
        text += f"{count}{unit}" if count else ""
    if duration:
        text += f"{duration / _NS['ms']:.6f}".rstrip("0").rstrip(".") + "ms"
    return text


def parse_size(text: str) -> int:
    """A size in bytes, from `16MiB`, `16M` or `16777216`; units are powers of 1024.

    Raises ValueError that says how to write it.
    """
    found = _SIZE.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no size: write it like 16MiB")
    return int(found[1]) * _BYTES[found[2]]


def format_size(size: int) -> str:
    """A size in bytes in the largest unit that divides it."""
    for unit in ("G", "M", "K"):
        if size and size % _BYTES[unit] == 0:
            return f"{size // _BYTES[unit]}{unit}iB"
    return str(size)
