"""Uniform selection: the same number of random items from each class."""

import torch
from torch import Tensor

from lightning_coreset.selectors.random import Random


class Uniform(Random, name="uniform"):
    """The same count from each class, drawn at random within it.

    The remainder goes to the lowest class ids, and what a short class cannot give goes to the others. O(N) time and
    memory.

    Args:
        per_class: Must stay at its default; without classes there is nothing to be uniform over.

    Raises:
        ValueError: On selecting without labels, or with ``per_class=False``.

    Example:
        >>> from lightning_coreset import select
        >>> labels = torch.tensor([0, 0, 0, 0, 1, 1, 2])
        >>> select(torch.rand(7, 2), labels, method="uniform", budget=5).class_counts.tolist()
        [2, 2, 1]
    """

    needs = frozenset({"labels"})
    per_class_default = True

    def check(self) -> None:
        """Refuse ``per_class=False``."""
        if self.per_class is False:
            msg = (
                "per_class=False is not accepted by 'uniform', which shares over classes: leave it out, or take "
                "'random'."
            )
            raise ValueError(msg)

    def give_seats(self, class_sizes: Tensor, free: Tensor, total: int) -> Tensor:
        """Classes in turn by id, those with nothing left skipped."""
        turns = torch.repeat_interleave(free)
        starts = torch.repeat_interleave(torch.cumsum(free, 0) - free, free)
        rounds = torch.arange(len(turns)) - starts
        return turns[torch.argsort(rounds, stable=True)][:total]
