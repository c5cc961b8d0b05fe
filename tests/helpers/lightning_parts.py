"""A user's own parts: a datamodule, a module and a trainer that know nothing of coresets."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_coreset import FeatureExtractor


def digit_tensors(count: int = 600) -> tuple[Tensor, Tensor]:
    """Real handwritten digits ``[count, 1, 8, 8]`` in [0, 1], and which digit each is."""
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images[:count], dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(labels[:count])


def marks(images: Tensor) -> Tensor:
    """One number for each image by which a test knows it again ``[B]``."""
    return images.flatten(1) @ torch.linspace(1, 2, 64).square()


class DigitsSource(pl.LightningDataModule):
    """Somebody's datamodule."""

    def __init__(self, batch_size: int = 16, count: int = 600, num_workers: int = 0, **loader: Any) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.count = count
        self.num_workers = num_workers
        self.num_classes = 10
        self.loader = loader
        self.epoch_note = 0

    def setup(self, stage: str | None = None) -> None:
        images, labels = digit_tensors(self.count + 200)
        self.train = TensorDataset(images[: self.count], labels[: self.count])
        self.held_out = TensorDataset(images[self.count :], labels[self.count :])

    def train_dataloader(self) -> DataLoader:
        settings = {"shuffle": True} | self.loader
        return DataLoader(self.train, batch_size=self.batch_size, num_workers=self.num_workers, **settings)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.held_out, batch_size=100)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.held_out, batch_size=50)

    def state_dict(self) -> dict[str, Any]:
        return {"epoch_note": self.epoch_note}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.epoch_note = state_dict["epoch_note"]


class LinearNet(pl.LightningModule):
    """Somebody's module; it remembers which items each epoch showed it."""

    def __init__(self, seed: int = 123) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.body = nn.Sequential(nn.Flatten(), nn.Dropout(0.1), nn.Linear(64, 10))
        self.seen: list[list[float]] = []

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images)

    def on_train_epoch_start(self) -> None:
        self.seen.append([])

    def training_step(self, batch: Any) -> Tensor:
        self.seen[-1] += marks(batch[0]).tolist()
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any) -> None:
        self.log("accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def test_step(self, batch: Any) -> None:
        self.log("accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class CountingExtractor(FeatureExtractor):
    """Pixels, with a count of the forward passes and of the items read."""

    def __init__(self, name: str = "counting") -> None:
        self.name = name
        self.forwards = 0

    @property
    def key(self) -> str:
        return self.name

    def extract(self, inputs: Tensor) -> Tensor:
        self.forwards += 1
        return inputs.flatten(1)


def quiet_trainer(root: Path | str, **settings: Any) -> pl.Trainer:
    """A real trainer on the CPU that writes below ``root`` and shows nothing."""
    defaults = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "devices": 1,
        "default_root_dir": str(root),
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return pl.Trainer(**(defaults | settings))


def leave_ranks() -> None:
    """End a script of several ranks as torch asks for: gloo's threads may abort a process that exits without it."""
    if dist.is_initialized():
        dist.destroy_process_group()
