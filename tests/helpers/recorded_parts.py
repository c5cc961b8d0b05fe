"""Users' modules and datamodules that a recording must cope with, and a plain reference of what it must hold."""

from collections import namedtuple
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate

from tests.helpers.lightning_parts import DigitsSource, LinearNet, digit_tensors, marks

Sample = namedtuple("Sample", "image label")
FORMS = {
    "tuple": lambda image, label: (image, label),
    "list": lambda image, label: [image, label],
    "dict": lambda image, label: {"image": image, "label": label},
    "namedtuple": Sample,
    "tensor": lambda image, label: torch.cat([image.flatten(), label.reshape(1).float()]),
}


class Shaped(Dataset[Any]):
    """Digits as items of one form."""

    def __init__(self, form: str, count: int) -> None:
        self.images, self.targets = digit_tensors(count)
        self.form = FORMS[form]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Any:
        return self.form(self.images[index], self.targets[index])


def parts_of(batch: Any) -> tuple[Tensor, Tensor]:
    """Images and labels of a batch of any of these forms."""
    if isinstance(batch, dict):
        return batch["image"], batch["label"]
    if isinstance(batch, Tensor):
        return batch[:, :-1].view(-1, 1, 8, 8), batch[:, -1].long()
    return batch[0], batch[1]


class ShapedSource(DigitsSource):
    """Somebody's datamodule whose items have another form."""

    def __init__(self, form: str = "tuple", **settings: Any) -> None:
        super().__init__(**settings)
        self.form = form

    def setup(self, stage: str | None = None) -> None:
        super().setup(stage)
        self.train = Shaped(self.form, self.count)


class Witness(LinearNet):
    """A module that writes down what its own steps computed, by the marks of the images."""

    def __init__(self, seed: int = 123) -> None:
        super().__init__(seed)
        # No dropout: a reference can run the same forward pass.
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        self.types: list[type] = []
        self.logits: list[dict[float, Tensor]] = []

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.logits.append({})

    def training_step(self, batch: Any) -> Tensor:
        self.types.append(type(batch))
        images, labels = parts_of(batch)
        logits = self(images)
        with torch.autocast("cpu", enabled=False):
            seen = marks(images).tolist()
        for mark, row in zip(seen, logits.detach().float(), strict=True):
            self.logits[-1][round(mark, 3)] = row
        return nn.functional.cross_entropy(logits, labels)

    def validation_step(self, batch: Any) -> None:
        self(batch[0])


def reference_columns(logits: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Loss, margin, correctness and error norm in plain numpy, one item after the other."""
    found: dict[str, list[float]] = {"losses": [], "margins": [], "correct": [], "errors": []}
    for row, label in zip(logits.astype(np.float64), labels, strict=True):
        exponents = np.exp(row - row.max())
        softmax = exponents / exponents.sum()
        residual = softmax.copy()
        residual[label] -= 1
        found["losses"].append(-np.log(softmax[label]))
        found["margins"].append(row[label] - np.delete(row, label).max())
        found["correct"].append(int(row.argmax() == label))
        found["errors"].append(np.sqrt((residual**2).sum()))
    return {name: np.array(values) for name, values in found.items()}


def mixing_collate(items: list[Any]) -> Any:
    """A collation like CutMix: images change a little, labels become shares of two classes."""
    images, labels = default_collate(items)
    soft = nn.functional.one_hot(labels, 10).float()
    return [images, 0.7 * soft + 0.3 * soft.flip(0)]


def loader_of(form: str = "tuple", count: int = 50, **settings: Any) -> DataLoader:
    return DataLoader(Shaped(form, count), **({"batch_size": 16, "shuffle": True} | settings))
