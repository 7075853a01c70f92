"""Keeping the journal small: when it is compacted, by whom, and what may be pruned."""
