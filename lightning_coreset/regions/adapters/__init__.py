"""Adapters: any module, classifiers with a feature map, CLIP-like models, segmenters, generative models."""

from lightning_coreset.regions.adapters.adapter import Adapter
from lightning_coreset.regions.adapters.clip import (
    clip_adapter,
    open_clip_adapter,
    prompt_features,
    transformers_clip_adapter,
)
from lightning_coreset.regions.adapters.feature_map import from_module
from lightning_coreset.regions.adapters.fidelity import map_fidelity
from lightning_coreset.regions.adapters.options import option_likelihood_adapter
from lightning_coreset.regions.adapters.segmentation import segmentation_adapter

__all__ = (
    "Adapter",
    "clip_adapter",
    "from_module",
    "map_fidelity",
    "open_clip_adapter",
    "option_likelihood_adapter",
    "prompt_features",
    "segmentation_adapter",
    "transformers_clip_adapter",
)
