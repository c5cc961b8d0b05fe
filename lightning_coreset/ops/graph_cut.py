"""Graph cut: like the pool, unlike each other, without ever forming a pairwise matrix."""

from collections.abc import Callable
from numbers import Integral

import torch
from torch import Tensor

from lightning_coreset.ops.reducer import Reducer
from lightning_coreset.ops.rows import (
    Ranking,
    as_positions,
    candidate_mask,
    column_sum,
    converted,
    first_argmax,
    first_equal_row,
    normalize_rows,
)
from lightning_coreset.ops.sharded import Shards, pool_positions, sharded_greedy

_BLOCK_ROWS = 8_192


def graph_cut(
    features: Tensor,
    count: int,
    *,
    lam: float = 1.0,
    initial: Tensor | None = None,
    forbidden: Tensor | None = None,
    reducer: Reducer | None = None,
    advance: Callable[[int], object] | None = None,
) -> Ranking:
    """Greedy on ``gain(j) = lam * sum_V s_ij - 2 * sum_{a chosen} s_ja`` with cosine similarity.

    For a dot product both sums are one matrix-vector product: the first is ``X (X^T 1)``, and each pick adds
    ``X x_a`` to the second. Gains turn negative on the way, which does not end the selection.

    Args:
        features: ``[N, d]``; rows are normalised here.
        count: Number of picks ``k``.
        lam: Weight of representing the pool against repeating oneself.
        initial: Rows that count as chosen already ``[m]``; not returned.
        forbidden: Rows that may not be picked ``[f]``; they stay in the pool that must be represented.
        reducer: Ranks that hold one pool together, in order, each whole blocks of 64 rows: then ``features`` are this
            rank's, and positions are those in the pool.
        advance: Called with the number of picks made since the last call, for a progress bar.

    Returns:
        Picks in order and their gains. O(k N d) time, O(N) memory beyond the normalised features.

    Raises:
        ValueError: Overlapping or unknown positions, or more picks than candidates.

    References:
        Iyer and Bilmes 2013; Dataset Quantization (Zhou et al. 2023), Eq. 2.

    Example:
        >>> graph_cut(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), 2).indices.tolist()
        [1, 2]
    """
    rows = normalize_rows(features)
    if reducer is not None and reducer.world_size > 1:
        return _over_ranks(Shards(rows, reducer), count, lam, initial, forbidden, advance)
    chosen = as_positions(initial, len(rows), "initial", rows.device)
    banned = as_positions(forbidden, len(rows), "forbidden", rows.device)
    candidates = candidate_mask(len(rows), chosen, banned, count)

    equal = first_equal_row(rows)
    gains = _first_gains(rows, equal, lam, chosen)
    return _greedy(rows, equal, gains.masked_fill_(~candidates, -torch.inf), count, advance)


def _over_ranks(
    shards: Shards,
    count: int,
    lam: float,
    initial: Tensor | None,
    forbidden: Tensor | None,
    advance: Callable[[int], object] | None,
) -> Ranking:
    chosen, banned = (
        pool_positions(shards, given, name) for given, name in ((initial, "initial"), (forbidden, "forbidden"))
    )
    gains = lam * _sum_of_similarities(shards.rows, shards.sum())
    if len(chosen):
        gains -= 2 * _sum_of_similarities(shards.rows, shards.at(chosen).sum(dim=0, dtype=gains.dtype))

    def choose(row: Tensor) -> None:
        gains.sub_(torch.mv(shards.rows, row.squeeze(0)), alpha=2)

    return sharded_greedy(
        shards, count, chosen=chosen, banned=banned, values=lambda: gains, choose=choose, advance=advance
    )


