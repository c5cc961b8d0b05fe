"""From images to embeddings: extractors, and the pass that runs them."""

from lightning_coreset.features.extraction import extract_features, transfer_hooks
from lightning_coreset.features.extractor import FeatureExtractor
from lightning_coreset.features.networks import ModuleExtractor, TimmExtractor, TorchvisionExtractor
from lightning_coreset.features.patterns import LocalPatterns
from lightning_coreset.features.pixels import PixelsExtractor
from lightning_coreset.features.precomputed import PrecomputedFeatures
from lightning_coreset.features.resolve import resolve_extractor

__all__ = (
    "FeatureExtractor",
    "LocalPatterns",
    "ModuleExtractor",
    "PixelsExtractor",
    "PrecomputedFeatures",
    "TimmExtractor",
    "TorchvisionExtractor",
    "extract_features",
    "resolve_extractor",
    "transfer_hooks",
)
