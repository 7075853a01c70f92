"""The CNI IPAM plugin `coild-ipam`, which runs at each container start.

A bare interpreter takes 6 to 10 ms to start and end, and every module of the standard library that
is imported adds to each container's start: `socket` 2 ms, `json` 3 ms. So the modules here only
import modules that are frozen or written in C, this package and `coild.spool`; each command imports
what it alone needs. They run on Python 3.9 and newer, since a node's Python may be older than the
daemon's.
"""
