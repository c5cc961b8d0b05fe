"""What a loop hangs on its trainers: seeds for each epoch, and a checkpoint to go on from inside a round."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from lightning_coreset.data.views import random_state_kept
from lightning_coreset.ops.random import seeded_generator


class RoundKeeper(Checkpoint):
    """Makes an epoch depend on (seed, round, epoch) alone, and keeps a checkpoint of each that is done.

    A round that was killed and goes on from its last whole epoch then ends as one that was never interrupted.

    Args:
        seed: Of the loop.
        round: The round that is trained.
        path: Gives the file to write to; None keeps nothing.
    """

    def __init__(self, seed: int, round: int, path: Callable[[], Path | None]) -> None:
        self.seed = seed
        self.round = round
        self.path = path
        self.metrics: dict[str, float] = {}

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seed the epoch."""
        seed_everything(self.seed, self.round, trainer.current_epoch)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the epoch."""
        self.metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        path = self.path()
        if path is not None:
            trainer.save_checkpoint(path)

    def state_dict(self) -> dict[str, Any]:
        """Figures of the last epoch: a trainer that goes on at the end of a round has none."""
        return {"metrics": self.metrics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the figures of a checkpoint."""
        self.metrics = dict(state_dict["metrics"])


@contextmanager
def seeded(*parts: int | str) -> Iterator[None]:
    """Inside, the global random states follow from ``parts``; afterwards they are as before."""
    with random_state_kept():
        seed_everything(*parts)
        yield


def seed_everything(*parts: int | str) -> None:
    """Set the random states of Python, numpy and torch."""
    drawn = int(torch.randint(2**31, (1,), generator=seeded_generator(*parts)))
    random.seed(drawn)
    np.random.seed(drawn)
    torch.manual_seed(drawn)
