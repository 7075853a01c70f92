"""The node's blocks as routes in a table of the kernel, for routing daemons to announce."""
