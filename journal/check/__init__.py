"""Whether a journal is whole: every byte, every file, and how they hang together."""
