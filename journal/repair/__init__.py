"""Cutting a damaged journal off where its damage starts, when that is ordered."""
