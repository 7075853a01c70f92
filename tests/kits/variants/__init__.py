"""`coild` as a process, with one thing in it that is not as it is elsewhere."""
