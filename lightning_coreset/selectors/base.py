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

from lightning_coreset.budget import class_seats, resolve_total
from lightning_coreset.coreset import Coreset
from lightning_coreset.distributed import deal, gather_json, together
from lightning_coreset.errors import CoresetError
from lightning_coreset.ops.memory import resolve_memory_limit
from lightning_coreset.ops.rows import as_positions, candidate_mask
from lightning_coreset.pool import Pool
from lightning_coreset.registry import register
from lightning_coreset.selectors.batching import batches_of, together_on
from lightning_coreset.selectors.context import SelectionContext
from lightning_coreset.selectors.cost import Work, log_estimate
from lightning_coreset.selectors.expansion import Expansion
from lightning_coreset.selectors.group import Group, Picks
from lightning_coreset.selectors.manifest import build_manifest, merge_resolved
from lightning_coreset.selectors.merge import gather_picks, in_seat_order
from lightning_coreset.selectors.rows import PoolRows
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

    def share(self, class_sizes: Tensor, free: Tensor, total: int) -> Tensor:
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

    def is_classwise(self, has_labels: bool) -> bool:
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

    def select(
        self,
        pool: Pool,
        budget: int,
        *,
        seed: int = 0,
        initial: Tensor | Sequence[int] | None = None,
        forbidden: Tensor | Sequence[int] | None = None,
        context: SelectionContext | None = None,
    ) -> Coreset:
        """Choose ``budget`` items of a pool.

        Args:
            pool: The items.
            budget: How many to choose, from 1 to what is neither initial nor forbidden.
            seed: Of every random choice.
            initial: Positions that count as chosen; not returned, at no cost to the budget.
            forbidden: Positions that may not be chosen; they stay in every statistic.
            context: Ranks, device, memory, progress; None is one rank.

        Raises:
            ValueError: A budget out of range, overlapping or unknown positions, missing labels or features, a seed
                that is no whole number.
            CoresetError: Another rank failed, or the method's picks are not those of one selection.
        """
        started = time.perf_counter()
        context = context or SelectionContext()
        seed = _check_seed(seed)
        self.check()
        classwise = self.is_classwise(pool.labels is not None)
        signals = self._signals(pool, context)
        self.check_pool(pool, context, signals)
        chosen = as_positions(_tensor(initial), pool.size, "initial", torch.device("cpu"))
        banned = as_positions(_tensor(forbidden), pool.size, "forbidden", torch.device("cpu"))
        available = pool.size - len(torch.unique(torch.cat([chosen, banned])))
        total = resolve_total(pool.size, budget=budget, available=available)
        candidates = candidate_mask(pool.size, chosen, banned, total)

        wide = self.expand(pool, context, seed)
        banned = wide.with_children(banned)
        seats = (
            self._seats(pool, candidates, wide, banned, total) if classwise else torch.zeros(total, dtype=torch.int64)
        )
        labels = wide.labels if classwise and wide.labels is not None else torch.zeros(wide.size, dtype=torch.int64)
        members = [wide.present_of(positions) for positions in _members(labels)]
        shares = torch.bincount(seats, minlength=len(members))
        groups = torch.nonzero(shares).flatten()
        reducer = context.reducer
        # A whole pool is selected from on every rank alike, and the first rank's word counts.
        ranks = deal(torch.tensor([len(members[label]) for label in groups]), reducer.world_size if classwise else 1)
        mine = groups[ranks == reducer.rank] if classwise else groups
        limit = self._memory_limit(context)

        picks: dict[int, Picks] = {}
        shard_rows = None if classwise or reducer.world_size == 1 else self.shard_rows(wide.size)
        classes = [members[label] for label in mine] if classwise else None
        source = PoolRows(self.wants_features(signals), wide, context, classes, shard_rows)
        if reducer.rank == 0 and source.width is not None:
            sizes = {"groups": len(groups), "ranks": reducer.world_size if classwise else 1}
            log_estimate(self, wide.size, source.width, total, **sizes, device=source.device, limit=limit)
        with (
            together(reducer, f"selecting with {self.name!r}"),
            context.progress(int(shares[mine].sum()), f"Selecting ({self.name})") as bar,
        ):
            for labels_together in self._batches(mine.tolist(), members, source.device, limit):
                batch = [
                    Group(
                        size=len(members[label]),
                        count=int(shares[label]),
                        features=source.rows(members[label]),
                        signals=None if signals is None else signals.subset(members[label]),
                        pool_signals=signals,
                        positions=members[label],
                        initial=_rows_of(chosen, members[label]).to(source.device),
                        forbidden=_rows_of(banned, members[label]).to(source.device),
                        label=label if classwise else None,
                        num_classes=pool.num_classes,
                        seed=seed,
                        pool_size=wide.size,
                        reducer=reducer if shard_rows else None,
                        memory_limit=limit,
                        advance=_Advance(bar.update),
                    )
                    for label in labels_together
                ]
                for label, group, found in zip(labels_together, batch, self.select_groups(batch), strict=True):
                    _check_picks(self, found, group)
                    assert isinstance(group.advance, _Advance)
                    group.advance(group.count - group.advance.done)
                    picks[label] = found
        everything = gather_picks(reducer, picks if classwise or reducer.rank == 0 else {})
        merged = in_seat_order(everything, seats, members, wide.size, weighted=self.weighted)
        resolved = merge_resolved(
            {label: found.resolved for label, found in everything.items()}, pool.num_classes if classwise else None
        )
        resolved |= wide.resolved
        if reducer.rank == 0:
            self.report(resolved, [len(members[label]) for label in sorted(everything)])
        seconds = max(gather_json(reducer, time.perf_counter() - started))
        return Coreset(
            indices=merged.indices,
            weights=merged.weights,
            gains=merged.gains,
            labels=None if wide.labels is None else wide.labels[merged.indices],
            assignment=merged.assignment,
            details=merged.details | wide.details(merged.indices),
            manifest=build_manifest(
                self, pool, total, seed=seed, per_class=classwise, resolved=resolved, seconds=seconds
            ),
        )

    def _batches(
        self, labels: list[int], members: list[Tensor], device: torch.device, limit: int
    ) -> Sequence[Sequence[int]]:
        if not together_on(device):
            return [[label] for label in labels]
        sizes = [len(members[label]) for label in labels]
        return batches_of(labels, sizes, lambda size: self.batch_bytes(size, limit), limit)

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

    def _seats(self, pool: Pool, candidates: Tensor, wide: Expansion, banned: Tensor, total: int) -> Tensor:
        assert pool.labels is not None
        assert pool.class_counts is not None
        assert wide.labels is not None
        free = torch.bincount(pool.labels[candidates], minlength=len(pool.class_counts))
        if wide.absent is not None:
            gone = wide.absent.index_fill(0, banned, True)
            gone[: pool.size] |= ~candidates
            free = free.minimum(torch.bincount(wide.labels[~gone], minlength=len(free)))
        return self.share(pool.class_counts, free, total)

    def _memory_limit(self, context: SelectionContext) -> int:
        limit = resolve_memory_limit(context.memory_limit, context.device or "cpu")
        # Ranks of one machine share its memory, but not that of their GPUs; all ranks must decide alike.
        smallest = int(torch.cat(context.reducer.gather(torch.tensor([limit]))).min())
        shared = context.memory_limit == "auto" and torch.device(context.device or "cpu").type == "cpu"
        return smallest // context.reducer.world_size if shared else smallest


