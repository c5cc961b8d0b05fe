"""What a method picks from: the pool itself, or the pool and items that the method adds to it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Expansion:
    """The ``N`` items of a pool, and after them those that a method adds.

    Budgets, seats, ``initial`` and ``forbidden`` stay those of the pool; forbidding an item forbids what was made of
    it.

    Attributes:
        size: Items to pick from, at least ``N``.
        labels: Class of each ``[size]``, or None.
        features: Embeddings ``[size, d]``, or None.
        embed: Gives the embeddings of positions, where there are no features.
        parents: The item of the pool that each item was made of ``[size]``, its own position for those of the pool;
            None: nothing was added.
        absent: Items that no bin and no statistic knows of ``[size]``, bool; None: all are there.
        resolved: What was derived for the whole pool, JSON types.
    """

    size: int
    labels: Tensor | None
    features: Tensor | None = None
    embed: Callable[[Tensor], Tensor] | None = None
    parents: Tensor | None = None
    absent: Tensor | None = None
    resolved: dict[str, Any] = field(default_factory=dict)

    def with_children(self, positions: Tensor) -> Tensor:
        """Positions of the pool with those of all items made of them."""
        return positions if self.parents is None else torch.nonzero(torch.isin(self.parents, positions)).flatten()

    def present_of(self, positions: Tensor) -> Tensor:
        """The positions that are there."""
        return positions if self.absent is None else positions[~self.absent[positions]]

    def details(self, indices: Tensor) -> dict[str, list[Any]]:
        """What to say of the picks."""
        return {} if self.parents is None else {"parent": self.parents[indices].tolist()}


def remembering(wide: Expansion, budget_unit: str) -> Expansion:
    """An expansion that embeds no item twice, where a budget in units may take several runs."""
    if wide.embed is None or budget_unit == "images":
        return wide
    return replace(wide, embed=_Remembered(wide.embed, wide.size))


class _Remembered:
    """Embeds what it is asked for first, and finds the rest in what it has."""

    def __init__(self, embed: Callable[[Tensor], Tensor], size: int) -> None:
        self._embed = embed
        self._place = torch.full((size,), -1, dtype=torch.int64)
        self._rows: list[Tensor] = []
        self._count = 0

    def __call__(self, positions: Tensor) -> Tensor:
        fresh = positions[self._place[positions] < 0]
        if len(fresh):
            self._rows = [torch.cat([*self._rows, self._embed(fresh)])]
            self._place[fresh] = torch.arange(self._count, self._count + len(fresh))
            self._count += len(fresh)
        return self._rows[0][self._place[positions]]
