"""From a user's dataset to arrays and back: targets, evaluation views, loaders, fingerprints, the cache on disk."""

from lightning_coreset.data.cache import EmbeddingCache
from lightning_coreset.data.fingerprint import dataset_fingerprint, module_key, stable_key, tensor_key
from lightning_coreset.data.loaders import TrainLoader, WeightedItems, read_train_loader, reduced_loader
from lightning_coreset.data.targets import read_labels
from lightning_coreset.data.thumbnails import thumbnails
from lightning_coreset.data.views import EvaluationView, RawImages, image_of, read_changed, with_image

__all__ = (
    "EmbeddingCache",
    "EvaluationView",
    "RawImages",
    "TrainLoader",
    "WeightedItems",
    "dataset_fingerprint",
    "image_of",
    "module_key",
    "read_changed",
    "read_labels",
    "read_train_loader",
    "reduced_loader",
    "stable_key",
    "tensor_key",
    "thumbnails",
    "with_image",
)
