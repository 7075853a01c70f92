"""A node IPAM daemon: pod addresses over REST, served from a durable journal."""

__version__ = "0.1.0"
