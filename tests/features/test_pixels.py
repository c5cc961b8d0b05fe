"""Pixels: no network, no weights."""

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from lightning_coreset.features import PixelsExtractor, extract_features
from tests.data.examples import Pictures, picture, shifted
from tests.helpers.lightning_parts import digit_tensors


def test_digits_are_their_own_embeddings() -> None:
    images, labels = digit_tensors(20)
    rows = extract_features(TensorDataset(images, labels), PixelsExtractor(), torch.arange(20))
    assert torch.equal(rows, images.flatten(1)), "tensors are taken as they are"


def test_pictures_are_scaled_and_the_augmentation_is_left_out() -> None:
    rows = extract_features(Pictures(4, transform=shifted), PixelsExtractor(), torch.tensor([2]))
    expected = torch.from_numpy(np.asarray(picture(2)).transpose(2, 0, 1).copy()).float() / 255
    assert torch.equal(rows, expected.reshape(1, -1))


@pytest.mark.parametrize(("side", "width"), [(8, 3 * 8 * 8), (32, 3 * 32 * 32), (75, 3 * 32 * 32)])
def test_images_are_shrunk_to_at_most_32(side: int, width: int) -> None:
    rows = extract_features(Pictures(3, side=side), PixelsExtractor(), torch.arange(3))
    assert rows.shape == (3, width)
    assert 0 <= rows.min() < rows.max() <= 1


@pytest.mark.parametrize("channels", [1, 4, 13])
def test_any_number_of_channels(channels: int) -> None:
    images = torch.rand(5, channels, 6, 6)
    assert torch.equal(extract_features(TensorDataset(images), PixelsExtractor(), torch.arange(5)), images.flatten(1))


def test_bytes_become_float_rows() -> None:
    images = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8)
    rows = extract_features(TensorDataset(images), PixelsExtractor(), torch.arange(5))
    assert rows.dtype == torch.float32
    assert torch.equal(rows, images.flatten(1).float()), "a positive factor changes no geometry"
