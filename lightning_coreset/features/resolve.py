"""From what a user writes as ``features=`` to what embeds."""

import difflib
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from lightning_coreset.features.extractor import FeatureExtractor
from lightning_coreset.features.networks import ModuleExtractor, TimmExtractor, TorchvisionExtractor
from lightning_coreset.features.pixels import PixelsExtractor
from lightning_coreset.features.precomputed import SUFFIXES, PrecomputedFeatures

_DEFAULT = "timm/resnet18"


def resolve_extractor(features: Any) -> FeatureExtractor | PrecomputedFeatures:
    """The extractor behind ``features=``; networks are built, and files read, on first use only.

    Args:
        features: ``"auto"``, ``"timm/<name>"``, ``"torchvision/<name>"``, ``"pixels"``, a path, a tensor or array
            ``[N, d]``, a module, or an extractor.

    Raises:
        ValueError: A word that means nothing, or a model that is not known.
        TypeError: Another type.

    Example:
        >>> resolve_extractor("pixels").key
        'pixels'
    """
    if isinstance(features, FeatureExtractor | PrecomputedFeatures):
        return features
    if isinstance(features, Tensor | np.ndarray):
        return PrecomputedFeatures(features)
    if isinstance(features, nn.Module):
        return ModuleExtractor(features)
    if isinstance(features, str | Path):
        return _from_text(str(features))
    msg = (
        f"features is a {type(features).__name__}; a word, a path, a tensor, a module or a FeatureExtractor is "
        "accepted: give one of them."
    )
    raise TypeError(msg)


def _from_text(text: str) -> FeatureExtractor | PrecomputedFeatures:
    if text == "pixels":
        return PixelsExtractor()
    if Path(text).suffix in SUFFIXES:
        return PrecomputedFeatures(text)
    library, _, name = (_DEFAULT if text == "auto" else text).partition("/")
    if library == "timm" and name:
        return TimmExtractor(name)
    if library == "torchvision" and name:
        return TorchvisionExtractor(name)
    words = ["auto", "pixels", "timm/<name>", "torchvision/<name>"]
    close = difflib.get_close_matches(text, words, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"for a file give one that ends in {', '.join(SUFFIXES)}."
    msg = f"features={text!r} is not accepted; accepted are {', '.join(words)} and paths: {hint}"
    raise ValueError(msg)
