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
from lightning_coreset.regions.refine import refine
from lightning_coreset.regions.refinement import Refinement

__all__ = (
    "Adapter",
    "HCSConfig",
    "Refinement",
    "clip_adapter",
    "from_module",
    "open_clip_adapter",
    "option_likelihood_adapter",
    "prompt_features",
    "refine",
    "segmentation_adapter",
    "transformers_clip_adapter",
)
