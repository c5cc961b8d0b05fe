"""What every extractor shares: images of any kind as tensors, outputs of any kind as rows."""

from collections import namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lightning_coreset import CoresetError, FeatureExtractor
from lightning_coreset.features.extractor import as_rows, resized, scaled_tensor, with_channels
from tests.data.examples import picture

Sample = namedtuple("Sample", "label picture")


class MeanColor(FeatureExtractor):
    """The smallest extractor there can be."""

    key = "mean color"

    def extract(self, inputs: Tensor) -> Tensor:
        return inputs.mean(dim=(2, 3))


@pytest.mark.parametrize(
    "image",
    [
        picture(0),
        np.asarray(picture(0)),
        torch.from_numpy(np.asarray(picture(0)).transpose(2, 0, 1).copy()),
        picture(0).convert("RGBA").convert("RGB"),
    ],
    ids=["PIL", "array", "bytes", "PIL again"],
)
def test_images_of_any_kind_become_one_tensor_in_zero_to_one(image: Any) -> None:
    expected = torch.from_numpy(np.asarray(picture(0)).transpose(2, 0, 1).copy()).float() / 255
    assert torch.equal(scaled_tensor(image), expected)
    assert torch.equal(MeanColor().transform()(image), expected)


def test_floats_are_not_scaled() -> None:
    assert scaled_tensor(torch.tensor([[[3.5]]], dtype=torch.float64)).tolist() == [[[3.5]]]


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("RGBA", 4), ("P", 3), ("1", 3), ("CMYK", 3)])
def test_modes_of_pil(mode: str, channels: int) -> None:
    assert scaled_tensor(picture(1).convert(mode)).shape == (channels, 8, 8)


def test_a_grey_image_of_sixteen_bits() -> None:
    image = Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000)
    assert scaled_tensor(image).shape == (1, 8, 8)
    assert scaled_tensor(image).max() == 63_000


IMAGES = torch.ones(2, 3, 4, 4)


@pytest.mark.parametrize(
    "batch",
    [
        IMAGES,
        [IMAGES, torch.zeros(2)],
        (IMAGES, torch.zeros(2)),
        {"label": torch.zeros(2), "image": IMAGES},
        {"pixel_values": IMAGES, "labels": torch.zeros(2)},
        {"index": torch.zeros(2), "images": IMAGES},
        {"boxes": [[1]], "photo": IMAGES},
        Sample([1, 2], IMAGES),
    ],
    ids=["tensor", "list", "tuple", "image", "pixel_values", "images", "first tensor", "namedtuple"],
)
def test_the_images_of_a_batch_are_found(batch: Any) -> None:
    assert MeanColor().inputs(batch) is IMAGES


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([["a.png"], [1]], "No image was found in an item with list.*whose inputs"),
        ({"image": np.zeros((2, 3))}, "images of a batch are a ndarray; a tensor is accepted: give a features_transf"),
    ],
)
def test_a_batch_without_images(batch: Any, message: str) -> None:
    with pytest.raises(CoresetError, match=message):
        MeanColor().inputs(batch)


@pytest.mark.parametrize("given", [1, 3])
def test_grey_images_are_repeated(given: int) -> None:
    images = torch.rand(2, given, 4, 4)
    assert torch.equal(with_channels(images, 3, "network"), images.expand(2, 3, 4, 4))


@pytest.mark.parametrize("given", [2, 4, 13])
def test_other_channels_are_refused(given: int) -> None:
    with pytest.raises(CoresetError, match=f"network takes images with 3 channels and got {given}: choose some with"):
        with_channels(torch.rand(2, given, 4, 4), 3, "network")


def test_what_is_no_batch_of_images() -> None:
    with pytest.raises(CoresetError, match=r"network got inputs of shape \[2, 64\]; images \[B, C, H, W\]"):
        with_channels(torch.rand(2, 64), 3, "network")


@pytest.mark.parametrize(("shape", "dims"), [((2, 5), ()), ((2, 7, 5), (1,)), ((2, 5, 3, 3), (2, 3))])
def test_maps_and_tokens_are_averaged(shape: tuple[int, ...], dims: tuple[int, ...]) -> None:
    output = torch.rand(shape)
    assert torch.equal(as_rows(output, "network"), output.mean(dim=dims) if dims else output)


@pytest.mark.parametrize(("output", "told"), [(torch.rand(2), r"shape \[2\]"), ((torch.rand(2, 3),), "tuple")])
def test_other_outputs_are_refused(output: Any, told: str) -> None:
    with pytest.raises(CoresetError, match=rf"network gave {told}; \[B, d\], .* is accepted: wrap it"):
        as_rows(output, "network")


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((3, 64, 64), (3, 32, 32)),
        ((1, 100, 50), (1, 32, 16)),
        ((13, 1, 900), (13, 1, 32)),
        ((3, 32, 20), (3, 32, 20)),
        ((3, 5, 5), (3, 5, 5)),
    ],
)
def test_shrinking_keeps_the_shape_and_leaves_small_images_alone(
    shape: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    image = torch.rand(shape)
    assert resized(image, 32).shape == expected
    assert (shape != expected) or resized(image, 32) is image


def test_shrinking_is_antialiased() -> None:
    """A fine chessboard becomes grey; without antialiasing it would stay black and white."""
    board = ((torch.arange(128)[:, None] + torch.arange(128)) % 2).float().unsqueeze(0)
    assert (resized(board, 32)[:, 2:-2, 2:-2] - 0.5).abs().max() < 0.05
