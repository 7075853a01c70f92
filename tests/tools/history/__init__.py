"""Tests of `coild-history`."""
