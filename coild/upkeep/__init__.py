"""Keeping the journal small: when it is compacted, by whom, and what may be pruned."""

__all__ = ["ages", "compaction_plan", "compactor", "prune_orders"]
