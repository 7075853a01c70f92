"""The files of a journal, as bytes: segments, snapshots, archive, indexes, and their chain."""
