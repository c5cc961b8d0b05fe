"""Farthest-first selection: no item far from all chosen ones."""

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_coreset.ops.rows import (
    Ranking,
    accumulator_dtype,
    as_positions,
    candidate_mask,
    first_argmax,
    normalize_rows,
)

_FARTHEST_ON_THE_SPHERE = 2.0


def k_center(
    features: Tensor,
    count: int,
    *,
    start: int | None = None,
    initial: Tensor | None = None,
    forbidden: Tensor | None = None,
    advance: Callable[[int], object] | None = None,
) -> Ranking:
    """Greedy k-center: each pick is the candidate farthest from all items chosen so far.

    One running vector holds the distance of every item to its nearest chosen one. Distances are taken from
    differences, not from a product, so duplicates are at distance zero exactly.

    Args:
        features: ``[N, d]``; rows are normalised here.
        count: Number of picks ``k``, the start included.
        start: First pick; None takes the candidate nearest to the mean of the normalised rows, or starts from
            ``initial`` where that is given.
        initial: Rows that count as chosen already ``[m]``; not returned.
        forbidden: Rows that may not be picked ``[f]``.
        advance: Called with the number of picks made since the last call, for a progress bar.

    Returns:
        Picks in order; ``gains`` are their distances to what was chosen before them (never growing; 2, the largest
        distance on the sphere, for a start from nothing). O(k N d) time, O(N) memory beyond the normalised features.

    Raises:
        ValueError: Overlapping or unknown positions, a start that may not be picked, or more picks than candidates.

    References:
        Gonzalez 1985; core-set (Sener and Savarese 2018).

    Example:
        >>> k_center(torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]), 2, start=0).indices.tolist()
        [0, 2]
    """
    rows = normalize_rows(features)
    chosen = as_positions(initial, len(rows), "initial", rows.device)
    banned = as_positions(forbidden, len(rows), "forbidden", rows.device)
    candidates = candidate_mask(len(rows), chosen, banned, count)
    if start is not None and (not 0 <= start < len(rows) or not bool(candidates[start])):
        msg = (
            f"start={start} is not accepted: give a row from 0 to {len(rows) - 1} that is neither initial nor "
            "forbidden."
        )
        raise ValueError(msg)

    nearest = torch.full((len(rows),), _FARTHEST_ON_THE_SPHERE, device=rows.device)
    for item in chosen.split(1) if len(chosen) else ():
        torch.minimum(nearest, distances_to(rows, item), out=nearest)
    # Excluded rows keep -1, below every distance, through all minima.
    nearest.masked_fill_(~candidates, -1.0)

    first: Tensor | None = None
    if start is not None:
        first = torch.tensor([start], device=rows.device)
    elif not len(chosen):
        first = first_argmax(_closeness_to_mean(rows).masked_fill_(~candidates, -torch.inf)).unsqueeze(0)
    return _greedy(rows, nearest, first, count, advance)


def _greedy(
    rows: Tensor, nearest: Tensor, first: Tensor | None, count: int, advance: Callable[[int], object] | None
) -> Ranking:
    """The picks as tensors of one element: indexing with less would wait for the device each time."""
    indices = torch.empty(count, dtype=torch.int64, device=rows.device)
    gains = torch.empty(count, device=rows.device)
    for step in range(count):
        pick = first if step == 0 and first is not None else first_argmax(nearest).unsqueeze(0)
        indices[step : step + 1] = pick
        gains[step : step + 1] = nearest.index_select(0, pick)
        torch.minimum(nearest, distances_to(rows, pick), out=nearest)
        nearest.index_fill_(0, pick, -1.0)
        if advance is not None:
            advance(1)
    return Ranking(indices, gains)


def distances_to(rows: Tensor, item: Tensor) -> Tensor:
    """Euclidean distance of every row to one of them (``item`` ``[1]``), ``[N]``; exactly zero for its duplicates."""
    return torch.cdist(rows, rows.index_select(0, item), compute_mode="donot_use_mm_for_euclid_dist").squeeze(1)


def _closeness_to_mean(rows: Tensor) -> Tensor:
    mean = rows.mean(dim=0, dtype=accumulator_dtype(rows.device)).float()
    return -torch.cdist(rows, mean.unsqueeze(0), compute_mode="donot_use_mm_for_euclid_dist").squeeze(1)
