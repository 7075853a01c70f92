"""Tests of `coild-verify`."""
