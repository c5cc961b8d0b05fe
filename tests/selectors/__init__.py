"""Selectors against plain references, and the laws all of them keep."""
