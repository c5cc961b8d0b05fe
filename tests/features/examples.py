"""Digits, a network, and the pass over them."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from lightning_coreset.features import (
    ModuleExtractor,
    extract_features,
)
from tests.helpers.lightning_parts import digit_tensors

DIGITS = TensorDataset(*digit_tensors(150))
EVERYTHING = torch.arange(150)


def network() -> ModuleExtractor:
    """A network of real arithmetic, with modes that matter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.GELU(), nn.Flatten(), nn.Dropout(0.5))
        return ModuleExtractor(nn.Sequential(layers, nn.Linear(288, 33)))


def embedded(positions: Tensor = EVERYTHING, extractor: Any = None, dataset: Any = DIGITS, **settings: Any) -> Tensor:
    return extract_features(dataset, extractor or network(), positions, **settings)
