"""Who answers: the dataset itself, a function, or people behind files."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from lightning_coreset.active.pool import Id, LabelledPool
from lightning_coreset.data.targets import read_labels
from lightning_coreset.data.views import random_state_kept, target_of
from lightning_coreset.errors import CoresetError

UNITS = ("images", "boxes", "masks")


@dataclass(frozen=True)
class Cost:
    """What labels cost: a price for each image that is looked at, and one for each unit that is drawn.

    Args:
        per_image: For each image.
        per_unit: For each unit (an image's class, a box, a mask).

    Example:
        >>> Cost(per_image=0.5, per_unit=2.0).total(images=4, units=10)
        22.0
    """

    per_image: float = 0.0
    per_unit: float = 1.0

    def __post_init__(self) -> None:
        for name, value in (("per_image", self.per_image), ("per_unit", self.per_unit)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
                msg = f"{name}={value!r} is not accepted: give a number of at least 0."
                raise ValueError(msg)

    def total(self, images: int, units: float) -> float:
        """Price of so many images with so many units."""
        return self.per_image * images + self.per_unit * units


@dataclass(frozen=True)
class Request:
    """What is asked of an oracle.

    Attributes:
        ids: The items, the most wanted first.
        positions: Their positions in the dataset.
        round: The round that asks.
        dataset: The train items of the source.
        budget: How many units may be spent; None where all items are wanted.
        unit: What the budget counts.
        names: Names of the classes, where they are known.
        source: The datamodule behind the dataset.
        reserve: Those ids that are wanted only in case that others cost less than was thought; they come last.
    """

    ids: list[Id]
    positions: list[int]
    round: int
    dataset: Any
    budget: float | None = None
    unit: str = "images"
    names: Sequence[str] | None = None
    source: Any = None
    reserve: frozenset[Id] = frozenset()


@dataclass(frozen=True)
class Answer:
    """What an oracle says now.

    Attributes:
        ids: Items that are labelled, in the order of the request.
        targets: Returned targets of some of them; the others have the dataset's own.
        units: What each cost: a number or numbers by class; one unit where it is not said.
        skipped: Items that cannot be labelled.
        closed: Whether what is in neither list is given up, and not awaited.
    """

    ids: list[Id] = field(default_factory=list)
    targets: dict[Id, Any] = field(default_factory=dict)
    units: dict[Id, Any] = field(default_factory=dict)
    skipped: list[Id] = field(default_factory=list)
    closed: bool = False


class Oracle(ABC):
    """Answers requests for labels, at once or later.

    Args:
        cost: What labels cost; None: a unit costs one.

    Example:
        >>> DatasetOracle().waits
        False
    """

    #: Whether answers come later, through files.
    waits: bool = False

    def __init__(self, *, cost: Cost | None = None) -> None:
        self.cost = cost or Cost()

    def bind(self, pool: LabelledPool) -> None:  # noqa: B027 (oracles that answer at once have no use for it)
        """Called with the pool when the datamodule opens it."""

    @abstractmethod
    def answer(self, request: Request) -> Answer:
        """What is known of the asked items now; called on the first rank only."""


class DatasetOracle(Oracle):
    """The dataset's own targets, as if somebody had just drawn them: for simulations.

    Images are charged by what they show. Under a budget in units the request is walked in its order, and an image that
    does not fit any more is passed over.

    Args:
        dataset: Where targets are read from; None takes the train items of the datamodule.
        cost: What labels cost.

    Example:
        >>> request = Request(ids=[1], positions=[1], round=0, dataset=[("image", 0), ("image", 7)])
        >>> DatasetOracle().answer(request).units
        {1: {'7': 1}}
    """

    def __init__(self, dataset: Any = None, *, cost: Cost | None = None) -> None:
        super().__init__(cost=cost)
        self.dataset = dataset

    def answer(self, request: Request) -> Answer:
        """All items that fit the budget."""
        dataset = request.dataset if self.dataset is None else self.dataset
        with random_state_kept():
            labels = read_labels(dataset)
            targets = [
                target_of(dataset[place]) if labels is None else int(labels[place]) for place in request.positions
            ]
        bare = [name for name, target in zip(request.ids, targets, strict=True) if target is None]
        if bare:
            msg = (
                f"The items {bare[:5]} show no target, and DatasetOracle() reads them from the dataset: give "
                "DatasetOracle(dataset) with one that has them, or another oracle."
            )
            raise CoresetError(msg)
        units = {name: count_units(target, request.unit) for name, target in zip(request.ids, targets, strict=True)}
        returned = {} if self.dataset is None else dict(zip(request.ids, targets, strict=True))
        taken = within_budget(request.ids, units, request.budget)
        return Answer(
            taken,
            targets={name: returned[name] for name in taken if name in returned},
            units={name: units[name] for name in taken},
            closed=True,
        )


class CallableOracle(Oracle):
    """A function that labels: a larger model, a service, somebody at a prompt.

    Args:
        function: Called with the list of ids, most wanted first; gives their targets, a list or by id. None as a target
            means that the item cannot be labelled; ids that are left out stay pending.
        cost: What labels cost.

    Example:
        >>> oracle = CallableOracle(lambda ids: {name: name % 2 for name in ids})
        >>> oracle.answer(Request(ids=[4, 7], positions=[4, 7], round=0, dataset=None)).targets
        {4: 0, 7: 1}
    """

    def __init__(self, function: Callable[[list[Id]], Any], *, cost: Cost | None = None) -> None:
        super().__init__(cost=cost)
        if not callable(function):
            msg = f"function is a {type(function).__name__}: give a callable that gets ids and returns their targets."
            raise TypeError(msg)
        self.function = function

    def answer(self, request: Request) -> Answer:
        """What the function returns."""
        found = self.function(list(request.ids))
        if isinstance(found, Mapping):
            asked = set(request.ids)
            foreign = [name for name in found if name not in asked]
            if foreign:
                msg = (
                    f"The oracle's function returned {foreign[:20]}, which were not asked for: return targets of the "
                    "ids it gets."
                )
                raise ValueError(msg)
            targets = {name: found[name] for name in request.ids if name in found}
        else:
            column = list(found)
            if len(column) != len(request.ids):
                msg = (
                    f"The oracle's function returned {len(column)} targets for {len(request.ids)} ids: return one for "
                    "each, in their order, or a dict by id."
                )
                raise ValueError(msg)
            targets = dict(zip(request.ids, column, strict=True))
        skipped = [name for name, target in targets.items() if target is None]
        targets = {name: target for name, target in targets.items() if target is not None}
        units = {name: count_units(target, request.unit) for name, target in targets.items()}
        taken = within_budget(list(targets), units, request.budget)
        return Answer(
            taken,
            targets={name: targets[name] for name in taken},
            units={name: units[name] for name in taken},
            skipped=skipped,
            closed=request.budget is not None,
        )


def within_budget(ids: list[Id], units: Mapping[Id, Any], budget: float | None) -> list[Id]:
    """The ids whose units fit a budget, in their order; one that does not fit is passed over.

    Example:
        >>> within_budget([1, 2, 3], {1: 3, 2: 9, 3: {"cat": 1, "dog": 1}}, 5)
        [1, 3]
    """
    if budget is None:
        return list(ids)
    taken, left = [], budget
    for name in ids:
        price = total_units(units[name])
        if price <= left:
            taken.append(name)
            left -= price
    return taken


def total_units(units: Any) -> float:
    """Units of one item, whether by class or not."""
    return float(sum(units.values())) if isinstance(units, Mapping) else float(units)


def count_units(target: Any, unit: str) -> Any:
    """What a target costs: by class where classes can be told.

    Args:
        target: A class, or the objects of an image: a dict with ``labels`` (and ``boxes`` or ``masks``), or a list of
            COCO annotations.
        unit: ``"images"``, ``"boxes"`` or ``"masks"``; an image is one unit, whatever it shows.

    Example:
        >>> count_units({"labels": [1, 1, 4], "boxes": []}, "boxes"), count_units(4, "images")
        ({'1': 2, '4': 1}, {'4': 1})
    """
    classes = _classes(target)
    if unit == "images":
        return {str(classes[0]): 1} if _is_class(target) else 1
    counts: dict[str, int] = {}
    for label in classes:
        counts[str(label)] = counts.get(str(label), 0) + 1
    return counts


def _is_class(target: Any) -> bool:
    if isinstance(target, Tensor):
        return target.numel() == 1 and not target.is_floating_point()
    return isinstance(target, int | str | np.integer) and not isinstance(target, bool)


def _classes(target: Any) -> list[Any]:
    if _is_class(target):
        return [target if isinstance(target, str) else int(target)]
    if isinstance(target, Mapping):
        labels = target.get("labels", [])
        return labels.tolist() if hasattr(labels, "tolist") else list(labels)
    if isinstance(target, list | tuple):
        return [part.get("category_id", "") for part in target if isinstance(part, Mapping)]
    return []