def graph_cut_bins(
    features: Tensor,
    bins: int,
    *,
    lam: float = 1.0,
    normalize: bool = True,
    advance: Callable[[int], object] | None = None,
) -> Tensor:
    """Split a pool into bins, each one a greedy graph cut of what the bins before it left.

    Every bin starts with nothing chosen, and what it must represent is what is left. Sizes differ by one at most,
    larger bins first; more bins than rows give one row to each.

    Args:
        features: ``[N, d]``; rows are normalised here.
        bins: Number of bins.
        lam: Weight of representing what is left against repeating oneself.
        normalize: False takes dot products of the rows as they are.
        advance: Called with the number of rows put into a bin since the last call, for a progress bar.

    Returns:
        Bin of each row ``[N]``, int64, 0 the first. O(N^2 d) time (O(N d) a pick), O(N) memory beyond one copy of the
        features.

    Raises:
        ValueError: ``bins`` is not a whole number of at least 1.

    References:
        Dataset Quantization (Zhou et al. 2023), Eq. 1 and 2.

    Example:
        >>> graph_cut_bins(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]]), 2).tolist()
        [1, 0, 1, 0]
    """
    if isinstance(bins, bool) or not isinstance(bins, Integral) or bins < 1:
        msg = f"bins={bins!r} is not accepted: give a whole number of at least 1."
        raise ValueError(msg)
    # A copy of one's own, because what is left moves to its front.
    rows = normalize_rows(features) if normalize else features.to(torch.float32, copy=True)
    size = len(rows)
    bins = min(int(bins), size)
    left = torch.arange(size, device=rows.device)
    # Whatever the bins before the last one leave is the last one.
    found = torch.full((size,), bins - 1, dtype=torch.int64, device=rows.device)
    nothing = left[:0]
    for number in range(bins - 1):
        count = size // bins + (number < size % bins)
        rest = rows[: len(left)]
        equal = first_equal_row(rest)
        picks = _greedy(rest, equal, _first_gains(rest, equal, lam, nothing), count, advance).indices
        found[left[picks]] = number
        kept = torch.ones(len(left), dtype=torch.bool, device=rows.device)
        kept[picks] = False
        places = torch.nonzero(kept).flatten()
        _move_to_front(rows, places)
        left = left[places]
    if advance is not None:
        advance(len(left))
    return found


def _move_to_front(rows: Tensor, places: Tensor) -> None:
    """Keep the rows at ascending places, in place: none of them moves onto one that is still to be moved."""
    for start in range(0, len(places), _BLOCK_ROWS):
        part = places[start : start + _BLOCK_ROWS]
        rows[start : start + len(part)] = rows.index_select(0, part)


def _first_gains(rows: Tensor, equal: Tensor | None, lam: float, chosen: Tensor) -> Tensor:
    """Gains before the first pick ``[N]``."""
    gains = lam * _sum_of_similarities(rows, column_sum(rows))
    if len(chosen):
        gains -= 2 * _sum_of_similarities(rows, column_sum(rows[chosen]))
    return gains if equal is None else gains[equal]


def _greedy(
    rows: Tensor, equal: Tensor | None, gains: Tensor, count: int, advance: Callable[[int], object] | None
) -> Ranking:
    """The picks as tensors of one element: indexing with less would wait for the device each time."""
    indices = torch.empty(count, dtype=torch.int64, device=rows.device)
    values = torch.empty(count, dtype=gains.dtype, device=rows.device)
    for step in range(count):
        pick = first_argmax(gains).unsqueeze(0)
        indices[step : step + 1] = pick
        values[step : step + 1] = gains.index_select(0, pick)
        repeated = torch.mv(rows, rows.index_select(0, pick).squeeze(0))
        gains.sub_(repeated if equal is None else repeated.index_select(0, equal), alpha=2)
        gains.index_fill_(0, pick, -torch.inf)
        if advance is not None:
            advance(1)
    return Ranking(indices, values.float())


def _sum_of_similarities(rows: Tensor, total: Tensor) -> Tensor:
    """``X @ total`` in the precision of ``total``: it is large beside the differences that decide, ``[N]``."""
    return torch.cat([part @ total for part in converted(rows, total.dtype)])
