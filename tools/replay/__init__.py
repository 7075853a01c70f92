"""`coild-replay`: rebuilds any past state from the journal."""
