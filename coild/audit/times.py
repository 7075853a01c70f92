"""Moments as people write them, the way `journalctl` takes them, in ns since the epoch.

Without a zone a moment is in local time. The clock is the caller's: `now` is always an argument.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, date, datetime, timedelta, timezone
from datetime import time as time_of_day

from coild.rules.units import parse_duration

_NS = 10**9
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAIVE_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - in UTC, for text without an offset
_HOW = (
    "write it like '2026-11-22 14:03', 14:03, 2026-11-22T14:03:00Z, -2h, '2h ago', yesterday, "
    "now or @1795356180"
)
_ABSOLUTE = re.compile(
    r"(?:(?P<date>\d{4}-\d\d-\d\d)(?:T(?=\d)| |$))?"
    r"(?:(?P<clock>\d\d?:\d\d(?::\d\d)?)(?:[.,](?P<fraction>\d{1,9}))?)?"
    r" ?(?P<zone>UTC|Z|[+-]\d\d:?\d\d)?",
    re.IGNORECASE | re.ASCII,
)
_EPOCH_SECONDS = re.compile(r"@(-?)(\d{1,12})(?:\.(\d{1,9}))?", re.ASCII)
_PART = re.compile(r"(\d+(?:\.\d+)?) ?([a-z]+) ?", re.IGNORECASE | re.ASCII)
_DAYS = {"today": 0, "yesterday": -1, "tomorrow": 1}
_WEEK_DAYS = 7
_DAY_SECONDS = 86400
_UNITS = {
    name: unit
    for unit, names in {
        "ms": "ms msec",
        "s": "s sec second seconds",
        "m": "m min minute minutes",
        "h": "h hr hour hours",
        "d": "d day days",
        "w": "w week weeks",
    }.items()
    for name in names.split()
}


def parse_moment(text: str, now: int) -> int:
    """The moment that `text` names, in ns since the epoch; `now` is what relative ones refer to.

    Raises ValueError that says how to write it.
    """
    try:
        moment = _parse(" ".join(text.split()), now)
        # What cannot be shown again is not taken.
        format_local(moment)
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"{text!r} is no time: {_HOW}") from None
    return moment


def parse_age(text: str, now: int) -> int:
    """As `parse_moment`; and a duration alone is so long ago: `7d` is `-7d`."""
    written = " ".join(text.split())
    try:
        parse_span(written)
    except ValueError:
        return parse_moment(text, now)
    return parse_moment(f"-{written}", now)


def parse_span(text: str) -> int:
    """A duration in ns, with the units that `journalctl` knows: `2h`, `1w`, `2 hours 30 min`.

    Raises ValueError that says how to write it.
    """
    parts = _PART.findall(text)
    if not parts or _PART.sub("", text) or any(unit.lower() not in _UNITS for _, unit in parts):
        raise ValueError(f"{text!r} is no duration: write it like 30s, 1h30m, 90d or 2w")
    total = 0
    for number, name in parts:
        unit = _UNITS[name.lower()]
        total += (
            parse_duration(f"{number}d") * _WEEK_DAYS
            if unit == "w"
            else parse_duration(number + unit)
        )
    return total


def format_utc(moment: int) -> str:
    """RFC 3339 in UTC, exact to the ns."""
    seconds, fraction = divmod(moment, _NS)
    whole = _NAIVE_EPOCH + timedelta(seconds=seconds)
    return f"{whole.isoformat()}.{fraction:09d}Z"


def format_local(moment: int) -> str:
    """Local time for a table, to the second."""
    there = (_EPOCH + timedelta(seconds=moment // _NS)).astimezone(_local())
    return str(there.replace(tzinfo=None))


def _parse(text: str, now: int) -> int:
    lower = text.lower()
    if lower == "now":
        return now
    if lower.endswith(" ago"):
        return now - parse_span(lower.removesuffix(" ago"))
    if text[:1] in ("-", "+"):
        span = parse_span(text[1:].lstrip())
        return now + span if text[0] == "+" else now - span
    seconds = _EPOCH_SECONDS.fullmatch(text)
    if seconds is not None:
        size = int(seconds[2]) * _NS + _fraction(seconds[3])
        return -size if seconds[1] else size
    return _parse_absolute(text, now)


def _parse_absolute(text: str, now: int) -> int:
    word, _, zone_name = text.lower().partition(" ")
    if word in _DAYS and zone_name in ("", "utc"):
        zone = _zone(zone_name)
        return _instant(_today(now, zone) + timedelta(days=_DAYS[word]), "", zone)
    found = _ABSOLUTE.fullmatch(text)
    if found is None or not (found["date"] or found["clock"]):
        raise ValueError
    zone = _zone(found["zone"])
    day = date.fromisoformat(found["date"]) if found["date"] else _today(now, zone)
    return _instant(day, found["clock"] or "", zone) + _fraction(found["fraction"])


def _zone(text: str | None) -> timezone | None:
    """The zone that is written, or that of local time; None is the system's."""
    if not text:
        return _local()
    if text.upper() in ("Z", "UTC"):
        return UTC
    hours, minutes = int(text[1:3]), int(text[-2:])
    if minutes >= 60:
        raise ValueError
    offset = timedelta(hours=hours, minutes=minutes)
    return timezone(-offset if text[0] == "-" else offset)


def _local() -> timezone | None:
    """The zone of local time: UTC if TZ is a day or more from it, as for any other that is none."""
    return UTC if max(abs(time.timezone), abs(time.altzone)) >= _DAY_SECONDS else None


def _today(now: int, zone: timezone | None) -> date:
    return (_EPOCH + timedelta(seconds=now // _NS)).astimezone(zone).date()


def _instant(day: date, clock: str, zone: timezone | None) -> int:
    """A whole second, as shown by a calendar and a clock on the wall."""
    hour, minute, second = (*map(int, clock.split(":") if clock else ()), 0, 0, 0)[:3]
    there = datetime.combine(day, time_of_day(hour, minute, second), tzinfo=zone)
    return round((there.astimezone(UTC) - _EPOCH).total_seconds()) * _NS


def _fraction(digits: str | None) -> int:
    """The ns that the digits after a decimal point mean."""
    return int((digits or "").ljust(9, "0"))
