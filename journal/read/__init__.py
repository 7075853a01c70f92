"""Reading a journal: from where a replay starts, to the end, or for one key."""

__all__ = ["tail"]
