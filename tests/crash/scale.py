"""How much of a campaign to run: a short seeded part in CI, all of it for `just crash`."""

from __future__ import annotations

import json
import os
from pathlib import Path

#: Set to `long` by `just crash`.
VARIABLE = "COILD_CAMPAIGN"
#: The file that `just crash` makes its table from.
REPORT_VARIABLE = "COILD_CAMPAIGN_REPORT"
LONG = os.environ.get(VARIABLE) == "long"


def rounds(short: int, long: int) -> int:
    """`short`, or `long` for `just crash`."""
    return long if LONG else short


def report(part: str, tried: int, survived: int, note: str = "") -> None:
    """Report what a part of the campaign tried and what survived: a row of the table."""
    _add({"part": part, "tried": tried, "survived": survived, "note": note, "fault": False})


def report_fault(name: str, killed_by: str) -> None:
    """Report what found a mutant; nothing if it survived."""
    note = f"killed by: {killed_by}" if killed_by else "NOT FOUND OUT"
    _add({"part": name, "tried": 1, "survived": int(not killed_by), "note": note, "fault": True})


def _add(row: dict[str, object]) -> None:
    print(f"\n{row['part']}: {row['survived']} of {row['tried']} survived; {row['note']}")  # noqa: T201
    path = os.environ.get(REPORT_VARIABLE)
    if path:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
