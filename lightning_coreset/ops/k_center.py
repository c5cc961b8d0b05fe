"""Farthest-first selection: no item far from all chosen ones."""

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_coreset.ops.reducer import Reducer
from lightning_coreset.ops.rows import (
    Ranking,
    as_positions,
    candidate_mask,
    column_sum,
    first_argmax,
    normalize_rows,
)
from lightning_coreset.ops.sharded import Shards, pool_positions, sharded_greedy

_FARTHEST_ON_THE_SPHERE = 2.0
# Squared distances by a product of unit rows are off by less than this.
_ROUNDING_OF_SQUARES = 1e-4
# Where more rows than this share are left a product is cheaper than measuring them,
_WORTH_MULTIPLYING = 0.1
# and gathering more than this share costs more than measuring all of them.
_WORTH_GATHERING = 0.5


def k_center(
    features: Tensor,
    count: int,
    *,
    start: int | None = None,
    initial: Tensor | None = None,
    forbidden: Tensor | None = None,
    reducer: Reducer | None = None,
    advance: Callable[[int], object] | None = None,
) -> Ranking:
    """Greedy k-center: each pick is the candidate farthest from all items chosen so far.

    One running vector holds the distance of every item to its nearest chosen one. Distances are taken from
    differences, not from a product, so duplicates are at distance zero exactly. On CPUs items are passed over whose
    chosen one is so far from the new pick that, by the triangle inequality, it stays the nearest (Elkan 2003), or for
    which a product tells it.

    Args:
        features: ``[N, d]``; rows are normalised here.
        count: Number of picks ``k``, the start included.
        start: First pick; None takes the candidate nearest to the mean of the normalised rows, or starts from
            ``initial`` where that is given.
        initial: Rows that count as chosen already ``[m]``; not returned.
        forbidden: Rows that may not be picked ``[f]``.
        reducer: Ranks that hold one pool together, in order, each whole blocks of 64 rows: then ``features`` are this
            rank's, and positions are those in the pool.
        advance: Called with the number of picks made since the last call, for a progress bar.

    Returns:
        Picks in order; ``gains`` are their distances to what was chosen before them (never growing; 2, the largest
        distance on the sphere, for a start from nothing). O(k N d) time at most, less where the pool has clusters;
        O(N + k d) memory beyond the normalised features.

    Raises:
        ValueError: Overlapping or unknown positions, a start that may not be picked, or more picks than candidates.

    References:
        Gonzalez 1985; core-set (Sener and Savarese 2018).

    Example:
        >>> k_center(torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]), 2, start=0).indices.tolist()
        [0, 2]
    """
    rows = normalize_rows(features)
    if reducer is not None and reducer.world_size > 1:
        return _over_ranks(Shards(rows, reducer), count, start, initial, forbidden, advance)
    chosen = as_positions(initial, len(rows), "initial", rows.device)
    banned = as_positions(forbidden, len(rows), "forbidden", rows.device)
    candidates = candidate_mask(len(rows), chosen, banned, count)
    _check_start(start, candidates)

    nearest = NearestCenters(rows, len(chosen) + count)
    for item in chosen.split(1) if len(chosen) else ():
        nearest.add(rows.index_select(0, item))
    nearest.exclude(~candidates)

    first: Tensor | None = None
    if start is not None:
        first = torch.tensor([start], device=rows.device)
    elif not len(chosen):
        mean = (column_sum(rows) / len(rows)).float()
        first = first_argmax(_closeness(rows, mean).masked_fill_(~candidates, -torch.inf)).unsqueeze(0)
    return _greedy(rows, nearest, first, count, advance)


def _check_start(start: int | None, candidates: Tensor) -> None:
    if start is not None and (not 0 <= start < len(candidates) or not bool(candidates[start])):
        msg = (
            f"start={start} is not accepted: give a row from 0 to {len(candidates) - 1} that is neither initial nor "
            "forbidden."
        )
        raise ValueError(msg)


def _over_ranks(
    shards: Shards,
    count: int,
    start: int | None,
    initial: Tensor | None,
    forbidden: Tensor | None,
    advance: Callable[[int], object] | None,
) -> Ranking:
    chosen, banned = (
        pool_positions(shards, given, name) for given, name in ((initial, "initial"), (forbidden, "forbidden"))
    )
    _check_start(start, candidate_mask(shards.total, chosen, banned, count))
    nearest = NearestCenters(shards.rows, len(chosen) + count)
    for row in shards.at(chosen).split(1) if len(chosen) else ():
        nearest.add(row)
    first: tuple[Tensor, float] | None = None
    if start is not None:
        own = shards.own(torch.tensor([start], device=shards.rows.device))
        reached = shards.best(torch.full_like(nearest.distances, -torch.inf).index_copy(0, own, nearest.distances[own]))
        first = torch.full_like(nearest.distances, -torch.inf).index_fill_(0, own, 1.0), reached.value
    elif not len(chosen):
        mean = (shards.sum() / shards.total).float()
        first = _closeness(shards.rows, mean), _FARTHEST_ON_THE_SPHERE
    return sharded_greedy(
        shards,
        count,
        chosen=chosen,
        banned=banned,
        values=lambda: nearest.distances,
        choose=nearest.add,
        first=first,
        advance=advance,
    )


