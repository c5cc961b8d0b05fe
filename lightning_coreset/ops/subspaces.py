"""Coverage of random subspaces, less redundancy: what an item is worth without any label."""

import torch
from torch import Tensor

from lightning_coreset.ops.neighbors import places_of_largest
from lightning_coreset.ops.rows import accumulator_dtype, first_argmax, normalize_rows

_DRAWN_AT_ONCE = 64
_PENALTY_POWER = 4


def subspace_scores(
    features: Tensor, generator: torch.Generator, *, samples: int, dimensions: int = 2, neighbors: int = 1000
) -> Tensor:
    """How often an item is the nearest to a random point of a random subspace, less what its neighbours cover.

    For each sample: draw ``dimensions`` columns and a point in them, each coordinate triangular between the column's
    smallest and largest value with its peak at the median. The nearest item (L1) gains 1. Its ``neighbors`` nearest
    others in the subspace lose 1 in all, shared by ``distance^-4``; where others lie on it, the first of them loses 1.

    Args:
        features: ``[N, d]``; rows are normalised here.
        generator: Of all draws, on the CPU.
        samples: Number of points drawn.
        dimensions: Columns of a subspace, at most ``d``.
        neighbors: Items that share a loss, at most ``N - 1``.

    Returns:
        ``[N]``, float64 where there is any. O(samples N dimensions) time; O(N d) memory for the unit rows and O(N) for
        each of 64 points at a time.

    References:
        ZCore (Griffin et al. 2024).

    Example:
        >>> rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
        >>> subspace_scores(rows, torch.Generator().manual_seed(0), samples=50).argmin().item()
        2
    """
    rows = normalize_rows(features)
    size, width = rows.shape
    dimensions, neighbors = min(dimensions, width), min(neighbors, size - 1)
    low, high, peak = rows.amin(dim=0), rows.amax(dim=0), rows.median(dim=0).values
    columns = rows.T.contiguous()
    scores = torch.zeros(size, dtype=accumulator_dtype(rows.device), device=rows.device)
    for start in range(0, samples, _DRAWN_AT_ONCE):
        # Always so many, so that the points do not depend on how many are asked for.
        drawn = torch.rand(_DRAWN_AT_ONCE, width, generator=generator).argsort(dim=1)[:, :dimensions]
        share = torch.rand(_DRAWN_AT_ONCE, dimensions, generator=generator)
        count = min(_DRAWN_AT_ONCE, samples - start)
        drawn, share = drawn[:count].to(rows.device), share[:count].to(rows.device)
        points = _triangular(share, low[drawn], peak[drawn], high[drawn])
        nearest = first_argmax(-_distances(columns, drawn, points), dim=1)
        scores.index_add_(0, nearest, torch.ones_like(nearest, dtype=scores.dtype))
        if neighbors:
            away = _distances(columns, drawn, rows[nearest[:, None], drawn])
            _subtract(scores, away.scatter_(1, nearest[:, None], torch.inf), neighbors)
    return scores


def _distances(columns: Tensor, drawn: Tensor, points: Tensor) -> Tensor:
    """L1 distance of every item to each point in its subspace ``[b, N]``."""
    distances = torch.zeros(len(drawn), columns.shape[1], device=columns.device)
    for place in range(drawn.shape[1]):
        distances += (columns[drawn[:, place]] - points[:, place, None]).abs_()
    return distances


def _triangular(share: Tensor, low: Tensor, peak: Tensor, high: Tensor) -> Tensor:
    """Where a triangular distribution reaches a share of its mass."""
    rising, falling = peak - low, high - peak
    below = share * (high - low) < rising
    up = low + (share * (high - low) * rising).sqrt()
    down = high - ((1 - share) * (high - low) * falling).sqrt()
    return torch.where(below, up, down)


def _subtract(scores: Tensor, away: Tensor, neighbors: int) -> None:
    """Take 1 in all from the neighbours of each point's nearest item; ``away`` is infinite at that item ``[b, N]``."""
    places = places_of_largest(-away, neighbors)
    values = away.gather(1, places)
    closest, first = values.amin(dim=1, keepdim=True), first_argmax(-away, dim=1)
    # Relative to the closest, so that powers neither overflow nor vanish.
    losses = (closest / values).to(scores.dtype).pow_(_PENALTY_POWER)
    losses /= losses.sum(dim=1, keepdim=True)
    on_it = closest.squeeze(1) == 0
    scores.index_add_(0, places[~on_it].flatten(), losses[~on_it].flatten(), alpha=-1)
    scores.index_add_(0, first[on_it], torch.ones_like(first[on_it], dtype=scores.dtype), alpha=-1)
