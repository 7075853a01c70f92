"""`coild-verify`: whether a journal is whole, and what its head is."""
