"""Answers about compactions: what one did, and what one would do."""

from __future__ import annotations

from typing import Literal

import msgspec

from coild.answers import Answer
from coild.compaction_plan import CompactionPlan
from coild.compactor import Compaction


class CompactionAnswer(Compaction, frozen=True, rename="kebab"):
    """What a compaction did; sizes are in bytes."""

    status: Literal[200] = 200


class CompactionPlanAnswer(CompactionPlan, frozen=True, rename="kebab", kw_only=True):
    """What a compaction would do; sizes are in bytes, those in the archive estimates."""

    status: Literal[200] = 200


def compaction_answer(compaction: Compaction) -> Answer:
    """200 with what a compaction did."""
    return Answer(msgspec.json.encode(CompactionAnswer(**msgspec.structs.asdict(compaction))))


def plan_answer(plan: CompactionPlan) -> Answer:
    """200 with what a compaction would do."""
    return Answer(msgspec.json.encode(CompactionPlanAnswer(**msgspec.structs.asdict(plan))))