def _greedy(
    rows: Tensor,
    nearest: "NearestCenters",
    first: Tensor | None,
    count: int,
    advance: Callable[[int], object] | None,
) -> Ranking:
    """The picks as tensors of one element: indexing with less would wait for the device each time."""
    indices = torch.empty(count, dtype=torch.int64, device=rows.device)
    gains = torch.empty(count, device=rows.device)
    for step in range(count):
        pick = first if step == 0 and first is not None else first_argmax(nearest.distances).unsqueeze(0)
        indices[step : step + 1] = pick
        gains[step : step + 1] = nearest.distances.index_select(0, pick)
        nearest.add(rows.index_select(0, pick))
        nearest.distances.index_fill_(0, pick, -1.0)
        if advance is not None:
            advance(1)
    return Ranking(indices, gains)


class NearestCenters:
    """Distance of every row to the nearest of a growing set of centres.

    Args:
        rows: Unit rows ``[N, d]``.
        most: Centres to come, at most.

    Attributes:
        distances: ``[N]``; 2, the largest on the sphere, before the first centre.
    """

    def __init__(self, rows: Tensor, most: int) -> None:
        self._rows = rows
        self.distances = torch.full((len(rows),), _FARTHEST_ON_THE_SPHERE, device=rows.device)
        # Which rows to look at is read by the host, and a GPU should not wait for that.
        self._prunes = rows.device.type == "cpu"
        self._centers = rows.new_empty(most if self._prunes else 0, rows.shape[1])
        self._owner = torch.zeros(len(rows) if self._prunes else 0, dtype=torch.int64)
        self._count = 0
        self._try_triangles_at = 0

    def add(self, center: Tensor) -> None:
        """Take one more centre in ``[1, d]``."""
        if not self._prunes:
            torch.minimum(self.distances, _distances(self._rows, center), out=self.distances)
            return
        near = self._reachable(center)
        self._centers[self._count] = center
        if near is None:
            found = _distances(self._rows, center)
            self._owner[found < self.distances] = self._count
            torch.minimum(self.distances, found, out=self.distances)
        elif len(near):
            found = _distances(self._rows[near], center)
            closer = found < self.distances[near]
            self.distances[near[closer]] = found[closer]
            self._owner[near[closer]] = self._count
        self._count += 1

    def exclude(self, mask: Tensor) -> None:
        """Give rows that must not be picked the distance -1, below every other, which no minimum changes."""
        self.distances.masked_fill_(mask, -1.0)

    def _reachable(self, center: Tensor) -> Tensor | None:
        """Rows that the centre may be nearer to than their own; None where that is most of them."""
        if self._count == 0:
            return None
        # Squared distances from a product are quick, and near enough to tell who is surely farther.
        nearest = self.distances * self.distances.abs() + _ROUNDING_OF_SQUARES
        within: Tensor | None = None
        if self._count >= self._try_triangles_at:
            between = _squares(self._centers[: self._count], center)
            within = 4 * nearest > between[self._owner]
            if int(within.sum()) <= _WORTH_MULTIPLYING * len(within):
                return torch.nonzero(within).flatten()
            # Without clusters it never pays: ask again when there are many more centres.
            self._try_triangles_at = self._count + self._count // 8 + 1
        farther = _squares(self._rows, center) >= nearest
        near = torch.nonzero(~farther if within is None else within & ~farther).flatten()
        return None if len(near) > _WORTH_GATHERING * len(farther) else near


def distances_to(rows: Tensor, item: Tensor) -> Tensor:
    """Euclidean distance of every row to one of them (``item`` ``[1]``), ``[N]``; exactly zero for its duplicates."""
    return _distances(rows, rows.index_select(0, item))


def _squares(rows: Tensor, center: Tensor) -> Tensor:
    """Squared distances of unit rows, up to rounding ``[N]``; a row of zeros is nearer than this."""
    return torch.mv(rows, center.squeeze(0)).mul_(-2).add_(1 + center.square().sum())


def _distances(rows: Tensor, center: Tensor) -> Tensor:
    return torch.cdist(rows, center, compute_mode="donot_use_mm_for_euclid_dist").squeeze(1)


def _closeness(rows: Tensor, mean: Tensor) -> Tensor:
    return -_distances(rows, mean.unsqueeze(0))
