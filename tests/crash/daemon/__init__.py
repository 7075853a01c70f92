"""The campaign against a whole daemon under load."""
