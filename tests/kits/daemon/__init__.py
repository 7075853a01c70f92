"""The daemon and its clients, for tests."""
