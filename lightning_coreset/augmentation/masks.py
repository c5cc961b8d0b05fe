"""Which cells of an image are foreground, as a randomly initialised network sees it."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.models import resnet50

from lightning_coreset.augmentation.planes import to_planes, unit_planes, with_channels
from lightning_coreset.data.cache import EmbeddingCache
from lightning_coreset.data.views import RawImages
from lightning_coreset.distributed import index_range, together
from lightning_coreset.features import FeatureExtractor, extract_features
from lightning_coreset.features.networks import random_network
from lightning_coreset.ops.random import seeded_generator
from lightning_coreset.ops.reducer import Reducer, SerialReducer

#: Cells a side of the network's last stage.
MAP_SIDE = 7

_INPUT_SIDE = 224
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class RandomSaliency(FeatureExtractor):
    """A randomly initialised ResNet-50 whose last-stage maps are summed over channels: ``[B, 49]``.

    Paper: "Rethinking Dataset Quantization" (DQ_v2): convolutions with random weights still answer to where the
    texture is.

    Args:
        seed: Of the weights.

    Example:
        >>> RandomSaliency(seed=3).key
        'random resnet50, seed 3'
    """

    batch_size = 32

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._module: nn.Module | None = None

    @property
    def key(self) -> str:
        """The network and the seed of its weights."""
        return f"random resnet50, seed {self.seed}"

    def transform(self, normalize: bool = True) -> None:
        """Images come ready, whatever they were."""

    def module(self) -> nn.Module:
        """The network up to its last stage."""
        if self._module is None:
            network = random_network(resnet50, seeded_generator(self.seed, "random CNN")).eval()
            # CPUs convolve twice as fast when the channels of a pixel lie together.
            stages = nn.Sequential(*list(network.children())[:-2]).to(memory_format=torch.channels_last)
            self._module = stages.requires_grad_(False)
        return self._module

    def extract(self, inputs: Tensor) -> Tensor:
        """Sums over channels of the last stage's maps ``[B, 49]``."""
        maps: Tensor = self.module()(inputs.to(memory_format=torch.channels_last))
        return maps.sum(dim=1).flatten(1)


class _NetworkInputs(Dataset[Any]):
    """Raw images of any size and kind as the network takes them."""

    def __init__(self, images: RawImages) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Tensor:
        planes = with_channels(unit_planes(to_planes(self._images[index], index)), 3)
        mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (_MEAN, _DEVIATION))
        size = (_INPUT_SIDE, _INPUT_SIDE)
        wide = nn.functional.interpolate(planes.unsqueeze(0), size, mode="bilinear", antialias=True)
        return (wide.squeeze(0) - mean) / deviation


def saliency_maps(
    images: RawImages,
    positions: Tensor,
    *,
    seed: int = 0,
    device: torch.device | None = None,
    reducer: Reducer | None = None,
    cache: EmbeddingCache | None = None,
    num_workers: int = 0,
    progress: Callable[[int, str], AbstractContextManager[Any]] | None = None,
) -> Tensor:
    """What the random network sees of some images, in batches, shared over the ranks.

    Args:
        images: Raw images of any size, with 1, 3 or 4 channels.
        positions: Images to look at ``[n]``.
        seed: Of the network's weights.
        device: Where it runs; None is the CPU.
        reducer: The ranks that share the work; all must call this with the same positions.
        cache: Images in it are not looked at again.
        num_workers: Processes that read images.
        progress: Called as ``progress(total, description)``, gives a context manager around a bar.

    Returns:
        ``[n, 49]``, float32 on the CPU, the same on every rank. One ResNet-50 pass at 224 pixels an image.

    Raises:
        CoresetError: An item without an image, or another rank failed.
    """
    reducer = reducer or SerialReducer()
    own = index_range(len(positions), reducer.rank, reducer.world_size)
    rows = torch.empty(0, MAP_SIDE**2)
    with together(reducer, "looking for the foreground of images"):
        if own:
            rows = extract_features(
                _NetworkInputs(images),
                RandomSaliency(seed),
                positions[own.start : own.stop],
                device=device,
                num_workers=num_workers,
                cache=cache,
                progress=progress,
            )
    return torch.cat(reducer.gather(rows))


def foreground_cells(saliency: Tensor, cells: int) -> Tensor:
    """The half of an image's cells that stands out most.

    Args:
        saliency: One map ``[49]``.
        cells: Cells a side, ``g``.

    Returns:
        ``[g, g]``, bool; ``ceil(g^2 / 2)`` cells are True, ties to the lowest index.

    Example:
        >>> foreground_cells(torch.arange(49.0), 2).tolist()
        [[False, False], [True, True]]
    """
    square = saliency.view(1, 1, MAP_SIDE, MAP_SIDE)
    values = nn.functional.interpolate(square, (cells, cells), mode="bilinear", align_corners=False).flatten()
    highest = torch.argsort(values, descending=True, stable=True)[: -(-(cells**2) // 2)]
    found = torch.zeros(cells**2, dtype=torch.bool)
    found[highest] = True
    return found.view(cells, cells)
