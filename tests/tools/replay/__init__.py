"""Tests of `coild-replay`."""
