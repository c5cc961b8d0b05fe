"""Facility location in two rounds: in each part of the pool, then among what the parts chose."""

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_coreset.ops.exact_greedy import exact_greedy
from lightning_coreset.ops.kmeans import kmeans, nearest_center
from lightning_coreset.ops.objective import FacilityLocationObjective
from lightning_coreset.ops.reducer import Reducer, SerialReducer
from lightning_coreset.ops.rows import Ranking, accumulator_dtype, normalize_rows
from lightning_coreset.ops.similarity import SimilarityKind, SimilarityRows, represented_by

#: Consecutive items that are sorted into parts together. Ranks hold whole shelves, so parts do not depend on ranks.
SHELF_ITEMS = 65_536

# Items of a part: a similarity of 64 MB.
_PART_ITEMS = 4_096
# Clusters by which a shelf is sorted, and the items that find their centres.
_CLUSTERS, _CLUSTERED_ITEMS = 64, 8_192
# A part chooses this many times its share of what its shelf chooses,
_SPARE = 2
# and the second round works on at most this many items, a similarity of 2.4 GB.
_LARGEST_MERGE = 24_576


def partitioned_greedy(
    features: Tensor,
    count: int,
    *,
    candidates: Tensor,
    initial: Tensor,
    initial_weights: Tensor | None = None,
    candidate_weights: Tensor | None = None,
    item_weights: Tensor | None = None,
    similarity: SimilarityKind = "cosine",
    seed: int = 0,
    memory_limit: int | str | None = None,
    reducer: Reducer | None = None,
    advance: Callable[[int], object] | None = None,
) -> Ranking:
    """Greedy facility location over parts of the pool that hold similar items, then over the parts' choices.

    Shelves of 65,536 consecutive items are sorted by k-means cluster and cut into parts of 4,096. Each part chooses
    by exact greedy on its own items, together up to twice ``k`` a shelf. These choices, each weighing as much as the
    items it represents in its part, are the pool of the second greedy. Where ``k`` is too large for it (above 12,288)
    choices are ranked by their gains instead, which is greedy on the sum of the parts' objectives.

    Parts of random items would not do: all of them choose from the same large clusters.

    Args:
        features: Rows of this rank ``[n, d]``, whole shelves but for the last one of all.
        count: Number of picks ``k`` over all ranks.
        candidates: Which rows of this rank may be picked ``[n]``.
        initial: Embeddings of what is chosen already, on every rank the same ``[m, d]``.
        initial_weights: Their ``d_j`` ``[m]``; None is one.
        candidate_weights: ``d_j`` of this rank's rows ``[n]``.
        item_weights: ``w_i`` of this rank's rows ``[n]``.
        similarity: ``"cosine"`` or ``"shifted"``.
        seed: Of the clusters.
        memory_limit: Bytes of the second round's similarity; it is streamed where it does not fit.
        reducer: The ranks; None is this one alone.
        advance: Called with the number of picks made since the last call.

    Returns:
        Picks by their position in the whole pool, the same on every rank and for any number of ranks, with the gains
        of the second round. O(N 4096 d / ranks + k^2 d) time, 64 MB beside the features and the second round.

    References:
        Mirzasoleiman et al. 2013 (distributed greedy).
    """
    reducer = reducer or SerialReducer()
    sizes = torch.cat(reducer.gather(torch.tensor([[len(features), int(candidates.sum())]], device=features.device)))
    # Shares go by what is free, so that exclusions in one place leave enough to choose in others.
    offset, total = int(sizes[: reducer.rank, 0].sum()), int(sizes[:, 1].sum())
    seeds = normalize_rows(initial) if len(initial) else initial
    found = []
    for start in range(0, len(features), SHELF_ITEMS):
        shelf = features[start : start + SHELF_ITEMS]
        available, passed = int(candidates[start : start + SHELF_ITEMS].sum()), 0
        wanted = _wanted(count, available, total)
        for members in _parts(shelf, seed):
            part = members + start
            objective = FacilityLocationObjective(
                SimilarityRows(features[part], kind=similarity, mode="dense"),
                None if candidate_weights is None else candidate_weights[part],
                None if item_weights is None else item_weights[part],
            )
            if len(seeds):
                objective.cover(_scaled(objective.similarity.against(seeds), initial_weights))
            free = candidates[part]
            # Cumulative shares, so that those of a shelf add up whatever is rounded.
            before, passed = passed, passed + int(free.sum())
            if share := wanted * passed // max(1, available) - wanted * before // max(1, available):
                found.append(_choose(objective, free, share, part + offset))
    width = features.shape[1]
    columns = [torch.cat([one[place] for one in found]) if found else None for place in range(4)]
    empty = (
        torch.empty(0, dtype=torch.int64),
        torch.empty(0),
        torch.empty(0, dtype=accumulator_dtype(features.device)),
        torch.empty(0),
    )
    places, gains, shares, densities = (
        torch.cat(reducer.gather((none if column is None else column).to(features.device)))
        for column, none in zip(columns, empty, strict=True)
    )
    if len(places) > _LARGEST_MERGE or len(places) <= count:
        return _by_gain(places, gains, count, advance)
    own = places[(places >= offset) & (places < offset + len(features))] - offset
    chosen_rows = torch.cat(reducer.gather(features[own] if len(own) else features.new_empty(0, width)))
    rows = SimilarityRows(chosen_rows, kind=similarity, memory_limit=memory_limit)
    objective = FacilityLocationObjective(rows, None if candidate_weights is None else densities, shares.float())
    if len(seeds):
        objective.cover(_scaled(rows.against(seeds), initial_weights))
    everyone = torch.ones(len(places), dtype=torch.bool, device=features.device)
    ranking = exact_greedy(objective, everyone, count, advance)
    return Ranking(places[ranking.indices], ranking.gains)


