"""`coild-history`: the holders of addresses, and when they held them."""
