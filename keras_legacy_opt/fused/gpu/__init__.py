"""Kernels of GPUs: compiled on the machine that runs them, and kept there."""
