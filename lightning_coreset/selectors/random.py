"""Random selection, the baseline every method must beat."""

import torch

from lightning_coreset.selectors.base import Selector
from lightning_coreset.selectors.group import Group, Picks


class Random(Selector, name="random"):
    """Items drawn without replacement; a smaller budget with the same seed is a prefix of a larger one.

    O(N) time and memory.

    Args:
        per_class: Draw by class seats instead of from the whole pool (default: the whole pool).

    Example:
        >>> from lightning_coreset import select
        >>> len(select(torch.rand(50, 2), method="random", ratio=0.1))
        5
    """

    needs = frozenset()

    def select_group(self, group: Group) -> Picks:
        """The first candidates of a seeded permutation."""
        order = torch.randperm(group.size, generator=group.generator())
        return Picks(order[group.candidates.cpu()[order]][: group.count])
