"""Rows, and how they are printed."""

from __future__ import annotations

import sys

import msgspec


class Row(msgspec.Struct, frozen=True):
    """One promise: what was measured, and the bound it must keep."""

    name: str
    value: float
    bound: float
    unit: str = ""
    at_most: bool = False
    note: str = ""

    @property
    def kept(self) -> bool:
        """Whether the bound is kept."""
        return self.value <= self.bound if self.at_most else self.value >= self.bound

    def __str__(self) -> str:
        sign = "≤" if self.at_most else "≥"
        unit = f" {self.unit}" if self.unit else ""
        return (
            f"{self.name:<62} {self.value:>8.2f}{unit:<5} {sign} {self.bound:>6g}{unit:<5} "
            f"{'ok   ' if self.kept else 'SHORT'}  {self.note}"
        )


def show(row: Row) -> Row:
    """Print a row as soon as it is there."""
    sys.stdout.write(f"{row}\n")
    sys.stdout.flush()
    return row
