"""Callbacks for any Lightning trainer."""

from lightning_coreset.callbacks.active_learning_rounds import ActiveLearningRounds
from lightning_coreset.callbacks.active_learning_warm_start import ActiveLearningWarmStart
from lightning_coreset.callbacks.region_refinement import RegionRefinement
from lightning_coreset.callbacks.training_dynamics import TrainingDynamics

__all__ = ("ActiveLearningRounds", "ActiveLearningWarmStart", "RegionRefinement", "TrainingDynamics")
