"""The one writer of a journal: recovery, appending in groups, flushing, custody of the files."""
