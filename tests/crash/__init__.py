"""The crash campaign: a simulated disk, the disks that a crash leaves of it, and what must hold."""