def _wanted(count: int, available: int, total: int) -> int:
    """Choices of a shelf: twice the picks, as far as all shelves together stay within the second round.

    Args:
        count: Picks in all.
        available: Candidates of the shelf.
        total: Candidates of the pool.
    """
    share = -(-_SPARE * count * available // total)
    return min(available, max(share, min(_SPARE * count, _LARGEST_MERGE * available // total)))


def _parts(shelf: Tensor, seed: int) -> list[Tensor]:
    """Rows of a shelf in parts of similar items ``[<= 4096]`` each."""
    if len(shelf) <= _PART_ITEMS:
        return [torch.arange(len(shelf), device=shelf.device)]
    rows = normalize_rows(shelf)
    step = -(-len(rows) // _CLUSTERED_ITEMS)
    centers = kmeans(rows[::step], _CLUSTERS, seed=seed, iterations=10, engine="torch").centers
    order = torch.argsort(nearest_center(rows, centers), stable=True)
    count = -(-len(rows) // _PART_ITEMS)
    return list(order.tensor_split(count))


def _choose(
    objective: FacilityLocationObjective, candidates: Tensor, count: int, positions: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One part's choice in ascending order: positions, gains, what each represents, candidate weights."""
    ranking = exact_greedy(objective, candidates, count, None)
    chosen, order = ranking.indices.sort()
    owner = represented_by(objective.similarity, chosen)
    shares = torch.zeros(len(chosen), dtype=accumulator_dtype(chosen.device), device=chosen.device)
    weights = torch.ones_like(objective.covered) if objective.item_weights is None else objective.item_weights
    shares.index_add_(0, owner, weights.to(shares.dtype))
    densities = torch.ones(len(chosen), device=chosen.device)
    if objective.candidate_weights is not None:
        densities = objective.candidate_weights[chosen]
    return positions[chosen], ranking.gains[order], shares, densities


def _scaled(values: Tensor, weights: Tensor | None) -> Tensor:
    return values if weights is None else values * weights[:, None]


def _by_gain(places: Tensor, gains: Tensor, count: int, advance: Callable[[int], object] | None) -> Ranking:
    order = torch.argsort(gains, descending=True, stable=True)[:count]
    if advance is not None:
        advance(len(order))
    return Ranking(places[order], gains[order])
