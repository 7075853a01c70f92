"""Compaction: writes snapshots and the archive, and removes segments that both replace."""
