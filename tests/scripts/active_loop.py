"""Loops of four rounds, one for each query, each in a folder of its own: python active_loop.py ROOT DEVICES QUERY..."""

import sys
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from torch import nn

from lightning_coreset import ActiveLearningRounds, ActiveLearningWarmStart
from lightning_coreset.active import ActiveLearningDataModule, ActiveLearningLoop, DatasetOracle
from tests.helpers.lightning_parts import DigitsSource, LinearNet, leave_ranks, quiet_trainer


class Certain(LinearNet):
    """Without dropout, whose masks would be others on each rank."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))


def one_fit(root: Path, settings: dict[str, Any]) -> None:
    """Warm start and rounds by callbacks."""
    datamodule = ActiveLearningDataModule(
        DigitsSource(count=120, batch_size=64, shuffle=False),
        oracle=DatasetOracle(),
        features="pixels",
        journal=root / "journal.jsonl",
    )
    callbacks = [ActiveLearningWarmStart("typiclust", 12), ActiveLearningRounds("entropy", 6)]
    pl.seed_everything(0)
    quiet_trainer(root, max_epochs=4, callbacks=callbacks, **settings).fit(Certain(), datamodule=datamodule)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    root, devices = Path(sys.argv[1]), int(sys.argv[2])
    settings = {} if devices == 1 else {"devices": devices, "strategy": "ddp"}
    for query in sys.argv[3:]:
        if query == "callbacks":
            one_fit(root / query, settings)
            continue
        # One step an epoch over all labels, so that the gradient of two ranks is that of one up to rounding.
        datamodule = ActiveLearningDataModule(
            DigitsSource(count=120, batch_size=64, shuffle=False),
            initial="typiclust",
            budget=12,
            oracle=DatasetOracle(),
            features="pixels",
            journal=root / query / "journal.jsonl",
        )

        def trainer(query: str = query) -> object:
            return quiet_trainer(root / query, max_epochs=3, **settings)

        ActiveLearningLoop(trainer, Certain, datamodule, query=query, rounds=4, budget=6).run()
    leave_ranks()
