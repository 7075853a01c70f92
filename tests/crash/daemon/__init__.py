"""What a whole daemon must keep under load."""
