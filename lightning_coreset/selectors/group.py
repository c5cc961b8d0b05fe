"""A group of items that is selected from on its own: one class, or the whole pool."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lightning_coreset.detection import Objects
from lightning_coreset.ops.random import seeded_generator
from lightning_coreset.ops.reducer import Reducer
from lightning_coreset.ops.rows import candidate_mask
from lightning_coreset.ops.spending import Purse
from lightning_coreset.signals import Signals


@dataclass(frozen=True)
class Group:
    """What a selector sees of one class (or of the whole pool). All positions are rows of this group.

    Attributes:
        size: Items of the group, ``n``.
        count: How many to pick.
        features: Embeddings ``[n, d]``, float32; None for methods that do not need them.
        signals: Training signals of the ``n`` items; None for methods that do not need them.
        pool_signals: Training signals of the whole pool, for what no class can tell alone.
        positions: Where the rows stand in the pool ``[n]``, ascending; where there is a purse, in the order of ids.
        initial: Rows that count as chosen ``[m]``.
        forbidden: Rows that may not be picked ``[f]``.
        label: The class, None for the whole pool.
        num_classes: Classes of the whole pool, None where it has none.
        seed: Seed of the selection.
        pool_size: Items of the whole pool.
        reducer: Ranks that hold one group together; None: this rank has all of it. With it ``features`` are this rank's
            consecutive part, while ``size``, ``initial``, ``forbidden`` and picks are those of the whole group.
        memory_limit: Bytes a kernel may take.
        objects: What the images show, for methods that look at it.
        purse: What each row costs and how much there is, for methods that spend a budget themselves; ``count`` is then
            the most that there is to pick.
        estimated: Expected annotation units of each row ``[n]``, float64, beside a purse.
        charged_by: What the purse's charges are: "images", "true" or "estimated" units.
        advance: To be called with the number of picks made, for the progress bar.
    """

    size: int
    count: int
    features: Tensor | None
    initial: Tensor
    forbidden: Tensor
    signals: Signals | None = None
    pool_signals: Signals | None = None
    positions: Tensor | None = None
    label: int | None = None
    num_classes: int | None = None
    seed: int = 0
    pool_size: int = 0
    reducer: Reducer | None = None
    memory_limit: int | None = None
    objects: Objects | None = None
    purse: Purse | None = None
    estimated: Tensor | None = None
    charged_by: str = "images"
    advance: Callable[[int], object] | None = None

    @property
    def rows(self) -> Tensor:
        """The embeddings ``[n, d]``, for methods that declare that they need them."""
        assert self.features is not None
        return self.features

    @property
    def recorded(self) -> Signals:
        """The training signals, for methods that declare that they need them."""
        assert self.signals is not None
        return self.signals

    @property
    def shown(self) -> Objects:
        """What the images show, for methods that declare that they need it."""
        assert self.objects is not None
        return self.objects

    @property
    def wallet(self) -> Purse:
        """The purse, for methods that spend a budget themselves."""
        assert self.purse is not None
        return self.purse

    @property
    def units(self) -> Tensor:
        """Expected annotation units of each row, for methods that spend a budget themselves."""
        assert self.estimated is not None
        return self.estimated

    def at(self, rows: list[int]) -> list[int]:
        """Where some rows stand in the pool."""
        return rows if self.positions is None else self.positions[torch.tensor(rows, dtype=torch.int64)].tolist()

    @property
    def candidates(self) -> Tensor:
        """Rows that may be picked, as a mask ``[n]``."""
        return candidate_mask(self.size, self.initial, self.forbidden, self.count)

    def generator(self) -> torch.Generator:
        """The group's own stream of random numbers, from the seed and the class."""
        return seeded_generator(self.seed, "class", self.label)


@dataclass(frozen=True)
class Picks:
    """What a selector answers for one group.

    Attributes:
        indices: Rows of the group in the order chosen ``[count]``.
        gains: What each pick added ``[count]``, or None.
        assignment: Which pick represents each row, as a position in ``indices`` ``[n]``, or None.
        weights: How much each pick counts ``[count]``, with the sum ``n``; None where ``assignment`` tells, or nothing.
        details: Columns of length ``count`` that explain the picks.
        resolved: What was derived from the arguments for this group, JSON types.
        told: What the manifest says of units and objects beside what all methods say, JSON types.
    """

    indices: Tensor
    gains: Tensor | None = None
    assignment: Tensor | None = None
    weights: Tensor | None = None
    details: dict[str, list[Any]] = field(default_factory=dict)
    resolved: dict[str, Any] = field(default_factory=dict)
    told: dict[str, Any] = field(default_factory=dict)
