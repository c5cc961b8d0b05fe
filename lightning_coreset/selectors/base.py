"""The base of all selectors: groups, seats, ranks and the manifest; a method only picks inside one group."""

import inspect
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from lightning_coreset.budget import class_seats
from lightning_coreset.coreset import Coreset
from lightning_coreset.detection import Objects
from lightning_coreset.detection.report import object_report
from lightning_coreset.distributed import gather_json
from lightning_coreset.errors import CoresetError
from lightning_coreset.ops.rows import as_positions, candidate_mask
from lightning_coreset.ops.spending import Overshoot
from lightning_coreset.pool import Pool
from lightning_coreset.registry import register
from lightning_coreset.selectors.context import SelectionContext
from lightning_coreset.selectors.cost import Shown, Work
from lightning_coreset.selectors.duplicates import copies_of, told_of_copies
from lightning_coreset.selectors.expansion import Expansion, remembering
from lightning_coreset.selectors.group import Group, Picks
from lightning_coreset.selectors.manifest import build_manifest
from lightning_coreset.selectors.running import Request, by_id, run
from lightning_coreset.selectors.spending import run_in_units
from lightning_coreset.selectors.units import PLAIN_ESTIMATE, Charges, make_charges, make_purse, resolve_units
from lightning_coreset.signals import Signals


