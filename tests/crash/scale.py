"""How much of a campaign to run: a short seeded part in CI, all of it for `just crash`."""

from __future__ import annotations

import os

#: Set to `long` by `just crash`.
VARIABLE = "COILD_CAMPAIGN"
LONG = os.environ.get(VARIABLE) == "long"


def rounds(short: int, long: int) -> int:
    """`short` or `long`, by what was asked for."""
    return long if LONG else short
