"""`coild-replay`: any past state, rebuilt from the journal."""
