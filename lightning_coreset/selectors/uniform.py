"""Uniform selection: the same number of random items from each class."""

from typing import Literal

import torch
from torch import Tensor

from lightning_coreset.detection import Objects
from lightning_coreset.pool import Pool
from lightning_coreset.selectors.base import Selector
from lightning_coreset.selectors.class_turns import turns_of
from lightning_coreset.selectors.facility_location import check_words
from lightning_coreset.selectors.group import Group, Picks
from lightning_coreset.selectors.redrawing import number_within, redrawn


class Uniform(Selector, name="uniform"):
    """The same count from each class, drawn at random within it.

    The remainder goes to the lowest class ids, and what a short class cannot give goes to the others. For images with
    objects (a pool without labels, or one of the last three arguments) classes take turns and each draws an image that
    shows it and is not yet chosen; images without objects are never drawn. O(N C) time and memory for ``C`` classes.

    Args:
        per_class: Must stay at its default; without classes there is nothing to be uniform over.
        quota: Images of each class: ``"equal"``, or ``"ratio"`` for shares of the images that show it (largest
            remainder).
        most_objects: The image with the most objects first, in place of a draw.
        objects: Draw anew, up to 1,000 times, until the images show so many objects, from the first number to the
            second.

    Raises:
        ValueError: On selecting without labels or objects, with ``per_class=False``, or an argument out of its range.
        CoresetError: No draw has that number of objects.

    Example:
        >>> from lightning_coreset import select
        >>> labels = torch.tensor([0, 0, 0, 0, 1, 1, 2])
        >>> select(torch.rand(7, 2), labels, method="uniform", budget=5).class_counts.tolist()
        [2, 2, 1]
    """

    needs = frozenset({"labels"})
    per_class_default = True

    def __init__(
        self,
        *,
        per_class: bool | None = None,
        quota: Literal["equal", "ratio"] = "equal",
        most_objects: bool = False,
        objects: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(per_class=per_class)
        self.quota = quota
        self.most_objects = most_objects
        self.objects = objects
        self._by_objects = quota != "equal" or most_objects or objects is not None
        if self._by_objects:
            self.needs = frozenset({"objects"})
        self.ranks = quota == "equal" and objects is None

    def check(self) -> None:
        """Refuse ``per_class=False``, and arguments out of their range."""
        if self.per_class is False:
            msg = (
                "per_class=False is not accepted by 'uniform', which shares over classes: leave it out, or take "
                "'random'."
            )
            raise ValueError(msg)
        check_words(quota=(self.quota, ("equal", "ratio")))
        if self.objects is not None and not (len(self.objects) == 2 and 0 <= self.objects[0] <= self.objects[1]):
            msg = f"objects={self.objects!r} is not accepted: give the least and the largest number of objects."
            raise ValueError(msg)
        if self.most_objects and self.objects is not None:
            msg = "most_objects=True beside objects= is not accepted: nothing is drawn then; leave one out."
            raise ValueError(msg)

    def is_classwise(self, has_labels: bool, has_objects: bool = False) -> bool:
        """Whether items have classes; images with objects show several each."""
        if self._by_objects or (has_objects and not has_labels):
            return False
        return super().is_classwise(has_labels, has_objects)

    def wants_objects(self, pool: Pool) -> bool:
        """Where the items have no classes of their own."""
        return self._by_objects or pool.labels is None

    def spends(self, pool: Pool, objects: Objects | None) -> bool:
        """Where classes are those of objects."""
        return objects is not None and self.wants_objects(pool)

    def give_seats(self, class_sizes: Tensor, free: Tensor, total: int) -> Tensor:
        """Classes in turn by id, those with nothing left skipped."""
        turns = torch.repeat_interleave(free)
        starts = torch.repeat_interleave(torch.cumsum(free, 0) - free, free)
        rounds = torch.arange(len(turns)) - starts
        return turns[torch.argsort(rounds, stable=True)][:total]

    def select_group(self, group: Group) -> Picks:
        """The first candidates of a seeded permutation; of images with objects, classes in turn."""
        if group.purse is None:
            order = torch.randperm(group.size, generator=group.generator())
            return Picks(order[group.candidates.cpu()[order]][: group.count])
        order_of = turns_of(self.quota, self.most_objects)
        if self.objects is not None:
            low, high = self.objects
            return redrawn(group, order_of, number_within((low, high)), f"shows {low} to {high} objects")
        return Picks(torch.tensor(group.purse.walk(order_of(group, group.generator())), dtype=torch.int64))
