"""Callbacks for any Lightning trainer."""

from lightning_coreset.callbacks.training_dynamics import TrainingDynamics

__all__ = ("TrainingDynamics",)
