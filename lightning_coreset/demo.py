"""The main job in twenty seconds: training on a tenth of real handwritten digits."""

import importlib
import logging
import statistics
import time
import warnings
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_coreset.budget import resolve_total
from lightning_coreset.datamodule import CoresetDataModule
from lightning_coreset.errors import CoresetError

_TEST_ITEMS = 450
_METHODS = ("subzerocore", "random", "everything")


def demo(*, ratio: float = 0.1, steps: int = 400, seeds: int = 3) -> list[dict[str, Any]]:
    """Train on what SubZeroCore chose, on random items and on everything, for the same number of steps.

    The real 8 x 8 digits of scikit-learn, a network of two convolutions; a table on standard output.

    Args:
        ratio: Share of the digits to train on.
        steps: Optimizer steps of each training.
        seeds: Trainings of each method, of which the means are told.

    Returns:
        ``method``, ``items``, ``accuracy`` in percent on 450 digits that no method sees, seconds of ``selecting`` and
        ``training``.

    Raises:
        CoresetError: scikit-learn is not installed.
        ValueError: A ratio or a number out of its range.
    """
    train, test = _digits()
    resolve_total(len(train), ratio=ratio)
    if min(steps, seeds) < 1:
        msg = f"steps={steps} and seeds={seeds} are not accepted: give whole numbers of at least 1."
        raise ValueError(msg)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    print(f"{steps} optimizer steps on {ratio:.0%} of {len(train)} handwritten digits and on all, {seeds} seeds")
    print(f"{'method':12} {'items':>6} {'accuracy %':>11} {'selecting s':>12} {'training s':>11}", flush=True)
    lines = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        for method in _METHODS:
            runs = [_trained(method, train, test, ratio, steps, seed) for seed in range(seeds)]
            means = {name: statistics.mean(run[name] for run in runs) for name in ("accuracy", "selecting", "training")}
            line = {"method": method, "items": runs[0]["items"]} | means
            print(
                f"{method:12} {line['items']:6} {line['accuracy']:11.2f} {line['selecting']:12.3f} "
                f"{line['training']:11.2f}",
                flush=True,
            )
            lines.append(line)
    return lines


def _digits() -> tuple[TensorDataset, TensorDataset]:
    try:
        # By name, because the package itself asks for it nowhere else.
        images, labels = importlib.import_module("sklearn.datasets").load_digits(return_X_y=True)
    except ImportError as error:
        msg = (
            "The demo takes the handwritten digits of scikit-learn, which is not installed: "
            "`pip install lightning-coreset[test]`, or scikit-learn alone."
        )
        raise CoresetError(msg) from error
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    data = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8)[order] / 16
    targets = torch.tensor(labels)[order]
    held, rest = slice(_TEST_ITEMS), slice(_TEST_ITEMS, None)
    return TensorDataset(data[rest], targets[rest]), TensorDataset(data[held], targets[held])


def _trained(
    method: str, train: TensorDataset, test: TensorDataset, ratio: float, steps: int, seed: int
) -> dict[str, float]:
    pl.seed_everything(seed, verbose=False)
    loader: DataLoader[Any] = DataLoader(train, batch_size=32, shuffle=True)
    network = _Network()
    trainer = pl.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    started = time.perf_counter()
    items, selecting = len(train), 0.0
    if method == "everything":
        trainer.fit(network, loader)
    else:
        # The one line that changes.
        chosen = CoresetDataModule(loader, method=method, ratio=ratio, features="pixels", cache_dir=None, seed=seed)
        trainer.fit(network, datamodule=chosen)
        assert chosen.coreset is not None
        items, selecting = len(chosen.coreset), chosen.coreset.manifest["seconds"]
    seconds = time.perf_counter() - started
    images, targets = test.tensors
    with torch.inference_mode():
        right = network.eval()(images).argmax(dim=1) == targets
    return {
        "items": items,
        "accuracy": 100 * float(right.float().mean()),
        "selecting": selecting,
        "training": seconds - selecting,
    }


class _Network(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 4 * 4, 10)),
        )

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.layers(images)
        return found

    def training_step(self, batch: list[Tensor]) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=2e-3)
