"""Small frozen models that count what they are shown, and scenes in which they can be right."""

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from lightning_coreset.regions import HCSConfig

#: What the callback is tried with: 13 forwards for scenes of 64 pixels.
CONFIG = HCSConfig(levels=((2, 2), (4, 3)))
SIZE = 16


class Counting(nn.Module):
    """A small classifier from fixed weights; remembers the sizes of its calls."""

    def __init__(self, classes: int = 5, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.convolution = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.linear = nn.Linear(8, classes)
        for name, parameter in self.named_parameters():
            scale = 0.3 if name.endswith("bias") else 3 if name.startswith("linear") else 1
            parameter.data = torch.randn(parameter.shape, generator=generator) * scale
        self.calls: list[int] = []
        self.eval()

    def features(self, images: Tensor) -> Tensor:
        return self.convolution(images).relu()

    def forward(self, images: Tensor) -> Tensor:
        self.calls.append(len(images))
        return self.linear(self.features(images).mean((2, 3)))


class WithEmbedding(Counting):
    """Gives (embedding, logits)."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.calls.append(len(images))
        rows = self.features(images).mean((2, 3))
        return rows, self.linear(rows)


class Segmenting(Counting):
    """Gives logits of each pixel, at half the size."""

    def forward(self, images: Tensor) -> Tensor:
        self.calls.append(len(images))
        return 2 * nn.functional.conv2d(self.features(images), self.linear.weight[:, :, None, None], self.linear.bias)


def scenes(count: int = 2, height: int = 64, width: int | None = None, seed: int = 0) -> Tensor:
    """Noise of many scales, so that no two regions are alike ``[count, 3, height, width]``."""
    generator = torch.Generator().manual_seed(seed)
    width = height if width is None else width
    total = torch.zeros(count, 3, height, width)
    for cells in (2, 5, 16):
        coarse = torch.randn(count, 3, cells, cells, generator=generator)
        total += nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return total


class Frozen(pl.LightningModule):
    """Somebody's module: its steps and metrics know nothing of regions."""

    def __init__(self, net: nn.Module | None = None, fails_at: int | None = None, through: str = "forward") -> None:
        super().__init__()
        self.net = Counting() if net is None else net
        self.accuracy = MulticlassAccuracy(5, average="micro")
        self.fails_at, self.through = fails_at, through
        self.seen: list[Any] = []

    def forward(self, images: Tensor) -> Any:
        return self.net(images)

    def classify(self, images: Tensor) -> Any:
        return self.net(images)

    def answer(self, images: Tensor, batch_idx: int) -> Any:
        if batch_idx == self.fails_at:
            msg = "a step of the user's fails"
            raise RuntimeError(msg)
        found = self.classify(images) if self.through == "classify" else self(images)
        self.seen.append(found)
        return found

    def test_step(self, batch: Any, batch_idx: int) -> None:
        logits = self.answer(batch[0], batch_idx)
        logits = logits[1] if isinstance(logits, tuple) else logits
        if logits.ndim == 2:
            self.accuracy(logits, batch[1])
            self.log("accuracy", self.accuracy)

    validation_step = test_step

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        return {"logits": self.answer(batch[0], batch_idx)}


def images_and_labels(count: int = 6, side: int = 64) -> tuple[Tensor, Tensor]:
    return scenes(count, side), torch.arange(count) % 5


def loader(count: int = 6, side: int = 64, batch_size: int = 4) -> DataLoader:
    return DataLoader(TensorDataset(*images_and_labels(count, side)), batch_size=batch_size)
