"""A source whose batch-transfer hook resizes: who decides how large images are when they are embedded."""

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from lightning_coreset.features import PixelsExtractor, TimmExtractor, extract_features
from lightning_coreset.features.networks import ModuleExtractor


class Pictures:
    """Four pictures of 40 x 40 pixels, with a transform to replace."""

    def __init__(self) -> None:
        self.transform: Any = None

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        picture = Image.new("RGB", (40, 40), (index * 60, 10, 200))
        return picture if self.transform is None else self.transform(picture)


class Enlarging(pl.LightningDataModule):
    """As torchgeo's UCMerced: normalises and resizes after the transfer."""

    def on_after_batch_transfer(self, batch: Tensor, dataloader_idx: int) -> Tensor:
        return nn.functional.interpolate(batch - 0.5, (64, 64))


def embed(extractor: Any, **settings: Any) -> Tensor:
    return extract_features(Pictures(), extractor, torch.arange(4), source=Enlarging(), **settings)


def test_pixels_stay_small_and_are_normalised_by_the_source() -> None:
    rows = embed(PixelsExtractor())
    assert rows.shape == (4, 3 * 32 * 32)
    reds = rows.view(4, 3, -1)[:, 0]
    torch.testing.assert_close(reds, (torch.arange(4)[:, None] * 60 / 255 - 0.5).expand_as(reds))


def test_a_network_of_one_size_gets_its_size() -> None:
    # It refuses any other: a vision transformer has a place for each patch.
    assert embed(TimmExtractor("vit_tiny_patch16_224", pretrained=False)).shape == (4, 192)


@pytest.mark.parametrize("settings", [{}, {"transform": lambda image: torch.zeros(3, 8, 8)}])
def test_a_module_of_the_users_sees_what_it_sees_in_training(settings: dict[str, Any]) -> None:
    assert embed(ModuleExtractor(nn.Flatten()), **settings).shape == (4, 3 * 64 * 64)
