"""Pixels as embeddings: no network, no weights."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from lightning_coreset.features.extractor import FeatureExtractor, resized, scaled_tensor

_LARGEST = 32


class PixelsExtractor(FeatureExtractor):
    """Pixels in [0, 1], shrunk to at most 32 x 32 and flattened; tensors of datasets without transform as they are.

    Example:
        >>> import torch
        >>> PixelsExtractor().extract(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 192])
    """

    key = "pixels"
    resizes = True

    def transform(self, normalize: bool = True) -> Callable[[Any], Any]:
        """Scale to [0, 1] and shrink."""
        return small_pixels

    def extract(self, inputs: Tensor) -> Tensor:
        """One row of pixels for each image."""
        return inputs.flatten(1).float()


def small_pixels(image: Any) -> Tensor:
    """An image as a float tensor of at most 32 x 32 pixels."""
    return resized(scaled_tensor(image), _LARGEST)
