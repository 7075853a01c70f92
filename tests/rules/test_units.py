"""Durations and sizes: what is written is read back, and what is no such thing is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coild.rules.units import format_duration, format_size, parse_duration, parse_size

SECOND = 10**9
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
#: Beyond it, a float no longer has every ns; no one waits 104 days to the ns.
EXACT_NS_MAX = 2**53


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("0", 0),
        ("0s", 0),
        ("30s", 30 * SECOND),
        ("10m", 10 * MINUTE),
        ("1h30m", HOUR + 30 * MINUTE),
        ("1.5h", HOUR + 30 * MINUTE),
        ("250ms", SECOND // 4),
        ("1d12h", 36 * HOUR),
        ("0.000001ms", 1),
    ],
)
def test_durations_are_read(text: str, duration: int) -> None:
    """A duration is a sum of numbers with units, in ns."""
    assert duration == parse_duration(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10",
        "-1s",
        "1 s",
        "s",
        "1.s",
        ".5s",
        "1e3s",
        "1S",
        "1s,2s",
        "30sec",
        "1s ",
        "nan",
        "1h-1m",
    ],
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    """Anything else is refused with an example of how to write it."""
    with pytest.raises(ValueError, match="write it like 30s, 10m or 1h30m"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["106752d", "9" * 400 + "s", "200000000000000h"])
def test_durations_beyond_all_reason_are_refused(text: str) -> None:
    """A duration that does not fit into 63 bits of ns is refused with the most that is allowed."""
    with pytest.raises(ValueError, match="106751d at most"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (0, "0"),
        (30 * SECOND, "30s"),
        (10 * MINUTE, "10m"),
        (90 * MINUTE, "1h30m"),
        (DAY + SECOND // 2, "1d500ms"),
        (1, "0.000001ms"),
        (SECOND + 1, "1s0.000001ms"),
        (SECOND - 1, "999.999999ms"),
    ],
)
def test_durations_are_written(duration: int, text: str) -> None:
    """A duration is written with the units that people use."""
    assert text == format_duration(duration)


@given(st.integers(0, EXACT_NS_MAX))
def test_every_duration_is_read_back(duration: int) -> None:
    """What `format_duration` writes, `parse_duration` reads back to the ns."""
    assert duration == parse_duration(format_duration(duration))


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("16777216", 1 << 24),
        ("16MiB", 1 << 24),
        ("16M", 1 << 24),
        ("16 MiB", 1 << 24),
        ("4KiB", 4096),
        ("1GiB", 1 << 30),
        ("512B", 512),
    ],
)
def test_sizes_are_read(text: str, size: int) -> None:
    """A size is a number with a unit of powers of 1024, in bytes."""
    assert size == parse_size(text)


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1.5M", "1m", "1TiB", "16 MiB "])
def test_what_is_no_size_is_refused(text: str) -> None:
    """Anything else is refused with an example of how to write it."""
    with pytest.raises(ValueError, match="write it like 16MiB"):
        parse_size(text)


@given(st.integers(0, 1 << 50))
def test_every_size_is_read_back(size: int) -> None:
    """What `format_size` writes, `parse_size` reads back."""
    assert size == parse_size(format_size(size))
