"""The CNI IPAM plugin `coild-ipam`: what runs at each container start.

A bare interpreter takes 6 to 10 ms to start and end, and every module of the standard library that
is imported adds to each container's start: `socket` 2 ms, `json` 3 ms. So the modules here import
what is frozen or written in C, and this package and `coild.spool` alone; what a command does not
need is imported by those that do. They run from Python 3.9 on, since a node's Python may be older
than the daemon's.
"""