class Selector(ABC):
    """Chooses the items of a pool that are worth keeping.

    A method is one subclass that stores its hyperparameters under their own names and picks inside one group (a class,
    or the whole pool). Seats, ``initial`` and ``forbidden``, ranks, weights and the manifest are done here::

        class Shortest(Selector, name="shortest"):
            '''Items with the shortest embeddings.'''

            def select_group(self, group: Group) -> Picks:
                length = group.rows.norm(dim=1).masked_fill(~group.candidates, float("inf"))
                return Picks(length.argsort(stable=True)[: group.count])

    Args:
        per_class: Share the budget over the classes and select in each; None takes the method's default. Without
            labels the whole pool is one group.

    Attributes:
        needs: What the pool must bring: "features", "labels", "objects", "signals", "images".
        ranks: Whether every prefix of the picks is a greedy prefix.
        weighted: Whether picks are weighted: by how many items they represent, or as the method's own answer says.
        per_class_default: What ``per_class=None`` means.
        shows_classes: Whether classes are what images show, several each, so that they never part a pool.

    Example:
        >>> from lightning_coreset import Pool
        >>> from lightning_coreset.selectors.group import Picks
        >>> class Shortest(Selector, name="shortest_in_this_example"):
        ...     def select_group(self, group):
        ...         length = group.rows.norm(dim=1).masked_fill(~group.candidates, float("inf"))
        ...         return Picks(length.argsort(stable=True)[: group.count])
        >>> Shortest().select(Pool(torch.tensor([[3.0], [1.0], [2.0]])), 2).indices.tolist()
        [1, 2]
    """

    name: ClassVar[str] = ""
    needs: frozenset[str] = frozenset({"features"})
    ranks: bool = True
    weighted: ClassVar[bool] = False
    per_class_default: ClassVar[bool] = False
    shows_classes: ClassVar[bool] = False

    def __init__(self, *, per_class: bool | None = None) -> None:
        self.per_class = per_class

    def __init_subclass__(cls, name: str | None = None, **kwargs: Any) -> None:
        """Register the class under the name of its method."""
        super().__init_subclass__(**kwargs)
        if name is not None:
            cls.name = name
            register(name, cls)

    @abstractmethod
    def select_group(self, group: Group) -> Picks:
        """Pick ``group.count`` rows of one group, none of them ``initial`` or ``forbidden``."""

    def select_groups(self, groups: list[Group]) -> list[Picks]:
        """Pick in several groups; a method may do so in all of them at once."""
        return [self.select_group(group) for group in groups]

    def batch_bytes(self, size: int, memory_limit: int) -> int | None:
        """Memory of a group of ``size`` items among several that are selected from at once; None: not at once."""
        return None

    def check(self) -> None:  # noqa: B027 (a method without such arguments has nothing to add)
        """Refuse hyperparameters that make no sense, before any work starts."""

    def wants_features(self, signals: Signals | None) -> bool:
        """Whether embeddings are looked at; False where ``needs`` lists them and the signals hold what they are for."""
        return "features" in self.needs

    def work(self, size: int, width: int, count: int, memory_limit: int) -> Work:
        """What one group of ``size`` items of ``width`` numbers takes; here one look at each, and a copy of them."""
        rows = 4 * size * width if self.needs & {"features", "signals"} else 0
        return Work(20.0 * size * width, rows + 64 * size)

    def work_shown(self, size: int, width: int, count: int, memory_limit: int, shown: Shown) -> Work:
        """`work` of methods that also go by what images show; ``width`` is then that of the objects' embeddings."""
        return self.work(size, width, count, memory_limit)

    def widened(self, size: int) -> int:
        """How many items there are to pick from in a pool of ``size``; see `expand`."""
        return size

    def shard_rows(self, size: int) -> int | None:
        """What the parts of one group that ranks hold are multiples of; None: every rank holds all embeddings."""
        return None

    def check_pool(self, pool: Pool, context: SelectionContext, signals: Signals | None = None) -> None:
        """Refuse a pool without what the method needs.

        Raises:
            ValueError: No features, and nothing that gives them.
        """
        if self.wants_features(signals) and pool.features is None and context.embed is None:
            msg = f"{self.name!r} needs features and the pool has none: give Pool(features=...)."
            raise ValueError(msg)

    def give_seats(self, class_sizes: Tensor, free: Tensor, total: int) -> Tensor:
        """Class of each seat in the order given out ``[total]``; see `lightning_coreset.budget.class_seats`."""
        return class_seats(class_sizes, free, total)

    def report(self, resolved: dict[str, Any], group_sizes: list[int]) -> None:  # noqa: B027 (as above)
        """Say what a user should know of a finished selection; called on the first rank only."""

    def expand(self, pool: Pool, context: SelectionContext, seed: int) -> Expansion:
        """What to pick from, where that is more than the pool; its first ``N`` items are the pool's."""
        return Expansion(pool.size, pool.labels, pool.features, context.embed)

    def embedder(self, features: Any) -> Any:
        """What embeds when a user writes ``features=``; a method may read ``"auto"`` in its own way."""
        return features

    def prepare_view(self, dataset: "Dataset[Any]", coreset: Coreset, context: SelectionContext) -> None:  # noqa: B027
        """Do what `train_view` would have to do slowly; called on all ranks, and not every time."""

    def train_view(self, dataset: "Dataset[Any]", coreset: Coreset) -> "Dataset[Any]":
        """The dataset to train on: the picks in ascending order of their position.

        Raises:
            CoresetError: An item that the dataset does not have.
        """
        size = len(dataset)  # type: ignore[arg-type]
        beyond = coreset.indices[coreset.indices >= size]
        if len(beyond):
            msg = (
                f"The coreset holds item {int(beyond[0])} and the train dataset has {size}: it was selected by "
                f"{coreset.manifest.get('method')!r} from a larger one, train with that method and its settings."
            )
            raise CoresetError(msg)
        return Subset(dataset, sorted(coreset.indices.tolist()))

    def relocated(self, coreset: Coreset, positions: Tensor, size: int) -> Coreset:
        """A coreset of some items of a dataset as one of the whole: ``positions [n]`` ascending, of ``size`` items."""
        return replace(coreset, indices=positions[coreset.indices], assignment=None)

    @property
    def arguments(self) -> dict[str, Any]:
        """The constructor's values."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def is_classwise(self, has_labels: bool, has_objects: bool = False) -> bool:
        """Whether classes are selected from one by one.

        Raises:
            ValueError: Labels are needed and not there.
        """
        if not has_labels and (self.per_class or "labels" in self.needs):
            msg = (
                f"{self.name!r} with per_class={self.per_class} needs labels and got none: give labels, or select "
                "without classes."
            )
            raise ValueError(msg)
        return has_labels and (self.per_class_default if self.per_class is None else self.per_class)

    def spends(self, pool: Pool, objects: Objects | None) -> bool:
        """Whether the method spends a budget itself, rather than giving an order that is followed while images fit."""
        return "objects" in self.needs

    def charges(self, objects: Objects | None, size: int, unit: str, context: SelectionContext) -> Charges:
        """What each image costs; true units where they are known."""
        return make_charges(objects, size, unit, None, context.unit_estimate or PLAIN_ESTIMATE)

    def resolve_budget(
        self,
        pool: Pool,
        *,
        ratio: float | None = None,
        budget: int | None = None,
        budget_unit: str = "images",
        initial: Tensor | Sequence[int] | None = None,
        forbidden: Tensor | Sequence[int] | None = None,
        context: SelectionContext | None = None,
    ) -> int:
        """The budget in its unit: a ratio is a share of the pool's images, or of its units.

        Raises:
            ValueError: Both or neither of ratio and budget, one out of its range, or units that nobody knows.
        """
        self.check()
        context = context or SelectionContext()
        taken = [torch.as_tensor(part).flatten() for part in (initial, forbidden) if part is not None]
        available = pool.size - (len(torch.unique(torch.cat(taken))) if taken else 0)
        objects = None if budget_unit == "images" else self._objects(pool, context)
        charges = self.charges(objects, pool.size, budget_unit, context)
        return resolve_units(charges, ratio=ratio, budget=budget, available=available)

    def select(
        self,
        pool: Pool,
        budget: int,
        *,
        seed: int = 0,
        initial: Tensor | Sequence[int] | None = None,
        forbidden: Tensor | Sequence[int] | None = None,
        context: SelectionContext | None = None,
        budget_unit: str = "images",
        overshoot: Overshoot | None = None,
    ) -> Coreset:
        """Choose ``budget`` items of a pool, or images with ``budget`` units.

        A method that does not spend units itself gives its order of images, from which those are taken that fit; its
        seats are those of ``budget`` / mean units images. Weights and assignments of a weighted method are then those
        of a selection among the images taken.

        Args:
            pool: The items.
            budget: How many to choose, from 1 to what is neither initial nor forbidden.
            seed: Of every random choice.
            initial: Positions that count as chosen; not returned, at no cost to the budget.
            forbidden: Positions that may not be chosen; they stay in every statistic.
            context: Ranks, device, memory, progress; None is one rank.
            budget_unit: What the budget counts: ``"images"``, or the ``"boxes"`` or ``"masks"`` of a pool with objects.
            overshoot: In units: ``"never"`` passes over an image that does not fit, ``"last"`` takes the first one that
                does not, and ends. None takes the method's argument of that name, else "never".

        Raises:
            ValueError: A budget out of range, overlapping or unknown positions, missing labels, features or objects,
                units that nobody knows, a seed that is no whole number.
            CoresetError: Another rank failed, or the method's picks are not those of one selection.
        """
        started = time.perf_counter()
        context = context or SelectionContext()
        seed = _check_seed(seed)
        self.check()
        classwise = self.is_classwise(pool.labels is not None, (pool.objects or context.objects) is not None)
        signals = self._signals(pool, context)
        objects = pool.objects
        if budget_unit != "images" or self.wants_objects(pool):
            objects = self._objects(pool, context)
        self.check_pool(pool, context, signals)
        self.check_objects(objects)
        chosen = as_positions(_tensor(initial), pool.size, "initial", torch.device("cpu"))
        banned = as_positions(_tensor(forbidden), pool.size, "forbidden", torch.device("cpu"))
        copies = copies_of(context.duplicates, chosen, banned, by_id(pool))
        banned = torch.cat([banned, copies])
        charges = self.charges(objects, pool.size, budget_unit, context)
        available = pool.size - len(torch.unique(torch.cat([chosen, banned])))
        total = resolve_units(charges, ratio=None, budget=budget, available=available)
        candidates = candidate_mask(pool.size, chosen, banned, total if budget_unit == "images" else 1)
        above: Overshoot = overshoot if overshoot is not None else getattr(self, "overshoot", "never")
        purse = make_purse(charges, total, above, candidates)

        wide = remembering(self.expand(pool, context, seed), budget_unit)
        request = Request(
            pool, wide, context, signals, objects, charges, chosen, wide.with_children(banned), classwise, seed
        )
        if self.spends(pool, objects):
            answer = run(self, request, available, purse)
        elif budget_unit == "images":
            answer = run(self, request, total)
        else:
            answer = run_in_units(self, request, candidates, purse)
        merged = answer.merged
        if not len(merged.indices):
            msg = f"{self.name!r} chose nothing: no image that it can use costs at most {total} {budget_unit}."
            raise CoresetError(msg)
        if context.reducer.rank == 0:
            self.report(answer.resolved, answer.sizes)
        seconds = max(gather_json(context.reducer, time.perf_counter() - started))
        manifest = build_manifest(
            self, pool, total, seed=seed, per_class=classwise, resolved=answer.resolved, seconds=seconds
        )
        manifest["weight_scale"] = pool.size / len(merged.indices)
        details = merged.details | wide.details(merged.indices)
        if objects is not None:
            parents = merged.indices if wide.parents is None else wide.parents[merged.indices]
            manifest["budget_unit"] = budget_unit
            manifest["units"] = charges.told(parents, total, above) | answer.told
            if "reserve" in answer.told:
                manifest["reserve"] = manifest["units"].pop("reserve")
            manifest["objects"] = object_report(objects, parents)
            details |= charges.details(parents)
        if context.duplicates is not None:
            manifest["duplicates"] = told_of_copies(context.duplicates, copies)
        return Coreset(
            indices=merged.indices,
            weights=merged.weights,
            gains=merged.gains,
            labels=None if wide.labels is None else wide.labels[merged.indices],
            assignment=merged.assignment,
            details=details,
            manifest=manifest,
        )

    def wants_objects(self, pool: Pool) -> bool:
        """Whether the method looks at what the images show."""
        return "objects" in self.needs

    def check_objects(self, objects: Objects | None) -> None:  # noqa: B027 (a method that looks at none has nothing to say)
        """Refuse objects that the method cannot choose by, before any work starts."""

    def _signals(self, pool: Pool, context: SelectionContext) -> Signals | None:
        if "signals" not in self.needs:
            return None
        found: Signals | None = pool.signals
        if found is None and context.signals is not None:
            found = context.signals()
        if found is None:
            msg = (
                f"{self.name!r} needs training signals and got none: give Pool(signals=Signals.from_logits(...)), or "
                "signals= to CoresetDataModule."
            )
            raise ValueError(msg)
        return found

    def _objects(self, pool: Pool, context: SelectionContext) -> Objects | None:
        found: Objects | None = pool.objects
        if found is None and context.objects is not None:
            found = context.objects()
        if found is None and "objects" in self.needs:
            msg = (
                f"{self.name!r} needs objects and got none: give Pool(objects=Objects.from_targets(...)), or proposer= "
                "to CoresetDataModule."
            )
            raise ValueError(msg)
        if found is not None and found.num_images != pool.size:
            msg = (
                f"objects are those of {found.num_images} images and the pool has {pool.size}: give those of this pool."
            )
            raise ValueError(msg)
        return found


def _check_seed(seed: int) -> int:
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        msg = f"seed={seed!r} is not accepted: give a whole number."
        raise ValueError(msg)
    return int(seed)


def _tensor(positions: Tensor | Sequence[int] | None) -> Tensor | None:
    return None if positions is None else torch.as_tensor(positions)
