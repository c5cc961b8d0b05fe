"""Train on a tenth of the handwritten digits, and see what it costs.

The real 8 x 8 digits that ship with scikit-learn; a small network, trained for the same number of optimizer steps on
what SubZeroCore chose, on random items and on everything. Prints a table and writes a picture of what was chosen and
what was left out.

    python examples/00_digits.py [--ratio 0.1] [--steps 300] [--seeds 3] [--output digits.png]
"""

import argparse
import logging
import statistics
import time
import warnings
from pathlib import Path

import lightning.pytorch as pl
import matplotlib
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_coreset import CoresetDataModule

matplotlib.use("Agg")
import matplotlib.pyplot as plt

METHODS = ("subzerocore", "random", "everything")
TEST_ITEMS = 450


class Digits(pl.LightningDataModule):
    """The datamodule somebody has already: nothing in it knows of coresets."""

    def __init__(self, batch_size: int = 32) -> None:
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage: str) -> None:
        """Scale, shuffle once, hold out a test set."""
        images, labels = load_digits(return_X_y=True)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        data = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8)[order] / 16
        targets = torch.tensor(labels)[order]
        self.train = TensorDataset(data[TEST_ITEMS:], targets[TEST_ITEMS:])
        self.test = TensorDataset(data[:TEST_ITEMS], targets[:TEST_ITEMS])

    def train_dataloader(self) -> DataLoader:
        """All items that are not for testing."""
        return DataLoader(self.train, batch_size=self.batch_size, shuffle=True)

    def test_dataloader(self) -> DataLoader:
        """Items that no method ever sees."""
        return DataLoader(self.test, batch_size=TEST_ITEMS)


class SmallNetwork(pl.LightningModule):
    """Two convolutions and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 4 * 4, 10),
        )

    def training_step(self, batch: list[Tensor]) -> Tensor:
        """Cross-entropy of a batch."""
        return nn.functional.cross_entropy(self.layers(batch[0]), batch[1])

    def test_step(self, batch: list[Tensor]) -> None:
        """Share of digits read rightly."""
        self.log("accuracy", (self.layers(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain Adam."""
        return torch.optim.Adam(self.parameters(), lr=2e-3)


def train(method: str, ratio: float, steps: int, seed: int) -> tuple[float, float, float, pl.LightningDataModule]:
    """Accuracy, seconds of selection, seconds of training, and the datamodule of one run."""
    pl.seed_everything(seed, verbose=False)
    datamodule: pl.LightningDataModule = Digits()
    if method != "everything":
        # The one line that changes in a script that trains on everything.
        datamodule = CoresetDataModule(
            datamodule, method=method, ratio=ratio, features="pixels", cache_dir=None, seed=seed
        )
    trainer = pl.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    network = SmallNetwork()
    started = time.perf_counter()
    trainer.fit(network, datamodule=datamodule)
    seconds = time.perf_counter() - started
    selecting = datamodule.coreset.manifest["seconds"] if isinstance(datamodule, CoresetDataModule) else 0.0
    accuracy = trainer.test(network, datamodule=datamodule, verbose=False)[0]["accuracy"]
    return accuracy, selecting, seconds - selecting, datamodule


def draw(datamodule: CoresetDataModule, path: Path, columns: int = 10) -> None:
    """A row for each digit: the first items chosen on the left, items left out on the right."""
    images, labels = datamodule.source.train.tensors
    chosen = datamodule.coreset.indices
    left_out = torch.ones(len(labels), dtype=torch.bool)
    left_out[chosen] = False
    figure, axes = plt.subplots(10, 2 * columns + 1, figsize=(0.45 * (2 * columns + 1), 5.2))
    for axis in axes.flat:
        axis.axis("off")
    for digit in range(10):
        rows = (chosen[labels[chosen] == digit], torch.nonzero(left_out & (labels == digit)).flatten())
        for side, items in enumerate(rows):
            for column, item in enumerate(items[:columns].tolist()):
                axes[digit, side * (columns + 1) + column].imshow(images[item, 0], cmap="gray_r")
    figure.text(0.27, 0.96, f"chosen by SubZeroCore ({len(chosen)} of {len(labels)})", ha="center")
    figure.text(0.75, 0.96, "left out (the first ones)", ha="center")
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.94, wspace=0.05, hspace=0.05)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Run all methods, print the table, write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ratio", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("digits.png"))
    given = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    print(f"{given.steps} optimizer steps on {given.ratio:.0%} of the digits, {given.seeds} seeds")
    print(f"{'method':12} {'items':>6} {'accuracy %':>14} {'selecting s':>12} {'training s':>11}")
    for method in METHODS:
        runs = [train(method, given.ratio, given.steps, seed) for seed in range(given.seeds)]
        accuracies = [100 * run[0] for run in runs]
        spread = statistics.stdev(accuracies) if len(runs) > 1 else 0.0
        datamodule = runs[0][3]
        items = len(datamodule.train_dataset if isinstance(datamodule, CoresetDataModule) else datamodule.train)
        print(
            f"{method:12} {items:6} {statistics.mean(accuracies):8.2f} ± {spread:4.2f} "
            f"{statistics.mean(run[1] for run in runs):12.3f} {statistics.mean(run[2] for run in runs):11.2f}"
        )
        if method == "subzerocore":
            draw(datamodule, given.output)
    print(f"Picture: {given.output}")


if __name__ == "__main__":
    main()
