"""`coild-history`: who had which address, from when to when."""
