"""Operators' commands. Thin: parse, call, print."""
