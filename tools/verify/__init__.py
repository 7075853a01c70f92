"""`coild-verify`: checks that a journal is whole, and prints its head."""
