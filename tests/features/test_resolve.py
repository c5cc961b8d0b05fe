"""From what a user writes as ``features=`` to what embeds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lightning_coreset.features import (
    ModuleExtractor,
    PixelsExtractor,
    PrecomputedFeatures,
    TimmExtractor,
    TorchvisionExtractor,
    resolve_extractor,
)


@pytest.mark.parametrize(
    ("given", "kind", "key"),
    [
        ("auto", TimmExtractor, "timm/resnet18.a1_in1k"),
        ("timm/resnet10t", TimmExtractor, "timm/resnet10t.c3_in1k"),
        ("timm/resnet10t.c3_in1k", TimmExtractor, "timm/resnet10t.c3_in1k"),
        ("torchvision/resnet18", TorchvisionExtractor, "torchvision/resnet18 IMAGENET1K_V1"),
        ("pixels", PixelsExtractor, "pixels"),
    ],
)
def test_words(given: str, kind: type, key: str) -> None:
    found = resolve_extractor(given)
    assert (type(found), found.key) == (kind, key)


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ("folder/rows.npy", PrecomputedFeatures),
        (Path("rows.npz"), PrecomputedFeatures),
        ("rows.safetensors", PrecomputedFeatures),
        (torch.eye(3), PrecomputedFeatures),
        (np.eye(3), PrecomputedFeatures),
        (nn.Flatten(), ModuleExtractor),
    ],
    ids=str,
)
def test_paths_arrays_and_modules(given: Any, kind: type) -> None:
    assert type(resolve_extractor(given)) is kind


def test_extractors_are_taken_as_they_are() -> None:
    for given in (PixelsExtractor(), PrecomputedFeatures(torch.eye(2))):
        assert resolve_extractor(given) is given


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("pixel", "features='pixel' is not accepted; .*did you mean 'pixels'"),
        ("rows.csv", "for a file give one that ends in .npy, .npz, .safetensors"),
        ("timm/", "features='timm/' is not accepted"),
        ("timm/resnet18x", "timm does not know the model 'resnet18x'.*for example"),
        ("timm/resnet18.none", r"timm does not know the weights 'resnet18.none'.*give one of \['resnet18.a1_in1k'"),
        ("torchvision/resnet", "torchvision does not know the classifier 'resnet': see torchvision.models"),
        ("", "features='' is not accepted"),
    ],
)
def test_words_that_mean_nothing(given: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        resolve_extractor(given)
    assert "\n" not in str(raised.value)


def test_other_types() -> None:
    with pytest.raises(TypeError, match="features is a int; a word, a path, a tensor, a module or a FeatureExtractor"):
        resolve_extractor(3)
