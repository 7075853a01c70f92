"""Journals whose bytes are altered: by bit rot, by a fuzzer."""
