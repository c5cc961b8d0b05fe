"""Facility location: every item has someone chosen who is like it. Exact lazy greedy, dense or streamed."""

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_coreset.ops.rows import Ranking, as_positions, candidate_mask, first_argmax
from lightning_coreset.ops.similarity import ExactMode, SimilarityKind, SimilarityRows

_LAZY_ROWS = 16
_STREAMED_ROWS = 64
_MOST_ROWS = 128


def facility_location(
    features: Tensor,
    count: int,
    *,
    candidate_weights: Tensor | None = None,
    item_weights: Tensor | None = None,
    similarity: SimilarityKind = "cosine",
    initial: Tensor | None = None,
    forbidden: Tensor | None = None,
    mode: ExactMode | None = None,
    memory_limit: int | str | None = None,
    advance: Callable[[int], object] | None = None,
) -> Ranking:
    """Greedy on ``f(A) = sum_i w_i max(0, max_{j in A} d_j s_ij)``, the same picks as naive greedy.

    Args:
        features: ``[N, d]``; rows are normalised here.
        count: Number of picks ``k``.
        candidate_weights: ``d_j``, how much a candidate's similarities count ``[N]``, not negative; None is one.
        item_weights: ``w_i``, how much an item's being represented counts ``[N]``, not negative; None is one.
        similarity: ``"cosine"`` (negative values count as 0) or ``"shifted"``, (1 + cosine) / 2.
        initial: Rows whose coverage the first pick starts from ``[m]``; not returned.
        forbidden: Rows that may not be picked ``[f]``; they still must be covered.
        mode: ``"dense"`` keeps the pairwise matrix, ``"streamed"`` computes rows again; None chooses by
            ``memory_limit``. The picks are the same.
        memory_limit: Bytes the dense matrix may take; None is half of what is free.
        advance: Called with the number of picks made since the last call, for a progress bar.

    Returns:
        Picks in order and their gains. Dense: one product O(N^2 d), then O(N) for each candidate looked at again,
        ``4 N^2`` bytes. Streamed: O(N d) for each candidate looked at again, O(N) memory beyond blocks of rows.

    Raises:
        ValueError: Weights of a wrong shape or negative, overlapping or unknown positions, too many picks.

    References:
        Minoux 1978 (lazy greedy); apricot (Schreiber et al. 2020).

    Example:
        >>> facility_location(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), 2).indices.tolist()
        [1, 2]
    """
    rows = SimilarityRows(features, kind=similarity, mode=mode, memory_limit=memory_limit)
    return facility_location_greedy(
        rows,
        count,
        candidate_weights=candidate_weights,
        item_weights=item_weights,
        initial=initial,
        forbidden=forbidden,
        advance=advance,
    )


def facility_location_greedy(
    similarity: SimilarityRows,
    count: int,
    *,
    candidate_weights: Tensor | None = None,
    item_weights: Tensor | None = None,
    initial: Tensor | None = None,
    forbidden: Tensor | None = None,
    advance: Callable[[int], object] | None = None,
) -> Ranking:
    """`facility_location` from similarities that are there already."""
    device = similarity.features.device
    chosen = as_positions(initial, similarity.size, "initial", device)
    banned = as_positions(forbidden, similarity.size, "forbidden", device)
    candidates = candidate_mask(similarity.size, chosen, banned, count)
    objective = _Objective(
        similarity,
        _check_weights(candidate_weights, similarity, "candidate_weights"),
        _check_weights(item_weights, similarity, "item_weights"),
    )
    # An empty tensor splits into one empty part.
    for part in chosen.split(_STREAMED_ROWS) if len(chosen) else ():
        objective.cover(part)
    bounds = objective.all_gains().masked_fill_(~candidates, -torch.inf)
    if device.type != "cpu" and similarity.mode == "dense":
        return _greedy_on_device(objective, bounds, count, advance)
    return _lazy_greedy(objective, bounds, count, advance)


