"""What of a system a test may have for itself: namespaces, disks, packages."""
