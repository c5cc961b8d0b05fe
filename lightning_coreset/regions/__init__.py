"""HCS: a frozen model understands a wide scene through a few of its regions."""

from lightning_coreset.regions.adapters import (
    Adapter,
    clip_adapter,
    from_module,
    open_clip_adapter,
    option_likelihood_adapter,
    prompt_features,
    segmentation_adapter,
    transformers_clip_adapter,
)
from lightning_coreset.regions.config import HCSConfig
from lightning_coreset.regions.diagnostics import (
    highest_confidence,
    insertion_deletion,
    pointing_game,
    regions_blanked,
    weights_cut,
)
from lightning_coreset.regions.pictures import draw_refinement
from lightning_coreset.regions.refine import refine
from lightning_coreset.regions.refinement import Refinement
from lightning_coreset.regions.score_mlp import ScoreMLP, distilled_score
from lightning_coreset.regions.wide import open_scene

__all__ = (
    "Adapter",
    "HCSConfig",
    "Refinement",
    "ScoreMLP",
    "clip_adapter",
    "distilled_score",
    "draw_refinement",
    "from_module",
    "highest_confidence",
    "insertion_deletion",
    "open_clip_adapter",
    "open_scene",
    "option_likelihood_adapter",
    "pointing_game",
    "prompt_features",
    "refine",
    "regions_blanked",
    "segmentation_adapter",
    "transformers_clip_adapter",
    "weights_cut",
)
