"""A simulated disk, and the disks that a crash leaves of it."""
