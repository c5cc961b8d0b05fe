"""Active learning from no label at all: which digits to label first, and which next.

The real 8 x 8 digits of scikit-learn; nobody has labelled any. Round 0 labels what a selector chooses among the bare
images; each later round trains a new network on all labels so far and asks for what it knows least of. The oracle here
is the dataset itself. Prints a learning curve for each start, and what is in the journal.

    python examples/11_active_learning.py [--rounds 5] [--budget 20] [--epochs 30] [--query badge] [--folder runs]
"""

import argparse
import logging
import tempfile
import warnings
from pathlib import Path

import lightning.pytorch as pl
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_coreset import ActiveLearningDataModule
from lightning_coreset.active import ActiveLearningLoop, DatasetOracle

STARTS = ("random", "k_center", "typiclust")
TEST_ITEMS = 450


class Digits(pl.LightningDataModule):
    """The datamodule somebody has already."""

    def setup(self, stage: str) -> None:
        """Scale, shuffle once with a fixed seed, hold out a set for validation."""
        images, labels = load_digits(return_X_y=True)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        data = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8)[order] / 16
        targets = torch.tensor(labels)[order]
        self.train = TensorDataset(data[TEST_ITEMS:], targets[TEST_ITEMS:])
        self.held_out = TensorDataset(data[:TEST_ITEMS], targets[:TEST_ITEMS])

    def train_dataloader(self) -> DataLoader:
        """The pool."""
        return DataLoader(self.train, batch_size=32, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        """Items that are never asked for."""
        return DataLoader(self.held_out, batch_size=TEST_ITEMS)


class SmallNetwork(pl.LightningModule):
    """One convolution and two linear layers; its ``forward`` gives logits, which queries look at."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * 64, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        return self.layers(images)

    def training_step(self, batch: list[Tensor]) -> Tensor:
        """Cross-entropy of a batch."""
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor]) -> None:
        """Share of digits read rightly."""
        self.log("accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain Adam."""
        return torch.optim.Adam(self.parameters(), lr=2e-3)


def curve(start: str, folder: Path, rounds: int, budget: int, epochs: int, query: str) -> list[dict]:
    """One line for each round."""
    datamodule = ActiveLearningDataModule(
        Digits(),
        initial=start,
        budget=budget,
        oracle=DatasetOracle(),
        features="pixels",
        # With a journal the run can be stopped at any time, and goes on when it is started again.
        journal=folder / start / "journal.jsonl",
    )

    def trainer() -> pl.Trainer:
        return pl.Trainer(
            max_epochs=epochs,
            check_val_every_n_epoch=epochs,
            accelerator="cpu",
            default_root_dir=folder / start,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    loop = ActiveLearningLoop(
        trainer, SmallNetwork, datamodule, query=query, rounds=rounds, budget=budget, monitor="accuracy"
    )
    return loop.run()


def main() -> None:
    """All starts, side by side."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--budget", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--query", default="badge")
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)

    folder = given.folder or Path(tempfile.mkdtemp())
    curves = {start: curve(start, folder, given.rounds, given.budget, given.epochs, given.query) for start in STARTS}
    print(f"Accuracy % on {TEST_ITEMS} held-out digits; query {given.query!r}")
    print(f"{'labels':>8}" + "".join(f"{start:>12}" for start in STARTS))
    for round in range(given.rounds):
        lines = [curves[start][round] for start in STARTS]
        print(f"{lines[0]['images']:8}" + "".join(f"{100 * line['metric']:12.1f}" for line in lines))
    journal = folder / STARTS[-1] / "journal.jsonl"
    print(f"\nThe journal of {STARTS[-1]!r} ({journal}):")
    for line in journal.read_text().splitlines():
        print(line if len(line) < 100 else f"{line[:97]}...")


if __name__ == "__main__":
    main()
