"""What the ranks of a real process group are asked to do; they import it by name."""

from typing import Any

import torch

from lightning_coreset import DQv2, Pool, SDADataset, SelectionContext
from lightning_coreset.augmentation import SDASettings
from lightning_coreset.augmentation.masks import RandomSaliency
from lightning_coreset.augmentation.settings import choose_items
from lightning_coreset.distributed import current_reducer
from tests.augmentation.images import Pictures


def small_batches() -> None:
    RandomSaliency.batch_size = 4


def pixels(cache: str | None = None) -> list[torch.Tensor]:
    """All SDA images of a small dataset."""
    small_batches()
    expanded = SDADataset.unseen(Pictures(10), settings_of(Pictures(10)))
    expanded.look(reducer=current_reducer(), cache=cache)
    return [expanded[item][0] for item in range(10, len(expanded))]


def settings_of(dataset: Any) -> Any:
    labels = torch.tensor(dataset.targets)
    return SDASettings(len(dataset), choose_items(labels, len(dataset), 0.5, 0, "SDA"), 40, 4, 0)


def selected(extractor: str, epochs: int, cache: str | None) -> dict[str, Any]:
    """A coreset as plain JSON."""
    small_batches()
    pictures = Pictures(10)
    coreset = DQv2(extractor=extractor, proxy_epochs=epochs, bins=3).select(
        Pool(images=pictures, labels=torch.tensor(pictures.targets)),
        4,
        seed=0,
        context=SelectionContext(reducer=current_reducer(), cache=cache),
    )
    return coreset.to_plain()
