"""Reads a journal: from the start of a replay, to its end, or for one key."""

__all__ = ["tail"]
