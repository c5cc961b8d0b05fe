"""What to ask for next: query strategies by name, selectors, and functions of one's own."""

import difflib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_coreset.active.badge import badge
from lightning_coreset.active.choosing import about, label_free_selector, with_reserve
from lightning_coreset.active.datamodule import ActiveLearningDataModule
from lightning_coreset.active.detecting import Detect, class_difficulty, detect_all
from lightning_coreset.active.detections import Detections, detection_uncertainty, difficulty_weights, ppal
from lightning_coreset.active.outputs import ModelOutputs, Reduce, apart, both, look_at, needed
from lightning_coreset.active.pool import LabelledPool
from lightning_coreset.active.scores import MEASURES, Measure, equal_score, model_uncertainty
from lightning_coreset.data.views import random_state_kept
from lightning_coreset.distributed import gather_json, together
from lightning_coreset.errors import CoresetError
from lightning_coreset.ops import k_center
from lightning_coreset.ops.random import seeded_generator
from lightning_coreset.ops.reducer import Reducer
from lightning_coreset.registry import list_selectors
from lightning_coreset.selectors.base import Selector


@dataclass(frozen=True)
class QueryContext:
    """What a query may look at; a function of one's own gets it and returns ids, the most wanted first.

    Attributes:
        datamodule: With its ``pool``.
        module: The trained module.
        trainer: The trainer that trained it; None where there is none.
        count: How many ids are wanted.
        round: The round that asks.
        seed: Of every random choice.
        head: Name of the layer whose input are the features; None finds it.
        forward: Called with the module and a batch of images instead of the module.
        batch_size: Rows of every forward pass.
        detect: Called with the module and a list of items, gives their `Detections`; for queries on boxes.
    """

    datamodule: ActiveLearningDataModule
    module: Any
    trainer: Any
    count: int
    round: int
    seed: int = 0
    head: str | None = None
    forward: Callable[[Any, Tensor], Any] | None = None
    batch_size: int = 64
    detect: Detect | None = None

    @property
    def pool(self) -> LabelledPool:
        """The labelled pool."""
        return self.datamodule.opened()

    @property
    def candidates(self) -> Tensor:
        """Positions of the unlabelled items, ascending ``[u]``."""
        return torch.nonzero(self.pool.mask("unlabelled")).flatten()

    @property
    def labelled(self) -> Tensor:
        """Positions of the labelled items, ascending ``[m]``."""
        return torch.nonzero(self.pool.mask("labelled")).flatten()

    @property
    def reducer(self) -> Reducer:
        """The ranks that work together."""
        return self.datamodule._reducer

    def rows(self, reduce: Reduce, positions: Tensor | None = None) -> Tensor:
        """What the module says of items, the unlabelled ones by default; every rank gets all rows ``[n, d]``."""
        outputs = ModelOutputs(
            self.module,
            reduce,
            view=self.datamodule.view_transform(),
            head=self.head,
            batch_size=self.batch_size,
            forward=self.forward,
        )
        return look_at(
            self.datamodule._pool_dataset,
            self.candidates if positions is None else positions,
            outputs,
            trainer=self.trainer,
            source=self.datamodule.source,
            num_workers=self.datamodule._workers(),
            reducer=self.reducer,
        )

    def detections(self, positions: Tensor | None = None) -> Detections:
        """What a detector says of images, the unlabelled ones by default; every rank gets all boxes."""
        wanted = self.candidates if positions is None else positions
        return detect_all(
            self.module, self._detect, self.datamodule._pool_dataset, wanted, **self._looking, reducer=self.reducer
        )

    def difficulty(self) -> Tensor | None:
        """How hard each class is for the detector on the labelled images; see `class_difficulty`."""
        labelled = self.datamodule.labelled_items()
        return class_difficulty(self.module, self._detect, labelled, **self._looking, reducer=self.reducer)

    @property
    def images_expected(self) -> int:
        """How many of the wanted ids will be labelled, going by what labelled images cost."""
        if self.datamodule._unit == "images":
            return self.count
        mean = self.pool.units_spent / max(1, self.pool.n_labelled)
        return max(1, math.ceil(self.count / max(1.0, mean)))

    @property
    def _detect(self) -> Detect:
        if self.detect is None:
            msg = (
                "This query looks at boxes: give detect=, a function of module and items that returns Detections, or "
                "another query."
            )
            raise ValueError(msg)
        return self.detect

    @property
    def _looking(self) -> dict[str, Any]:
        device = None if self.trainer is None else self.trainer.strategy.root_device
        return {"transform": self.datamodule.view_transform(), "device": device, "batch_size": self.batch_size}

    def logits(self, positions: Tensor | None = None) -> Tensor:
        """Logits of items ``[n, C]``, the unlabelled ones by default."""
        return self.rows(lambda logits, _: logits, positions)

    def features(self, positions: Tensor | None = None) -> Tensor:
        """Input of the last layer for items ``[n, h]``, the unlabelled ones by default."""
        return self.rows(lambda _, features: needed(features), positions)


