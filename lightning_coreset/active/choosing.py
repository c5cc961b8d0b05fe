"""Choosing without labels: any selector over the source's items, with pseudo-classes where it needs classes."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lightning_coreset.coreset import Coreset
from lightning_coreset.data import dataset_fingerprint
from lightning_coreset.data.views import random_state_kept
from lightning_coreset.detection import Objects
from lightning_coreset.distributed import together
from lightning_coreset.features import PrecomputedFeatures
from lightning_coreset.ops import kmeans
from lightning_coreset.ops.random import seeded_generator
from lightning_coreset.pool import Pool
from lightning_coreset.pool_objects import PoolObjects
from lightning_coreset.registry import build_selector
from lightning_coreset.selection import SelectionRun
from lightning_coreset.selectors.base import Selector
from lightning_coreset.selectors.rows import embed_everything

_MOST_PSEUDO_CLASSES = 100


@dataclass
class UnlabelledRun(SelectionRun):
    """One selection for a datamodule whose items have no labels: nothing looks at the dataset's.

    Attributes:
        initial: Positions that count as chosen ``[m]``.
        forbidden: Positions that may not be chosen ``[f]``.
        pseudo_classes: Clusters that stand in for classes; 0 for none.
        objects: What the images show, where somebody proposed it before; else the proposer looks.
    """

    initial: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    forbidden: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    pseudo_classes: int = 0
    objects: Objects | None = None

    def prepare(self) -> None:
        """Make the keys, and refuse what cannot work, before any work starts.

        Raises:
            ValueError: Features that do not fit the train dataset.
            CoresetError: Another rank failed, or ranks read different data.
        """
        with together(self.reducer, "reading the train dataset"), random_state_kept():
            if isinstance(self.extractor, PrecomputedFeatures) and self._needs_features:
                self.extractor.check(self.template.size)
            self.fingerprint = dataset_fingerprint(self.template.dataset, None)
            wanted = "objects" in self.selector.needs or self.budget_unit != "images"
            if wanted and self.objects is None:
                self._objects = PoolObjects(self._images, self.proposer, self.selector, annotated=False)
            if self._needs_features or self.pseudo_classes:
                self._embedding_key = self._key_of(self.fingerprint)
        self._check_ranks_agree()

    def select(self) -> Coreset:
        """The choice; every rank calls it and gets the same answer."""
        size = self.template.size
        labels: Tensor | None = None
        features: Tensor | None = None
        if self.pseudo_classes:
            features = embed_everything(size, self._embed, self.reducer)
            labels = pseudo_classes(features, self.pseudo_classes, seed=self.seed)
        ids = None if self._objects is None else self._objects.ids
        pool = Pool(features=features, labels=labels, objects=self.objects, size=size, ids=ids)
        assert self.budget is not None
        return self.selector.select(
            pool,
            self.budget,
            seed=self.seed,
            initial=self.initial,
            forbidden=self.forbidden,
            context=self._context(),
            budget_unit=self.budget_unit,
        )


def pseudo_classes(features: Tensor, clusters: int, *, seed: int = 0) -> Tensor:
    """Clusters of embeddings as classes: seeded k-means, numbered from 0 without gaps.

    Args:
        features: ``[N, d]``.
        clusters: At most this many; as many as there are distinct rows, if these are fewer.
        seed: Of the k-means++ draws.

    Returns:
        Cluster of each item ``[N]``. O(N k d) time for each of 25 iterations.

    Example:
        >>> pseudo_classes(torch.tensor([[0.0], [0.1], [5.0]]), 2).unique().tolist()
        [0, 1]
    """
    draws = int(torch.randint(2**31, (1,), generator=seeded_generator(seed, "pseudo-classes")))
    found = kmeans(features, min(clusters, len(features)), seed=draws).assignment
    numbered: Tensor = torch.unique(found, return_inverse=True)[1]
    return numbered


def default_pseudo_classes(size: int) -> int:
    """How many clusters a pool of ``N`` items gets: ``round(sqrt(N / 2))``, at most 100.

    Example:
        >>> default_pseudo_classes(200), default_pseudo_classes(10**6)
        (10, 100)
    """
    return max(1, min(_MOST_PSEUDO_CLASSES, math.floor(math.sqrt(size / 2) + 0.5)))


def label_free_selector(initial: Selector | str, arguments: dict[str, Any] | None) -> Selector:
    """The selector behind ``initial=``.

    Raises:
        ValueError: An unknown method, arguments beside a selector object, or a method that needs training.
        TypeError: Neither a selector nor a name, or an argument that the method does not know.
    """
    if isinstance(initial, Selector):
        if arguments:
            msg = (
                f"initial_args= beside initial={type(initial).__name__}(...) is not accepted: give them to the "
                "selector."
            )
            raise ValueError(msg)
        selector = initial
    elif isinstance(initial, str):
        selector = build_selector(initial, arguments or {})
    else:
        msg = f"initial is a {type(initial).__name__}; the name of a method or a selector is accepted: give one."
        raise TypeError(msg)
    selector.check()
    if "signals" in selector.needs:
        msg = (
            f"initial={selector.name!r} is not accepted: it looks at training, and nothing is labelled yet; give a "
            "method without training signals, such as 'typiclust', 'k_center' or 'ofds'."
        )
        raise ValueError(msg)
    return selector


def with_reserve(coreset: Coreset) -> Tensor:
    """Positions in the order in which to ask: what was chosen, then what to go on with while units are left."""
    reserve = coreset.manifest.get("reserve", {}).get("indices", [])
    return torch.cat([coreset.indices, torch.tensor(reserve, dtype=torch.int64)])


def about(selector: Selector, seed: int, clusters: int) -> dict[str, Any]:
    """What the journal says of a choice; nothing in it differs between two runs that chose the same."""
    arguments = {
        name: value if isinstance(value, bool | int | float | str | None) else repr(value)
        for name, value in selector.arguments.items()
    }
    found: dict[str, Any] = {"by": selector.name or type(selector).__name__, "arguments": arguments, "seed": seed}
    return found | ({"pseudo_classes": clusters} if clusters else {})
