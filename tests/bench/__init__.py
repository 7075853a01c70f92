"""What `just bench` measures: one table, each row a ratio of two things measured in that run."""
