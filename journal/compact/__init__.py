"""Snapshots, the archive, and what may be removed once both stand for it."""
