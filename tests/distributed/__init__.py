"""Ranks: doubles in one process, and two real ones."""
