"""The CNI plugin for tests, and the runtimes that run it."""
