"""Journals for tests: built, compacted, damaged, read."""
