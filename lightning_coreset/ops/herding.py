"""Herding: picks whose running mean follows the mean of the pool."""

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_coreset.ops.reducer import Reducer
from lightning_coreset.ops.rows import (
    as_positions,
    candidate_mask,
    column_sum,
    first_argmax,
    first_equal_row,
    normalize_rows,
)
from lightning_coreset.ops.sharded import Shards, pool_positions, sharded_greedy


def herding(
    features: Tensor,
    count: int,
    *,
    initial: Tensor | None = None,
    forbidden: Tensor | None = None,
    reducer: Reducer | None = None,
    advance: Callable[[int], object] | None = None,
) -> Tensor:
    """Greedy on the distance of the chosen items' sum to that many times the mean.

    At step ``t`` (``initial`` counted) the pick is ``argmin_j ||(t + 1) mu - sum_chosen x - x_j||``.

    Args:
        features: ``[N, d]``; rows are normalised here.
        count: Number of picks ``k``.
        initial: Rows whose sum the first pick starts from ``[m]``; not returned.
        forbidden: Rows that may not be picked ``[f]``; they stay in the mean.
        reducer: Ranks that hold one pool together, in order, each whole blocks of 64 rows: then ``features`` are this
            rank's, and positions are those in the pool.
        advance: Called with the number of picks made since the last call, for a progress bar.

    Returns:
        Picks in order ``[k]``. O(k N d) time, O(N) memory beyond the normalised features.

    Raises:
        ValueError: Overlapping or unknown positions, or more picks than candidates.

    References:
        Welling 2009; iCaRL (Rebuffi et al. 2017).

    Example:
        >>> herding(torch.tensor([[1.0, 0.0], [0.7, 0.7], [0.0, 1.0]]), 1).tolist()
        [1]
    """
    rows = normalize_rows(features)
    if reducer is not None and reducer.world_size > 1:
        return _over_ranks(Shards(rows, reducer), count, initial, forbidden, advance)
    chosen = as_positions(initial, len(rows), "initial", rows.device)
    banned = as_positions(forbidden, len(rows), "forbidden", rows.device)
    excluded = ~candidate_mask(len(rows), chosen, banned, count)

    mean = column_sum(rows) / len(rows)
    # ||r - x||^2 = ||r||^2 - 2 r.x + ||x||^2, and the first term is the same for all.
    squares = (rows * rows).sum(dim=1)
    residual = mean * (len(chosen) + 1) - column_sum(rows[chosen])
    equal = first_equal_row(rows)
    indices = torch.empty(count, dtype=torch.int64, device=rows.device)
    for step in range(count):
        closeness = torch.mv(rows, residual.float()).mul_(2).sub_(squares)
        closeness = closeness if equal is None else closeness.index_select(0, equal)
        # A tensor of one element: indexing with less would wait for the device each time.
        pick = first_argmax(closeness.masked_fill_(excluded, -torch.inf)).unsqueeze(0)
        indices[step : step + 1] = pick
        excluded.index_fill_(0, pick, True)
        residual += mean - rows.index_select(0, pick).squeeze(0)
        if advance is not None:
            advance(1)
    return indices


def _over_ranks(
    shards: Shards,
    count: int,
    initial: Tensor | None,
    forbidden: Tensor | None,
    advance: Callable[[int], object] | None,
) -> Tensor:
    chosen, banned = (
        pool_positions(shards, given, name) for given, name in ((initial, "initial"), (forbidden, "forbidden"))
    )
    mean = shards.sum() / shards.total
    residual = mean * (len(chosen) + 1) - shards.at(chosen).sum(dim=0, dtype=mean.dtype)
    squares = (shards.rows * shards.rows).sum(dim=1)

    def choose(row: Tensor) -> None:
        residual.add_(mean - row.squeeze(0))

    return sharded_greedy(
        shards,
        count,
        chosen=chosen,
        banned=banned,
        values=lambda: torch.mv(shards.rows, residual.float()).mul_(2).sub_(squares),
        choose=choose,
        advance=advance,
    ).indices
