"""Kernels against plain references, and the laws they keep."""
