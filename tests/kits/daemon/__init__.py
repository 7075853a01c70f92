"""The daemon for tests, and those that talk to it."""
