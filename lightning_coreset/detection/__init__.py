"""Boxes: what a pool's images show, labelled or proposed."""

from lightning_coreset.detection.objects import Objects

__all__ = ["Objects"]
