"""Moments as people write them: what each form means, and how they are shown."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coild.audit.times import format_local, format_utc, parse_age, parse_moment, parse_span
from tests.kits.daemon.process import ended, environment

S = 10**9
HOUR = 3600 * S
DAY = 24 * HOUR
#: 2026-11-22T13:30:00Z.
NOW = 1795354200 * S
MIDNIGHT_UTC = 1795305600 * S
#: Logs one line of that moment and an eighth of a second, as coild does.
_LOGS = f"""
import logging, sys
from coild.process.logs import configure
configure("info", sys.argv[1])
times = {{"created": {NOW / S + 0.125}, "msecs": 125}}
logging.getLogger().handle(
    logging.makeLogRecord({{**times, "msg": "stopped", "levelno": 20, "levelname": "INFO"}})
)
"""


@pytest.fixture(autouse=True)
def _berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Local time is one hour ahead of UTC, two in summer."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("now", NOW),
        ("today", MIDNIGHT_UTC - HOUR),
        ("Yesterday", MIDNIGHT_UTC - HOUR - DAY),
        ("tomorrow", MIDNIGHT_UTC - HOUR + DAY),
        ("today UTC", MIDNIGHT_UTC),
        ("-2h", NOW - 2 * HOUR),
        ("+1h30m", NOW + HOUR + HOUR // 2),
        ("-1w", NOW - 7 * DAY),
        ("2h ago", NOW - 2 * HOUR),
        ("2 hours 30 min ago", NOW - 2 * HOUR - HOUR // 2),
        ("@1795356180", 1795356180 * S),
        ("@1795356180.000000001", 1795356180 * S + 1),
        ("2026-11-22", MIDNIGHT_UTC - HOUR),
        ("2026-11-22 UTC", MIDNIGHT_UTC),
        ("2026-11-22 14:03", 1795356180 * S - HOUR),
        ("2026-11-22 14:03:07,5", 1795356187 * S - HOUR + S // 2),
        ("14:03:00,000000001 UTC", 1795356180 * S + 1),
        ("2026-11-22  14:03:07.5", 1795356187 * S - HOUR + S // 2),
        ("2026-11-22 14:03 UTC", 1795356180 * S),
        ("2026-11-22T14:03:00Z", 1795356180 * S),
        ("2026-11-22t14:03:00.123456789z", 1795356180 * S + 123456789),
        ("2026-11-22T14:03:00+05:30", 1795356180 * S - 5 * HOUR - HOUR // 2),
        ("2026-11-22T14:03:00-0100", 1795356180 * S + HOUR),
        ("2026-11-22T14:03:00", 1795356180 * S - HOUR),
        ("2026-07-01 12:00", 1782900000 * S),
        ("14:03", 1795356180 * S - HOUR),
        ("9:03:07", MIDNIGHT_UTC - HOUR + 9 * HOUR + 187 * S),
    ],
)
def test_every_form_has_its_meaning(text: str, moment: int) -> None:
    """Local time without a zone; relative forms count from now; fractions are exact."""
    assert moment == parse_moment(text, NOW)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "x", "2h", "-", "+", "ago", "-2", "-2x", "@", "@x", "25:00", "14:60", "14"),
        *("2026-02-30", "2026-11-2214:03", "2026-11-22T", "2026-11-22 14:03 MEZ", "Z", "-0x2h"),
        *("14:03:00+99:00", "14:03:00+01:60", "@999999999999", "-99999999w", "٢٠٢٦-11-22", "\0"),
        *("14:03,", ",5", "14:03.,5", "14:03,5,5", "2026-11-22,5"),
        *("@\uff14", "-\uff14h", "\uff14 h ago", "1\uff14:03", "14:0\uff13"),
    ],
)
def test_anything_else_is_refused_with_how_to_write_it(text: str) -> None:
    """The one line of the error names what was written and shows forms that work."""
    with pytest.raises(ValueError, match="is no time: write it like") as caught:
        parse_moment(text, NOW)

    assert repr(text) in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=30))
def test_no_text_raises_anything_else(text: str) -> None:
    """Whatever is written, there is a moment or a ValueError."""
    try:
        moment = parse_moment(text, NOW)
    except ValueError:
        return

    assert format_utc(moment)


@given(st.integers(0, 2**63 - 1))
def test_what_is_shown_in_utc_reads_back_exactly(moment: int) -> None:
    """RFC 3339 with nine digits loses nothing."""
    assert moment == parse_moment(format_utc(moment), NOW)


@given(st.integers(NOW - 20000 * DAY, NOW))
def test_order_by_text_is_order_by_time(moment: int) -> None:
    """Scripts may sort the text."""
    assert format_utc(moment) < format_utc(moment + 1)


def test_shown_forms() -> None:
    """UTC to the ns for scripts, local time to the second for tables."""
    assert format_utc(NOW + 1) == "2026-11-22T13:30:00.000000001Z"
    assert format_local(NOW + 1) == "2026-11-22 14:30:00"


@pytest.mark.parametrize("zone", ["CET-1CEST,M3.5.0,M10.5.0/3", "NPT-5:45", "HST10", "UTC0"])
def test_the_times_of_the_log_are_times(monkeypatch: pytest.MonkeyPatch, zone: str) -> None:
    """What coild writes before a line, plain or as JSON, is taken for just that moment."""
    lines = {
        style: ended(
            [sys.executable, "-c", _LOGS, style], check=True, env=environment(TZ=zone)
        ).stderr
        for style in ("plain", "json")
    }
    plain, _, _ = lines["plain"].partition(" INFO ")
    monkeypatch.setenv("TZ", zone)
    time.tzset()

    assert "," in plain
    assert NOW + S // 8 == parse_moment(plain, 0)
    assert NOW + S // 8 == parse_moment(msgspec.json.decode(lines["json"])["time"], 0)


@pytest.mark.parametrize("zone", ["UTC+25", "UTC-24:30"])
def test_a_zone_that_is_none_is_utc(monkeypatch: pytest.MonkeyPatch, zone: str) -> None:
    """As the C library takes any other name that is no zone."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()

    assert NOW == parse_moment("now", NOW)
    assert MIDNIGHT_UTC == parse_moment("today", NOW)
    assert MIDNIGHT_UTC == parse_moment("2026-11-22", NOW)
    assert format_local(NOW) == "2026-11-22 13:30:00"


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        *((text, NOW - 7 * DAY) for text in ("7d", "-7d", "7d ago", " 7  days ", "1w", "6d24h")),
        *(
            (text, parse_moment(text, NOW))
            for text in ("now", "14:03 UTC", "2026-11-22 UTC", "+7d")
        ),
    ],
)
def test_an_age_is_a_moment(text: str, moment: int) -> None:
    """A duration alone is so long ago; all else is as everywhere."""
    assert moment == parse_age(text, NOW)


@pytest.mark.parametrize("text", ["", "7", "7y", "d", "99999999w"])
def test_what_is_no_age_is_no_time(text: str) -> None:
    """The error shows forms that work."""
    with pytest.raises(ValueError, match=f"{text}' is no time: write it like"):
        parse_age(text, NOW)


@pytest.mark.parametrize(
    ("text", "span"),
    [("90d", 90 * DAY), ("2w", 14 * DAY), ("1h30m", HOUR + HOUR // 2), ("500ms", S // 2)],
)
def test_spans(text: str, span: int) -> None:
    """Durations have weeks as well."""
    assert span == parse_span(text)


@pytest.mark.parametrize("text", ["", "5", "h", "1h x", "1y", "-1h"])
def test_other_spans_are_refused(text: str) -> None:
    """The error says how to write one."""
    with pytest.raises(ValueError, match="is no duration: write it like"):
        parse_span(text)
