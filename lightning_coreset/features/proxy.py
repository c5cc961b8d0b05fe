"""A small network that trains on the pool itself before it embeds it."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.models import resnet18
from torchvision.transforms import v2

from lightning_coreset.data.cache import EmbeddingCache
from lightning_coreset.data.fingerprint import module_key
from lightning_coreset.data.views import RawImages, as_tensor, random_state_kept
from lightning_coreset.distributed import from_first_rank, gather_json, together
from lightning_coreset.errors import CoresetError
from lightning_coreset.features.extractor import FeatureExtractor, scaled_tensor
from lightning_coreset.features.networks import random_network, three_channels
from lightning_coreset.features.training import train_classifier
from lightning_coreset.ops.random import seeded_generator
from lightning_coreset.ops.reducer import Reducer, SerialReducer

_SAMPLES = 8
_LARGEST_SIDE = 128
_POOLED_FROM = 64


class ProxyExtractor(FeatureExtractor):
    """Penultimate features of a ResNet-18 from random weights, trained for some epochs on the images it will embed.

    A 3 x 3 stem, and no pooling below 64 pixels. Images are resized to the shorter side of the smallest of 8 of them,
    128 at most, square. Nothing but the images (and for more than 0 epochs their labels) is needed.

    Args:
        epochs: Passes over the images; 0 is a random network.

    Example:
        >>> ProxyExtractor(epochs=0).key
        'random ResNet-18'
    """

    def __init__(self, epochs: int = 10) -> None:
        self.epochs = epochs
        self._module: nn.Module | None = None
        self._side = 0

    @property
    def key(self) -> str:
        """How it trains, and once it is fitted a key of its weights."""
        told = f"ResNet-18 trained for {self.epochs} epochs" if self.epochs else "random ResNet-18"
        return told if self._module is None else f"{told} at {self._side} px {module_key(self._module)}"

    def transform(self, normalize: bool = True) -> None:
        """Images come from `view`, ready as they are."""

    def module(self) -> nn.Module:
        """The network without its classifier.

        Raises:
            CoresetError: It has not been fitted.
        """
        if self._module is None:
            msg = f"The {self.key} has not seen any images yet: only 'dq_v2' fits it, give another features=."
            raise CoresetError(msg)
        return self._module

    def extract(self, inputs: Tensor) -> Tensor:
        """Features before the classifier ``[B, 512]``."""
        rows: Tensor = self.module()(inputs)
        return rows

    def view(self, images: Any) -> "Dataset[Any]":
        """A dataset's raw images as this network takes them."""
        return _Resized(RawImages(images), self._side)

    def fitted(
        self,
        images: Any,
        labels: Tensor | None,
        *,
        seed: int = 0,
        device: torch.device | None = None,
        reducer: Reducer | None = None,
        cache: EmbeddingCache | None = None,
        num_workers: int = 0,
        progress: Callable[[int, str], AbstractContextManager[Any]] | None = None,
    ) -> "ProxyExtractor":
        """One that has trained on a dataset; this one stays as it is.

        Every rank trains on all images at the same time, so none waits for another, and the first rank's weights
        count. They do not depend on the number of ranks.

        Args:
            images: A map-style dataset of ``N`` images.
            labels: Class of each ``[N]``; may be None for 0 epochs.
            seed: Of weights and order.
            device: Where to train; None is the CPU.
            reducer: The ranks; all must call this alike.
            cache: The weights are kept there, and found again.
            num_workers: Processes that read images.
            progress: Called as ``progress(total, description)``, gives a context manager around a bar.

        Raises:
            CoresetError: Items without an image, or another rank failed.
        """
        reducer = reducer or SerialReducer()
        found = ProxyExtractor(self.epochs)
        with together(reducer, "reading images for a proxy"):
            found._side = _side_of(images)
            classes = 1 if labels is None else int(labels.max()) + 1
            network = random_network(lambda: _SmallResNet(found._side, classes), seeded_generator(seed, "proxy"))
        if self.epochs:
            assert labels is not None
            stored = None
            if cache is not None and reducer.rank == 0:
                stored = cache.read(torch.tensor([0]))[0]
                stored = None if stored is None or stored.shape[1] != len(_weights(network)) else stored
            if not gather_json(reducer, stored is not None)[0]:
                with together(reducer, "training a proxy"):
                    train_classifier(
                        network, found.view(images), labels, epochs=self.epochs, seed=seed,
                        device=device or torch.device("cpu"), num_workers=num_workers, progress=progress,
                    ).cpu()  # fmt: skip
            weights = from_first_rank(reducer, _weights(network) if stored is None else stored[0])
            if cache is not None and stored is None and reducer.rank == 0:
                cache.write(torch.tensor([0]), weights.unsqueeze(0))
            _set_weights(network, weights)
        network.fc = nn.Identity()
        found._module = network.requires_grad_(False).eval()
        return found


class _SmallResNet(nn.Module):
    def __init__(self, side: int, classes: int) -> None:
        super().__init__()
        body = resnet18(weights=None)
        body.conv1 = nn.Conv2d(3, 64, 3, stride=1 if side < _POOLED_FROM else 2, padding=1, bias=False)
        body.maxpool = nn.Identity() if side < _POOLED_FROM else body.maxpool
        body.fc = nn.Identity()
        self.body = body
        self.fc: nn.Module = nn.Linear(512, classes)

    def forward(self, images: Tensor) -> Tensor:
        # CPUs convolve twice as fast when the channels of a pixel lie together.
        logits: Tensor = self.fc(self.body(images.contiguous(memory_format=torch.channels_last)))
        return logits


class _Resized(Dataset[Any]):
    """Raw images of any size as normalised square tensors of three channels."""

    def __init__(self, images: RawImages, side: int) -> None:
        self._images = images
        self._transform = v2.Compose(
            [
                v2.Lambda(three_channels),
                v2.Lambda(scaled_tensor),
                v2.Resize([side, side], antialias=True),
                v2.Normalize([0.5] * 3, [0.25] * 3),
            ]
        )

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Tensor:
        changed: Tensor = self._transform(self._images[index])
        return changed


def _side_of(images: Any) -> int:
    """The shorter side of the smallest of some evenly spread images."""
    raw, size = RawImages(images), len(images)
    with random_state_kept():
        sides = [min(as_tensor(raw[size * place // _SAMPLES]).shape[-2:]) for place in range(min(size, _SAMPLES))]
    return min(*sides, _LARGEST_SIDE)


def _weights(network: nn.Module) -> Tensor:
    """Parameters and running statistics as one row of numbers."""
    return torch.cat([values.flatten() for values in network.state_dict().values() if values.is_floating_point()])


def _set_weights(network: nn.Module, weights: Tensor) -> None:
    start = 0
    for values in network.state_dict().values():
        if values.is_floating_point():
            values.copy_(weights[start : start + values.numel()].view_as(values))
            start += values.numel()