#: From a context to positions, the most wanted first.
Query = Callable[[QueryContext], Tensor]


def query_random(context: QueryContext) -> Tensor:
    """Unlabelled items in a seeded order; looks at nothing."""
    candidates = context.candidates
    order = torch.randperm(len(candidates), generator=seeded_generator(context.seed, "query", context.round))
    return candidates[order[: context.count]]


def query_k_center(context: QueryContext) -> Tensor:
    """CoresetAL: items farthest from all labelled ones in the module's own features."""
    known, candidates = context.labelled, context.candidates
    rows = context.features(torch.cat([known, candidates]))
    initial = torch.arange(len(known)) if len(known) else None
    picks = k_center(rows, context.count, initial=initial).indices
    return torch.cat([known, candidates])[picks.cpu()]


def query_badge(context: QueryContext) -> Tensor:
    """See `lightning_coreset.active.badge.badge`."""
    logits, features = apart(context.rows(both))
    draws = int(torch.randint(2**31, (1,), generator=seeded_generator(context.seed, "badge", context.round)))
    return context.candidates[badge(logits, features, context.count, seed=draws)]


def query_equal(context: QueryContext) -> Tensor:
    """See `lightning_coreset.active.scores.equal_score`; each image is looked at straight and mirrored."""
    forward = context.forward or _plain_forward

    def straight_and_mirrored(module: Any, images: Tensor) -> Any:
        return torch.cat([_map_logits(forward(module, images)), _map_logits(forward(module, images.flip(-1)))], dim=1)

    def score(logits: Tensor, _: Tensor | None) -> Tensor:
        return equal_score(*logits.chunk(2, dim=1)).unsqueeze(1)

    doubled = QueryContext(**{**vars(context), "forward": straight_and_mirrored})
    return _highest(context, doubled.rows(score).squeeze(1))


def query_ppal(context: QueryContext) -> Tensor:
    """See `lightning_coreset.active.detections.ppal`.

    Where ``detect`` gives corners, classes weigh by how hard they are for this round's module on the images labelled so
    far, which it has learnt from; else all weigh alike. Under a budget in units, four times as many images as it is
    expected to pay for are drawn from.
    """
    draws = int(torch.randint(2**31, (1,), generator=seeded_generator(context.seed, "ppal", context.round)))
    found, difficulty = context.detections(), context.difficulty()
    weights = None if difficulty is None else difficulty_weights(difficulty)
    multiple = max(1.0, 4.0 * context.images_expected / context.count)
    return context.candidates[ppal(found, context.count, seed=draws, multiple=multiple, class_weights=weights)]


def box_query(reduce: Literal["sum", "max"]) -> Query:
    """Images with the largest sum, or maximum, of the entropies of their boxes."""

    def query(context: QueryContext) -> Tensor:
        return _highest(context, detection_uncertainty(context.detections(), reduce))

    return query


def uncertainty_query(measure: Measure) -> Query:
    """Items of which the module is least sure; with logits for each pixel, on the mean."""

    def query(context: QueryContext) -> Tensor:
        return _highest(context, context.rows(lambda logits, _: model_uncertainty(logits, measure)[:, None]).squeeze(1))

    return query


