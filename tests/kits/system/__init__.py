"""Parts of a system for a test alone: namespaces, disks, packages."""
