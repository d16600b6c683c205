"""Optimizers that legacy did not have: the same declarations, the same API."""
