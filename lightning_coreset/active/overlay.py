"""The labelled items of a dataset, with the targets that annotators returned."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_coreset.data.views import read_with_target

Overlay = Callable[[Any, Any], Any]


class LabelledItems(Dataset[Any]):
    """Some items of a dataset; returned targets stand in for its own.

    What is labelled later does not enter: a loader that was made keeps its length.

    Args:
        dataset: A map-style dataset.
        positions: The items ``[n]``, ascending.
        targets: Returned targets by position; other items keep the dataset's own.
        overlay: Called as ``overlay(item, target)`` after the dataset's transforms, gives the item to train on; None
            puts the target where the item has its own, before transforms that move image and target together.

    Example:
        >>> items = LabelledItems([(torch.zeros(1), 0), (torch.ones(1), 0)], torch.tensor([1]), {1: 5})
        >>> len(items), items[0]
        (1, (tensor([1.]), 5))
    """

    def __init__(
        self, dataset: Any, positions: Tensor, targets: Mapping[int, Any], overlay: Overlay | None = None
    ) -> None:
        self.dataset = dataset
        self.indices = positions.tolist()
        self.targets_returned = {place: targets[place] for place in self.indices if place in targets}
        self.overlay = overlay

    def __len__(self) -> int:
        """Number of items."""
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        """One item."""
        place = self.indices[index]
        if place not in self.targets_returned:
            return self.dataset[place]
        target = self.targets_returned[place]
        if self.overlay is not None:
            return self.overlay(self.dataset[place], target)
        return read_with_target(self.dataset, place, partial(like_own, target))


def like_own(target: Any, own: Any) -> Any:
    """A returned target in the form of the dataset's own, so that both can lie in one batch.

    Example:
        >>> like_own(3, torch.tensor(0))
        tensor(3)
    """
    if isinstance(own, Tensor) and isinstance(target, bool | int | float):
        return torch.tensor(target, dtype=own.dtype).reshape(own.shape if own.numel() == 1 else ())
    if isinstance(own, int) and isinstance(target, Tensor) and target.numel() == 1:
        return target.item()
    if isinstance(own, Mapping) and isinstance(target, Mapping) and "image_id" in own and "image_id" not in target:
        return {**target, "image_id": own["image_id"]}
    return target
