"""The steps of a start: changes since the last run are journalled before anything else."""
