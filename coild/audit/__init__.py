"""What a journal tells: who held what and when, what changed, and what must always be true."""

__all__ = ["diff", "invariants", "ledger", "times"]
