"""Random selection, the baseline every method must beat."""

import torch

from lightning_coreset.selectors.base import Selector
from lightning_coreset.selectors.group import Group, Picks
from lightning_coreset.selectors.redrawing import redrawn, shows_all_classes


class Random(Selector, name="random"):
    """Items drawn without replacement; a smaller budget with the same seed is a prefix of a larger one.

    O(N) time and memory.

    Args:
        per_class: Draw by class seats instead of from the whole pool (default: the whole pool).
        all_classes: Draw anew, up to 1,000 times, until the images show every class of the pool's objects; such draws
            are no prefixes of each other.

    Raises:
        ValueError: On selecting with ``all_classes`` beside ``per_class``, or without objects.
        CoresetError: No draw shows every class.

    Example:
        >>> from lightning_coreset import select
        >>> len(select(torch.rand(50, 2), method="random", ratio=0.1))
        5
    """

    needs = frozenset()

    def __init__(self, *, per_class: bool | None = None, all_classes: bool = False) -> None:
        super().__init__(per_class=per_class)
        self.all_classes = all_classes
        if all_classes:
            self.needs = frozenset({"objects"})
            self.ranks = False

    def check(self) -> None:
        """Refuse all classes of objects beside classes of items."""
        if self.all_classes and self.per_class:
            msg = "all_classes=True beside per_class=True is not accepted: images show several classes; leave one out."
            raise ValueError(msg)

    def select_group(self, group: Group) -> Picks:
        """The first candidates of a seeded permutation."""
        if self.all_classes:
            return redrawn(group, _permuted, shows_all_classes, "shows every class")
        return Picks(torch.tensor(_permuted(group, group.generator())[: group.count], dtype=torch.int64))


def _permuted(group: Group, generator: torch.Generator) -> list[int]:
    order = torch.randperm(group.size, generator=generator)
    found: list[int] = order[group.candidates.cpu()[order]].tolist()
    return found