class _Advance:
    def __init__(self, update: Any) -> None:
        self._update = update
        self.done = 0

    def __call__(self, count: int) -> None:
        self.done += count
        if count:
            self._update(count)


def _members(labels: Tensor) -> list[Tensor]:
    """Positions of each class, ascending."""
    order = torch.argsort(labels, stable=True)
    return list(order.split(torch.bincount(labels).tolist()))


def _rows_of(wanted: Tensor, positions: Tensor) -> Tensor:
    """Rows of a group that hold the wanted pool positions."""
    return torch.nonzero(torch.isin(positions, wanted)).flatten()


def _check_picks(selector: Selector, found: Picks, group: Group) -> None:
    """Refuse what a method of one's own may get wrong; later it would be a wrong answer without an error."""
    picks = found.indices.cpu()
    allowed = group.candidates.cpu()
    if len(picks) != group.count or len(torch.unique(picks)) != group.count or not bool(allowed[picks].all()):
        msg = (
            f"{selector.name!r} answered {len(picks)} picks ({len(torch.unique(picks))} distinct) for "
            f"{group.count} asked "
            "for: select_group must give that many distinct rows, none of them initial or forbidden."
        )
        raise CoresetError(msg)


def _check_seed(seed: int) -> int:
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        msg = f"seed={seed!r} is not accepted: give a whole number."
        raise ValueError(msg)
    return int(seed)


def _tensor(positions: Tensor | Sequence[int] | None) -> Tensor | None:
    return None if positions is None else torch.as_tensor(positions)