class _Objective:
    """Gains of candidates over what is covered so far."""

    def __init__(
        self, similarity: SimilarityRows, candidate_weights: Tensor | None, item_weights: Tensor | None
    ) -> None:
        self.similarity = similarity
        self.candidate_weights = candidate_weights
        self.item_weights = item_weights
        self.covered = torch.zeros(similarity.size, device=similarity.features.device)

    def gains(self, indices: Tensor) -> Tensor:
        """Marginal gains of some candidates ``[b]``."""
        return self._gains(self._weighted(self.similarity.rows(indices), indices))

    def all_gains(self) -> Tensor:
        """Marginal gains of all items ``[N]``."""
        gains = torch.empty(self.similarity.size, device=self.covered.device)
        for part, values in self.similarity.blocks():
            weights = None if self.candidate_weights is None else self.candidate_weights[part, None]
            fresh = values - self.covered if weights is None else (values * weights).sub_(self.covered)
            gains[part] = self._sum(fresh)
        return gains

    def cover(self, indices: Tensor) -> None:
        """Add items to the chosen set."""
        rows = self._weighted(self.similarity.rows(indices), indices)
        torch.maximum(self.covered, rows.amax(dim=0), out=self.covered)

    def _weighted(self, rows: Tensor, indices: Tensor) -> Tensor:
        return rows if self.candidate_weights is None else rows.mul_(self.candidate_weights[indices, None])

    def _gains(self, rows: Tensor) -> Tensor:
        return self._sum(rows.sub_(self.covered))

    def _sum(self, improvements: Tensor) -> Tensor:
        improvements.clamp_(min=0)
        if self.item_weights is not None:
            improvements.mul_(self.item_weights)
        return improvements.sum(dim=1)


def _lazy_greedy(objective: _Objective, bounds: Tensor, count: int, advance: Callable[[int], object] | None) -> Ranking:
    """Gains only shrink, so a candidate whose fresh gain beats all old bounds is the best without looking further.

    Old bounds are evaluated in blocks, the largest first. Rounding keeps the order: each term of a gain shrinks
    monotonically and terms are always added in the same order.
    """
    first_look = _LAZY_ROWS if objective.similarity.mode == "dense" else _STREAMED_ROWS
    fresh_at = torch.zeros(len(bounds), dtype=torch.int64, device=bounds.device)
    indices: list[int] = []
    gains: list[float] = []
    for step in range(count):
        look_at = first_look
        while True:
            pick = int(first_argmax(bounds))
            # A bound of zero is exact: gains are never negative.
            if fresh_at[pick] == step or bounds[pick] <= 0:
                break
            old = torch.where(fresh_at < step, bounds, -torch.inf)
            look = old.topk(min(look_at, len(bounds))).indices
            look = look[torch.isfinite(old[look])]
            bounds[look] = objective.gains(look)
            fresh_at[look] = step
            # Where old bounds say little, fewer and larger blocks cost less.
            look_at = min(2 * look_at, _MOST_ROWS)
        indices.append(pick)
        gains.append(float(bounds[pick]))
        objective.cover(torch.tensor([pick], device=bounds.device))
        bounds[pick] = -torch.inf
        if advance is not None:
            advance(1)
    return Ranking(torch.tensor(indices, device=bounds.device), torch.tensor(gains, device=bounds.device))


def _greedy_on_device(
    objective: _Objective, gains: Tensor, count: int, advance: Callable[[int], object] | None
) -> Ranking:
    """Every gain again for every pick: no synchronisation with the host until the end."""
    excluded = torch.isinf(gains)
    indices = torch.empty(count, dtype=torch.int64, device=gains.device)
    values = torch.empty(count, device=gains.device)
    for step in range(count):
        if step:
            gains = objective.all_gains().masked_fill_(excluded, -torch.inf)
        pick = first_argmax(gains).unsqueeze(0)
        indices[step : step + 1] = pick
        values[step : step + 1] = gains.index_select(0, pick)
        excluded.index_fill_(0, pick, True)
        objective.cover(pick)
        if advance is not None:
            advance(1)
    return Ranking(indices, values)


def _check_weights(weights: Tensor | None, similarity: SimilarityRows, name: str) -> Tensor | None:
    if weights is None:
        return None
    weights = torch.as_tensor(weights, dtype=torch.float32, device=similarity.features.device)
    if weights.shape != (similarity.size,) or not bool((torch.isfinite(weights) & (weights >= 0)).all()):
        msg = f"{name} have shape {list(weights.shape)}: give {similarity.size} finite weights, none negative."
        raise ValueError(msg)
    return weights
