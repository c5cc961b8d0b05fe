"""What the tests of active learning share: small pools of real digits, and modules whose answers are known."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_coreset.active import ActiveLearningDataModule, ActiveLearningLoop, DatasetOracle
from tests.helpers.lightning_parts import DigitsSource, LinearNet, quiet_trainer


def pooled(journal: Path | None = None, count: int = 120, **settings: Any) -> ActiveLearningDataModule:
    """A pool of digits that starts with 12 items, far from each other in pixels."""
    defaults = {"initial": "k_center", "budget": 12, "oracle": DatasetOracle(), "features": "pixels"}
    source = settings.pop("source", None) or DigitsSource(count=count)
    return ActiveLearningDataModule(source, journal=journal, **(defaults | settings))


def opened(journal: Path | None = None, **settings: Any) -> ActiveLearningDataModule:
    """The same without a trainer, and without a warm start."""
    datamodule = pooled(journal, **({"initial": None} | settings))
    datamodule.setup("fit")
    return datamodule


class NoisyNet(LinearNet):
    """A module whose weights, dropout and logged figures hang on every random draw."""

    def __init__(self) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["seed"])
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 10))

    def training_step(self, batch: Any) -> Tensor:
        loss = super().training_step(batch)
        self.log("loss", loss, on_epoch=True, on_step=False)
        return loss


def looped(root: Path, datamodule: ActiveLearningDataModule, epochs: int = 2, **settings: Any) -> ActiveLearningLoop:
    """A loop of three rounds that asks for six items each."""
    trainer = settings.pop("trainer", {})
    defaults = {"query": "entropy", "rounds": 3, "budget": 6, "module_factory": NoisyNet}
    factory = settings.pop("trainer_factory", lambda: quiet_trainer(root, max_epochs=epochs, **trainer))
    return ActiveLearningLoop(factory, datamodule=datamodule, **(defaults | settings))


def shown(datamodule: ActiveLearningDataModule) -> list[int]:
    """Positions of the items that the train loader goes over."""
    return sorted(datamodule.train_dataloader().dataset.indices)


def random_states() -> tuple[Any, ...]:
    import random

    import numpy as np

    return torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()
