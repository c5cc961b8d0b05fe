"""CSOD: classes take turns, each picks the image that is typical of its objects and unlike those it has."""

import warnings
from typing import Any, Literal

import torch

from lightning_coreset.detection import Objects
from lightning_coreset.ops.class_rotation import class_rotation
from lightning_coreset.ops.random import seeded_generator
from lightning_coreset.ops.rows import normalize_rows
from lightning_coreset.selectors.checks import check_least, check_whole
from lightning_coreset.selectors.cost import Shown, Work
from lightning_coreset.selectors.detection import DetectionSelector, candidates_of
from lightning_coreset.selectors.facility_location import check_words
from lightning_coreset.selectors.group import Group, Picks
from lightning_coreset.selectors.object_rows import (
    ObjectRows,
    capped,
    check_object_features,
    kept,
    means_of,
    rows_of,
    usable,
)


class CSOD(DetectionSelector, name="csod"):
    """Coreset selection for object detection: a graph cut in each class, classes in turn, images shared by all.

    What an image shows of a class is the mean of its objects' embeddings. The class at turn takes the image with the
    highest ``lam_c * sum_{j unchosen} cos(p_i, p_j) - sum_{a chosen} cos(p_i, p_a)``; the image then counts as chosen
    in every class that it shows. ``lam_c = balance * q / n_c`` for ``q`` = budget / classes and ``n_c`` images of the
    class. Crowds and boxes without area are no objects to learn from; images without objects are never chosen.
    Two running sums in place of a pairwise matrix: O(n_c d) time a pick for each class it shows, O(M d) memory for
    ``M`` objects. Paper: Lee et al. 2024.

    Args:
        per_class: Must stay at its default: an image shows several classes.
        balance: Typical (high) against diverse (low); 3.2 is read off the paper's table.
        lam: One weight for all classes, as the paper prints it; None follows ``balance``.
        class_order: ``"rare"`` gives turns to the class with the fewest images first, ``"id"`` by number (the paper's).
        share: False counts a chosen image only in the class that chose it (the paper's algorithm); choosing it again
            uses up a turn.
        objectwise: Compare single objects in place of an image's mean.
        normalize_objects: Normalise each object before the mean.
        sample_per_class: Look at so many images of each class only, drawn by the seed.
        fill: ``"random"`` goes on with random images when no class has any left; ``"none"`` stops with a warning.
        overshoot: In boxes or masks: ``"never"``, or ``"last"`` for one image above the budget.

    Raises:
        ValueError: Objects without features, no usable object at all, or an argument out of its range.

    Example:
        >>> from lightning_coreset import Pool, select
        >>> from lightning_coreset.detection import Objects
        >>> objects = Objects([0, 1, 2], [[0, 0, 4, 4]] * 3, [0, 0, 1], num_images=4, features=torch.eye(3))
        >>> select(Pool(objects=objects), method="csod", budget=2).indices.tolist()
        [2, 0]
    """

    labelled_objects = True

    def __init__(
        self,
        *,
        per_class: bool | None = None,
        balance: float = 3.2,
        lam: float | None = None,
        class_order: Literal["rare", "id"] = "rare",
        share: bool = True,
        objectwise: bool = False,
        normalize_objects: bool = False,
        sample_per_class: int | None = None,
        fill: Literal["none", "random"] = "none",
        overshoot: Literal["never", "last"] = "never",
    ) -> None:
        super().__init__(per_class=per_class, overshoot=overshoot)
        self.balance = balance
        self.lam = lam
        self.class_order = class_order
        self.share = share
        self.objectwise = objectwise
        self.normalize_objects = normalize_objects
        self.sample_per_class = sample_per_class
        self.fill = fill

    def check(self) -> None:
        """Refuse arguments out of their range."""
        super().check()
        check_words(class_order=(self.class_order, ("rare", "id")), fill=(self.fill, ("none", "random")))
        check_least(0, balance=self.balance, **({} if self.lam is None else {"lam": self.lam}))
        if self.sample_per_class is not None:
            check_whole(sample_per_class=self.sample_per_class)

    def check_objects(self, objects: Objects | None) -> None:
        """Refuse objects without features, and a pool without any."""
        super().check_objects(objects)
        assert objects is not None
        check_object_features(self.name, objects)

    def work_shown(self, size: int, width: int, count: int, memory_limit: int, shown: Shown) -> Work:
        """Objects by class, their means, twice while these are made; a product with a vector a pick and class shown."""
        classes = -(-shown.pairs // size)
        rows = shown.objects if self.objectwise else shown.pairs
        matrices = shown.objects * (1 + (self.normalize_objects and not self.objectwise)) + rows * (2 - self.objectwise)
        # Rows in double precision, or multiplied to keys, a block of one class at a time.
        block = 8 * min(2_048, shown.largest) * width
        memory = 4 * width * matrices + 2 * block + 80 * shown.objects + 40 * size
        # Classes that many images show are met as often as they are large.
        product = 20.0 * classes * max(rows // shown.classes, shown.largest // 2) * width
        return Work(8.0 * shown.objects * width + count * product, memory, count * (2 + classes))

    def select_group(self, group: Group) -> Picks:
        """The rotation over the classes, then random images where that is asked for."""
        objects, purse = group.shown, group.wallet
        objects = kept(objects, usable(objects))
        rows = self._rows(objects, group.seed)
        classes = objects.num_classes
        showing = torch.zeros(classes, dtype=torch.int64)
        cells = torch.unique(rows.classes * group.size + rows.images)
        showing.index_add_(0, cells // group.size, torch.ones_like(cells))
        present = torch.nonzero(showing).flatten()
        turns = present[torch.argsort(showing[present], stable=True)] if self.class_order == "rare" else present
        mean = float(purse.charges.mean())
        quota = (purse.total / mean if mean > 0 else float(group.count)) / len(present)
        lam = self.balance * quota / showing.clamp(min=1) if self.lam is None else torch.full((classes,), self.lam)
        found = class_rotation(
            rows.features,
            rows.images,
            rows.classes,
            turns.tolist(),
            lam.double(),
            purse,
            share=self.share,
            initial=group.initial,
            forbidden=group.forbidden,
            advance=group.advance,
        )
        images, at_turn = found.images.tolist(), found.classes.tolist()
        free = candidates_of(group)
        free[found.images] = False
        exhausted = purse.left > 0 and not bool(free[rows.images].any())
        if exhausted and self.fill == "random":
            order = torch.randperm(group.size, generator=seeded_generator(group.seed, "csod fill"))
            filled = purse.walk(order[free[order]].tolist())
            images, at_turn = images + filled, [*at_turn, *[None] * len(filled)]
        gains = torch.cat([found.gains, torch.zeros(len(images) - len(found.gains))])
        return Picks(
            torch.tensor(images, dtype=torch.int64),
            gains,
            details={"class": at_turn},
            resolved={
                "lam": [round(float(value), 9) for value in lam],
                "turns": turns.tolist(),
                "exhausted": exhausted and self.fill == "none",
            },
            told={"classes_without_objects": torch.nonzero(showing == 0).flatten().tolist()},
        )

    def report(self, resolved: dict[str, Any], group_sizes: list[int]) -> None:
        """Warn where all images with objects are chosen and the budget is not spent."""
        if any(resolved["exhausted"]):
            warnings.warn(
                "CSOD has chosen every image with usable objects and the budget is not spent: ask for less, or give "
                "fill='random'.",
                stacklevel=4,
            )

    def _rows(self, objects: Objects, seed: int) -> ObjectRows:
        if self.objectwise:
            rows = rows_of(objects)
            rows = ObjectRows(normalize_rows(rows.features), rows.images, rows.classes)
        else:
            rows = means_of(objects, normalize_objects=self.normalize_objects)
        if self.sample_per_class is None:
            return rows
        drawn_rows = torch.zeros(len(rows.images), dtype=torch.bool)
        for label in rows.classes.unique().tolist():
            places = torch.nonzero(rows.classes == label).flatten()
            images = rows.images[places].unique()
            drawn = torch.randperm(len(images), generator=seeded_generator(seed, "csod sample", label))
            drawn_rows[places] = torch.isin(rows.images[places], images[drawn[: self.sample_per_class]])
        return capped(rows, drawn_rows)