def selector_query(selector: Selector) -> Query:
    """A selector on the datamodule's features, with the labelled items as ``initial``."""

    def query(context: QueryContext) -> Tensor:
        # Methods of objects know what images cost; the others give an order that labelling may leave at any line.
        unit = context.datamodule._unit if "objects" in selector.needs else "images"
        return with_reserve(context.datamodule.choose(selector, context.count, unit))

    return query


QUERIES: dict[str, Query] = {
    "badge": query_badge,
    "box_max": box_query("max"),
    "box_sum": box_query("sum"),
    "equal": query_equal,
    "k_center": query_k_center,
    "ppal": query_ppal,
    "random": query_random,
    **{measure: uncertainty_query(measure) for measure in MEASURES},
}


@dataclass(frozen=True)
class NamedQuery:
    """A query and what the journal says of it."""

    run: Query
    told: dict[str, Any]


def resolve_query(query: Any, seed: int = 0) -> NamedQuery:
    """The query behind ``query=``: a strategy, a method of `list_selectors`, a selector, or a function.

    Raises:
        ValueError: An unknown name; the message lists the accepted ones. A method that needs training signals.
        TypeError: Something else.

    Example:
        >>> resolve_query("entropy").told
        {'by': 'entropy'}
    """
    if isinstance(query, str) and query in QUERIES:
        return NamedQuery(QUERIES[query], {"by": query})
    if isinstance(query, str) and query not in list_selectors():
        accepted = [*sorted(QUERIES), *(name for name in list_selectors() if name not in QUERIES)]
        close = difflib.get_close_matches(query, accepted, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else "give one of them."
        msg = f"Unknown query {query!r}; accepted are {', '.join(accepted)}, selectors and callables: {hint}"
        raise ValueError(msg)
    if isinstance(query, str | Selector):
        selector = label_free_selector(query, None)
        return NamedQuery(selector_query(selector), about(selector, seed, 0))
    if callable(query):
        return NamedQuery(_own_query(query), {"by": getattr(query, "__name__", type(query).__name__)})
    msg = (
        f"query is a {type(query).__name__}; the name of a strategy or method, a selector or a callable is accepted: "
        "give one of them."
    )
    raise TypeError(msg)


def run_query(query: NamedQuery, context: QueryContext) -> Tensor:
    """Positions to ask for, the same on every rank, the most wanted first.

    Raises:
        CoresetError: Answers that are not that many distinct unlabelled items.
    """
    with random_state_kept():
        positions = query.run(context).cpu()
    # What is equal up to rounding on two machines is decided by the first.
    positions = torch.tensor(gather_json(context.reducer, positions.tolist())[0], dtype=torch.int64)
    free = context.pool.mask("unlabelled")
    # Methods that spend units answer as many images as hold them.
    least = context.count if context.datamodule._unit == "images" else min(1, context.count)
    fits = len(positions) >= least and len(positions.unique()) == len(positions)
    if not fits or not bool(free[positions].all()):
        msg = (
            f"The query {query.told['by']!r} answered {len(positions)} items ({len(positions.unique())} distinct, "
            f"{int(free[positions].sum())} unlabelled) for {context.count} asked for: it must give that many distinct "
            "unlabelled ones."
        )
        raise CoresetError(msg)
    return positions[: context.count]


def _own_query(function: Callable[[QueryContext], Iterable[Any]]) -> Query:
    def query(context: QueryContext) -> Tensor:
        ids: list[Any] = []
        with together(context.reducer, "running the query"):
            ids = list(function(context))
            return context.pool.positions(ids)

    return query


def _highest(context: QueryContext, scores: Tensor) -> Tensor:
    """The candidates with the highest scores, ties to the lowest position."""
    order = torch.argsort(scores, descending=True, stable=True)
    return context.candidates[order[: context.count].cpu()]


def _plain_forward(module: Any, images: Tensor) -> Any:
    return module(images)


def _map_logits(output: Any) -> Tensor:
    found = output.get("out", output.get("logits")) if isinstance(output, dict) else output
    found = found[0] if isinstance(found, list | tuple) else found
    if not isinstance(found, Tensor) or found.ndim != 4:
        came = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        msg = (
            f"The query 'equal' looks at logits of pixels [B, C, H, W] and got {came}: give forward= that returns them."
        )
        raise CoresetError(msg)
    return found
