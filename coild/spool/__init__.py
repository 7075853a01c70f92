"""Releases that the daemon could not be told of, kept as files until it can."""

__all__ = ["files", "releases"]
