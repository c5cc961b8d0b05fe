"""One run of a method over the groups of a pool: seats, ranks, rows, and what the method may not get wrong."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor

from lightning_coreset.detection import Objects
from lightning_coreset.distributed import deal, together
from lightning_coreset.errors import CoresetError
from lightning_coreset.ops.memory import resolve_memory_limit
from lightning_coreset.ops.rows import candidate_mask
from lightning_coreset.ops.spending import Purse
from lightning_coreset.pool import Pool
from lightning_coreset.selectors.batching import batches_of, together_on
from lightning_coreset.selectors.context import SelectionContext
from lightning_coreset.selectors.cost import log_estimate
from lightning_coreset.selectors.expansion import Expansion
from lightning_coreset.selectors.group import Group, Picks
from lightning_coreset.selectors.manifest import merge_resolved
from lightning_coreset.selectors.merge import Merged, gather_picks, in_seat_order
from lightning_coreset.selectors.rows import PoolRows
from lightning_coreset.selectors.units import Charges
from lightning_coreset.signals import Signals

if TYPE_CHECKING:
    from lightning_coreset.selectors.base import Selector


@dataclass(frozen=True)
class Request:
    """What is selected from, checked and resolved.

    Attributes:
        pool: The items.
        wide: What is picked from; its first items are the pool's.
        context: Ranks, device, memory, progress.
        signals: Training signals, for methods that need them.
        objects: What the images show, where that is known.
        charges: What each item of ``wide`` costs.
        chosen: Items that count as chosen ``[m]``.
        banned: Items that may not be picked ``[f]``.
        classwise: Whether classes are selected from one by one.
        seed: Of every random choice.
    """

    pool: Pool
    wide: Expansion
    context: SelectionContext
    signals: Signals | None
    objects: Objects | None
    charges: Charges
    chosen: Tensor
    banned: Tensor
    classwise: bool
    seed: int


@dataclass(frozen=True)
class Answer:
    """The picks of one run.

    Attributes:
        merged: Columns in pool positions.
        resolved: What was derived from the arguments.
        told: What the method says of units and objects.
        sizes: Items of each group, in the order of ``resolved``.
    """

    merged: Merged
    resolved: dict[str, Any]
    told: dict[str, Any]
    sizes: list[int]


def run(selector: "Selector", request: Request, total: int, purse: Purse | None = None) -> Answer:
    """Pick in all groups, each rank in its own, and bring the picks together.

    Args:
        selector: The method.
        request: What it picks from.
        total: How many to pick; with a purse the most that it may pick.
        purse: A budget that the method spends itself, in the order of the pool.
    """
    pool, wide, context, reducer = request.pool, request.wide, request.context, request.context.reducer
    classwise = request.classwise
    seats = _seats(selector, request, total) if classwise else torch.zeros(total, dtype=torch.int64)
    labels = wide.labels if classwise and wide.labels is not None else torch.zeros(wide.size, dtype=torch.int64)
    members = [wide.present_of(positions) for positions in _members(labels)]
    if purse is not None:
        # Ties and seeds must not hang on the order in which a folder was read.
        members = [by_id(pool)]
    shares = torch.bincount(seats, minlength=len(members))
    groups = torch.nonzero(shares).flatten()
    # A whole pool is selected from on every rank alike, and the first rank's word counts.
    ranks = deal(torch.tensor([len(members[label]) for label in groups]), reducer.world_size if classwise else 1)
    mine = groups[ranks == reducer.rank] if classwise else groups
    limit = _memory_limit(context)

    picks: dict[int, Picks] = {}
    shard_rows = None if classwise or reducer.world_size == 1 else selector.shard_rows(wide.size)
    classes = [members[label] for label in mine] if classwise else None
    source = PoolRows(selector.wants_features(request.signals), wide, context, classes, shard_rows)
    width = _width(selector, request, source)
    if reducer.rank == 0 and width is not None:
        log_estimate(
            selector,
            sum(map(len, members)),
            width,
            total if purse is None else _affordable(purse, total),
            groups=len(groups),
            ranks=reducer.world_size if classwise else 1,
            device=source.device,
            limit=limit,
            objects=request.objects,
            classes=_number_of_classes(request),
        )

    def group_of(label: int, advance: Callable[[int], object]) -> Group:
        positions = members[label]
        rows, signals = source.rows(positions), request.signals
        home = source.device if purse is None else torch.device("cpu")
        return Group(
            size=len(positions),
            count=int(shares[label]),
            features=rows if purse is None or rows is None else _in_order(rows.cpu(), positions),
            signals=None if signals is None else signals.subset(positions),
            pool_signals=signals,
            positions=positions,
            initial=_rows_of(request.chosen, positions).to(home),
            forbidden=_rows_of(request.banned, positions).to(home),
            label=label if classwise else None,
            num_classes=_number_of_classes(request),
            seed=request.seed,
            pool_size=wide.size,
            reducer=reducer if shard_rows else None,
            memory_limit=limit,
            objects=None if purse is None or request.objects is None else _in_order(request.objects, positions),
            purse=None if purse is None else Purse(purse.charges[positions], purse.total, purse.overshoot),
            estimated=None if purse is None else request.charges.estimated[positions],
            charged_by=request.charges.source,
            advance=advance,
        )

    with (
        together(reducer, f"selecting with {selector.name!r}"),
        context.progress(int(shares[mine].sum()), f"Selecting ({selector.name})") as bar,
    ):
        for labels_together in _batches(selector, mine.tolist(), members, source.device, limit):
            counters = [_Advance(bar.update) for _ in labels_together]
            batch = [group_of(label, counter) for label, counter in zip(labels_together, counters, strict=True)]
            for group, found, counter, label in zip(
                batch, selector.select_groups(batch), counters, labels_together, strict=True
            ):
                _check_picks(selector, found, group)
                counter(group.count - counter.done)
                picks[label] = found
    everything = gather_picks(reducer, picks if classwise or reducer.rank == 0 else {})
    if purse is not None:
        seats = torch.zeros(len(everything[0].indices), dtype=torch.int64)
    merged = in_seat_order(everything, seats, members, wide.size, weighted=selector.weighted)
    resolved = merge_resolved(
        {label: found.resolved for label, found in everything.items()}, pool.num_classes if classwise else None
    )
    notes = {name: value for found in everything.values() for name, value in found.told.items()}
    sizes = [len(members[label]) for label in sorted(everything)]
    return Answer(merged, resolved | wide.resolved, notes, sizes)


def _width(selector: "Selector", request: Request, source: PoolRows) -> int | None:
    """Of the embeddings that are compared: those of the items, or of what they show; None for methods that do not."""
    if "objects" not in selector.needs or request.objects is None:
        return source.width
    shown = request.objects.features
    return 0 if shown is None else shown.shape[1]


def _affordable(purse: Purse, total: int) -> int:
    """About how many items there will be."""
    mean = float(purse.charges.mean())
    return min(total, max(1, round(purse.total / mean))) if mean > 0 else total


@overload
def _in_order(column: Tensor, positions: Tensor) -> Tensor: ...
@overload
def _in_order(column: Objects, positions: Tensor) -> Objects: ...
def _in_order(column: Tensor | Objects, positions: Tensor) -> Tensor | Objects:
    """Rows or objects of all images in another order, without a copy where it is their own."""
    size = len(column) if isinstance(column, Tensor) else column.num_images
    if torch.equal(positions, torch.arange(size)):
        return column
    return column[positions] if isinstance(column, Tensor) else column.subset(positions)


def _number_of_classes(request: Request) -> int | None:
    """Classes of the items, else of what they show."""
    shown = None if request.objects is None else request.objects.num_classes
    return request.pool.num_classes or shown


def by_id(pool: Pool) -> Tensor:
    """Positions of a pool in the order of its ids ``[N]``; without ids as they stand."""
    ids = pool.ids
    if ids is None:
        return torch.arange(pool.size)
    return torch.tensor(sorted(range(pool.size), key=lambda place: (isinstance(ids[place], str), ids[place])))


def _batches(
    selector: "Selector", labels: list[int], members: list[Tensor], device: torch.device, limit: int
) -> Sequence[Sequence[int]]:
    if not together_on(device):
        return [[label] for label in labels]
    sizes = [len(members[label]) for label in labels]
    return batches_of(labels, sizes, lambda size: selector.batch_bytes(size, limit), limit)


def _seats(selector: "Selector", request: Request, total: int) -> Tensor:
    pool, wide = request.pool, request.wide
    assert pool.labels is not None
    assert pool.class_counts is not None
    assert wide.labels is not None
    candidates = candidate_mask(pool.size, request.chosen, request.banned[request.banned < pool.size], 1)
    free = torch.bincount(pool.labels[candidates], minlength=len(pool.class_counts))
    if wide.absent is not None:
        gone = wide.absent.index_fill(0, request.banned, True)
        gone[: pool.size] |= ~candidates
        free = free.minimum(torch.bincount(wide.labels[~gone], minlength=len(free)))
    return selector.give_seats(pool.class_counts, free, total)


def _memory_limit(context: SelectionContext) -> int:
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


def _check_picks(selector: "Selector", found: Picks, group: Group) -> None:
    """Refuse what a method of one's own may get wrong; later it would be a wrong answer without an error."""
    picks = found.indices.cpu()
    allowed = group.candidates.cpu()
    distinct = len(torch.unique(picks))
    # With a budget of its own to spend a method may stop before the last candidate.
    enough = len(picks) == group.count if group.purse is None else len(picks) <= group.count
    if not enough or distinct != len(picks) or not bool(allowed[picks].all()):
        msg = (
            f"{selector.name!r} answered {len(picks)} picks ({distinct} distinct) for {group.count} asked for: "
            "select_group must give that many distinct rows, none of them initial or forbidden."
        )
        raise CoresetError(msg)
